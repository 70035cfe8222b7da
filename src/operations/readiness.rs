//! Whether this node can do its work.

use crate::domain::time::Timestamp;
use crate::ledger::{Ledger, LedgerError};

const MICROS: i64 = Timestamp::MICROS_PER_SECOND;
/// What is folded in about a second. A node that lies farther behind would make its callers wait.
const BEHIND_EVENTS_MAX: i64 = 100_000;

/// With [`Ledger::behind`], as it is or was a moment ago.
///
/// # Errors
/// Why not, in words.
pub async fn readiness(
    ledger: &Ledger,
    behind: impl Future<Output = Result<i64, LedgerError>>,
) -> Result<(), String> {
    if ledger.is_leaving() {
        return Err("this node was told to stop".to_owned());
    }
    if !ledger.is_running() {
        return Err("a writer has stopped; restart this node".to_owned());
    }
    if let Some(why) = ledger.trouble() {
        return Err(why.to_string());
    }
    if let Some(why) = ledger.held_back() {
        return Err(why.to_string());
    }
    // What reads the heads reads the database's clock too.
    match behind.await {
        Ok(events) if events > BEHIND_EVENTS_MAX => {
            Err(format!("{events} events were not folded yet; it catches up by itself"))
        }
        Ok(_) => {
            // A clock that is off says more than the write that failed by it.
            let why_not = ledger.clock_off_by().map(clock_off).or_else(|| ledger.unwritten());
            why_not.map_or(Ok(()), Err)
        }
        Err(error) => Err(error.to_string()),
    }
}

fn clock_off(micros: i64) -> String {
    let (seconds, micros_over) = (micros.abs() / MICROS, micros.abs() % MICROS);
    let way = if micros > 0 { "ahead of" } else { "behind" };
    let tenths = micros_over / (MICROS / 10);
    format!(
        "this node's clock is {seconds}.{tenths} s {way} the database's, so that nothing is written: synchronise both; \
         it comes back by itself"
    )
}

#[cfg(test)]
mod tests {
    use super::clock_off;

    #[test]
    fn a_clock_that_is_off_is_told_with_by_how_much_and_which_way() {
        for (micros, said) in [(5_000_000, "5.0 s ahead of"), (-3_612_999_999, "3612.9 s behind")] {
            assert!(clock_off(micros).contains(said), "{}", clock_off(micros));
        }
    }
}
