//! What the replay came to: the balance equation, spend by model and day, and how to go on.

use std::collections::{BTreeMap, HashMap};

use crate::demo::DemoError;
use crate::demo::replay::Replay;
use crate::demo::world::World;
use crate::domain::credits::Credits;
use crate::domain::event::Event;
use crate::domain::ids::{OrgId, ReservationId};
use crate::domain::lots::Balance;
use crate::ledger::LedgerError;
use crate::operations::list_events::list_events;

/// Events read at a time.
const PAGE_EVENTS: i64 = 1_000;
/// The longest bar of the chart.
const BAR_CHARACTERS: i64 = 40;

/// What an org's events say. Its ledger may be an earlier demo's, with holds that were cut off and whatever else was done since.
#[derive(Debug, Default)]
struct Spend {
    by_model_and_day: BTreeMap<(String, String), Credits>,
    consumed: Credits,
    open: HashMap<ReservationId, Credits>,
    alerts: u64,
}

/// Prints the report; returns the difference where the books do not balance.
pub async fn print(world: &World, replay: &Replay) -> Result<Option<String>, DemoError> {
    let mut difference = None;
    println!(
        "\nReplayed: {} answered ({} by a fallback), {} refused for want of credits, {} broke off midway, {} failed",
        replay.answered,
        replay.fallbacks,
        replay.refused,
        replay.broken,
        replay.failures.values().sum::<u64>()
    );
    for (what, count) in &replay.failures {
        println!("  {count} × {what}");
    }
    for (slug, org) in world.org_ids() {
        let (version, balance) =
            read(world, org).await.map_err(|error| DemoError::SetUp(error.to_string()))?;
        let spend = spend(world, org, version).await.map_err(|error| DemoError::SetUp(error.to_string()))?;
        print_org(slug, &balance, &spend);
        difference = difference.or_else(|| imbalance(slug, &balance, &spend));
    }
    println!(
        "\n{}",
        if difference.is_none() {
            "The books balance to the nanocredit."
        } else {
            "THE BOOKS DO NOT BALANCE."
        }
    );
    Ok(difference)
}

/// With the version of its last event.
async fn read(world: &World, org: OrgId) -> Result<(i64, Balance), LedgerError> {
    // What is due counts at once, and is to be among the events.
    world.ledger.sweep()?;
    world.ledger.read(org, |account| (account.version, account.balance())).await
}

async fn spend(world: &World, org: OrgId, version: i64) -> Result<Spend, LedgerError> {
    let mut spend = Spend::default();
    let mut after = 0;
    while after < version {
        let events = list_events(&world.ledger, org, after, PAGE_EVENTS).await?;
        let Some(last) = events.last() else { break };
        after = last.version;
        for stored in events.into_iter().filter(|stored| stored.version <= version) {
            let day = stored.recorded_at.to_rfc3339().chars().take(10).collect();
            spend.note(day, stored.payload.event);
        }
    }
    Ok(spend)
}

impl Spend {
    fn note(&mut self, day: String, event: Event) {
        match event {
            Event::CreditsReserved { reservation, credits, .. }
            | Event::ReservationGrown { reservation, credits, .. } => {
                let open = self.open.entry(reservation).or_default();
                *open = open.saturating_add(credits);
            }
            Event::ReservationSettled { reservation, charged, charged_before, purpose, .. } => {
                self.open.remove(&reservation);
                let charged = charged.saturating_sub(charged_before);
                let model = purpose.model.unwrap_or_default();
                let sum = self.by_model_and_day.entry((day, model)).or_default();
                *sum = sum.saturating_add(charged);
                self.consume(charged);
            }
            Event::ReservationExpired { reservation, charged, .. } => {
                self.open.remove(&reservation);
                self.consume(charged);
            }
            Event::ReservationReleased { reservation, .. } => _ = self.open.remove(&reservation),
            Event::CreditsAdjusted { terms: None, credits, .. } => self.consume(credits.abs()),
            Event::AlertRaised { .. } => self.alerts += 1,
            _ => {}
        }
    }

    fn consume(&mut self, credits: Credits) {
        self.consumed = self.consumed.saturating_add(credits);
    }
}

fn print_org(slug: &str, b: &Balance, spend: &Spend) {
    println!("\n{slug}");
    println!("  granted {} + overdraft {}", b.granted, b.overdraft_limit);
    println!(
        "  = available {} + held {} + consumed {} + expired {} + refunded {}",
        b.available, b.held, b.consumed, b.expired, b.refunded
    );
    println!("  alerts: {}", spend.alerts);
    let most = spend.by_model_and_day.values().copied().max().unwrap_or_default().nanos().max(1);
    for ((day, model), credits) in &spend.by_model_and_day {
        let characters = credits.mul_div(BAR_CHARACTERS, most).map_or(0, Credits::nanos);
        let bar = "█".repeat(usize::try_from(characters).unwrap_or(0).max(1));
        println!("  {day}  {model:<28} {:<14} {bar}", credits.to_string());
    }
}

fn imbalance(slug: &str, b: &Balance, spend: &Spend) -> Option<String> {
    let left = b.granted.saturating_add(b.overdraft_limit);
    let right: Credits = [b.available, b.held, b.consumed, b.expired, b.refunded].into_iter().sum();
    if left != right {
        return Some(format!("{slug}: {left} was granted and {right} is accounted for"));
    }
    if b.consumed != spend.consumed {
        return Some(format!("{slug}: {} is consumed and {} was charged", b.consumed, spend.consumed));
    }
    let open: Credits = spend.open.values().copied().sum();
    (b.held != open).then(|| format!("{slug}: {} is held and {open} is in open holds", b.held))
}

/// How to ask it, for as long as it serves.
pub fn print_snippets(world: &World) {
    let (url, key) = (&world.url, &world.inference_key);
    println!(
        "\nTry it:\n  curl {url}/v1/chat/completions -H 'authorization: Bearer {key}' -H 'content-type: application/json' \\\n    \
         -d '{{\"model\": \"gpt-4o-mini\", \"messages\": [{{\"role\": \"user\", \"content\": \"Hello\"}}]}}'"
    );
    println!(
        "\n  from openai import OpenAI\n  client = OpenAI(base_url=\"{url}/v1\", api_key=\"{key}\")\n  \
         print(client.chat.completions.create(model=\"gpt-4o-mini\", messages=[{{\"role\": \"user\", \"content\": \"Hello\"}}]))"
    );
    println!("\nThe operator's key is {}", world.operator_key);
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::purpose::Purpose;
    use crate::domain::reservation::{Dispatcher, ExpiryPolicy};
    use crate::domain::time::Timestamp;

    /// An adjustment of one credit, a hold of two that was cut off, and one that ended with what is left of the charge.
    fn story(charged: i64) -> Vec<Event> {
        let credits = Credits::from_whole;
        let reservation = |n| ReservationId { org: OrgId(Uuid::nil()), local: Uuid::from_u128(n) };
        let hold = |n| Event::CreditsReserved {
            reservation: reservation(n),
            credits: credits(2),
            expires_at: Timestamp(60),
            expiry: ExpiryPolicy::ChargeBound,
            dispatcher: Dispatcher::Tollgate,
            price_book_version: 1,
            purpose: Purpose::default(),
            pins: vec![],
        };
        let adjusted = Event::CreditsAdjusted {
            credits: credits(-1),
            reason: "a correction".into(),
            terms: None,
            burned: vec![],
            repaid: Credits::ZERO,
        };
        let ended = Event::ReservationExpired {
            reservation: reservation(2),
            charged: credits(charged - 1),
            released: Credits::ZERO,
            burned: vec![],
            purpose: Purpose::default(),
            due_at: None,
        };
        vec![adjusted, hold(1), hold(2), ended]
    }

    #[test]
    fn books_that_do_not_balance_are_told_by_what_is_off() {
        let credits = Credits::from_whole;
        let balance = Balance {
            granted: credits(10),
            overdraft_limit: credits(1),
            available: credits(6),
            held: credits(2),
            consumed: credits(3),
            ..Balance::default()
        };
        let off = |balance, charged| {
            let mut spend = Spend::default();
            for event in story(charged) {
                spend.note("2026-11-28".into(), event);
            }
            imbalance("acme", &balance, &spend)
        };

        assert_eq!(off(balance, 3), None);
        for (balance, charged, what) in [
            (Balance { available: credits(7), ..balance }, 3, "accounted for"),
            (balance, 4, "was charged"),
            (Balance { available: credits(7), held: credits(1), ..balance }, 3, "in open holds"),
        ] {
            let said = off(balance, charged).expect("a difference");
            assert!(said.starts_with("acme: ") && said.ends_with(what), "{said}");
        }
    }
}
