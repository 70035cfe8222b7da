//! The account and its model side by side, through random histories.

use proptest::prelude::*;

use super::histories::a_history;
use super::*;
use crate::domain::format::Format;

/// The account and its model side by side, with a second account that only folds what the first one emitted.
struct Pair {
    account: Account,
    folded: Account,
    model: Model,
    events: Vec<(Event, Timestamp)>,
}

impl Pair {
    fn new() -> Pair {
        let mut account = active();
        account.does(START, bought(1, credits(4), 301));
        let mut model =
            Model { projects: vec![project(1)], keys: vec![(key(1), None, false)], ..Model::default() };
        let terms = LotTerms { lot: lot(1), credits: credits(4), priority: 0, expires_at: None };
        model.last_purchase = terms.credits;
        model.lots.push(ModelLot { terms, paid: 301, made_at: START, moves: vec![] });
        Pair { folded: account.clone(), account, model, events: vec![] }
    }

    fn step(&mut self, command: OrgCommand, before: Timestamp, now: Timestamp) {
        if self.account.is_due(now) {
            self.same_however_often_swept(before, now);
        }
        let ended = self.account.expire_due(now);
        let alerts = self.model.expire(now);
        self.follow(ended, &alerts, now);

        let untouched = self.account.clone();
        let decided = self.account.handle(command.clone(), now);
        match (decided, self.model.handle(command, now)) {
            (Ok(steps), Ok(alerts)) => self.follow(steps, &alerts, now),
            (Err(refusal), Err(expected)) => {
                assert_eq!(refusal, expected);
                assert_eq!(self.account, untouched, "a refusal changes nothing");
            }
            (decided, expected) => panic!("decided {decided:?}; the model says {expected:?}"),
        }
        self.same();
    }

    /// Balance-after, I1 and alerts of what was just emitted.
    fn follow(&mut self, steps: Vec<(Event, Balance)>, alerts: &[Alert], now: Timestamp) {
        let mut raised = Vec::new();
        for (event, balance) in steps {
            self.folded.evolve(&event, now);
            assert_eq!(self.folded.balance(), balance, "the balance after {event:?}");
            let b = balance;
            let gone: Credits = [b.available, b.held, b.consumed, b.expired, b.refunded].into_iter().sum();
            assert_eq!(b.granted.saturating_add(b.overdraft_limit), gone, "I1 after {event:?}");
            for (credits, minor) in recognised_by(&event) {
                assert!(if credits.is_negative() { minor <= 0 } else { minor >= 0 }, "revenue of {event:?}");
            }
            if let Event::CreditsReserved { .. } | Event::ReservationGrown { .. } = event {
                assert!(!b.available.is_negative(), "I1: an accepted hold overspends");
            }
            if let Event::AlertRaised { subject, threshold, value } = &event {
                raised.push((subject.clone(), *threshold, *value));
            }
            self.events.push((event, now));
        }
        assert_eq!(raised.len(), alerts.len(), "raised {raised:?}, expected {alerts:?}");
        assert!(alerts.iter().all(|alert| raised.contains(alert)), "raised {raised:?}, expected {alerts:?}");
    }

    /// I11: it makes no difference when the sweeper comes, nor how much it writes at once.
    fn same_however_often_swept(&self, before: Timestamp, now: Timestamp) {
        let (mut twice, mut once) = (self.account.clone(), self.account.clone());
        twice.expire_due(Timestamp((before.0 + now.0) / 2));
        twice.expire_due(now);
        once.expire_due(now);
        assert_eq!((twice.balance(), &twice.lots), (once.balance(), &once.lots));
        assert_eq!(self.account.as_of(now).balance(), once.balance());
        let mut in_portions = self.account.clone();
        while in_portions.is_due(now) {
            in_portions.expire_due_within(Format::READ, now, 1);
        }
        assert_eq!(in_portions, once);
    }

    fn same(&self) {
        assert_eq!(self.account.balance(), self.model.balance());
        let free: Credits = self.account.lots.values().map(|lot| lot.free()).sum();
        assert!(self.account.balance().debt.is_zero() || free.is_zero(), "debt beside free credits");
        assert_eq!(self.account.lots.len(), self.model.lots.len());
        for expected in &self.model.lots {
            let lot = &self.account.lots[&expected.terms.lot];
            let (recognised, refunded_minor) = expected.money();
            assert_eq!(
                (lot.consumed, lot.expired, lot.refunded, lot.remaining(), lot.pinned),
                (
                    expected.burned(),
                    expected.expired(),
                    expected.refunded(),
                    expected.remaining(),
                    self.model.pinned(lot.id)
                ),
                "I8: lot {}",
                lot.id
            );
            assert_eq!(
                (lot.recognised_minor, lot.refunded_minor),
                (recognised, refunded_minor),
                "lot {}",
                lot.id
            );
            assert!(lot.deferred_minor() >= 0, "I8: more recognised and refunded than was paid: {lot:?}");
            if lot.remaining().is_zero() {
                assert_eq!(
                    lot.deferred_minor(),
                    0,
                    "I8: nothing remains, yet something is deferred: {lot:?}"
                );
            }
        }
        assert_eq!(self.account.holds.len(), self.model.open_holds().count());
        let keys = self.account.keys.iter().map(|(key, known)| (*key, known.expires_at, known.revoked));
        let (mut keys, mut expected) = (keys.collect::<Vec<_>>(), self.model.keys.clone());
        keys.sort();
        expected.sort();
        assert_eq!(keys, expected);
        assert_eq!(self.account.projects.len(), self.model.projects.len());
        assert!(self.model.projects.iter().all(|id| self.account.projects.contains_key(id)));
        for state in &self.account.budgets {
            let known = self.model.budgets.iter().find(|known| known.budget == state.budget).unwrap();
            for window in self.model.windows(known) {
                let expected = self.model.count(known, &window);
                assert_eq!(state.count(&window), expected, "the count of {:?}", state.budget);
            }
        }
    }

    fn finish(self) {
        assert_eq!(self.folded, self.account, "the fold of the events is the account");
        let saved = serde_json::to_string(&self.account).unwrap();
        assert_eq!(serde_json::from_str::<Account>(&saved).unwrap(), self.account);
        for hold in &self.model.holds {
            self.ends_once(hold);
        }
    }

    /// I3: one end, at most one late settle, and together they charge what the reservation cost.
    fn ends_once(&self, hold: &ModelHold) {
        let (mut ends, mut late_settles, mut charged) = (0, 0, Credits::ZERO);
        for (event, _) in &self.events {
            if event.reservation() != Some(hold.id) {
                continue;
            }
            match event {
                Event::ReservationReleased { .. } => ends += 1,
                Event::ReservationExpired { charged: estimate, .. } => {
                    ends += 1;
                    charged = charged.saturating_add(*estimate);
                }
                Event::ReservationSettled { late, charged: in_all, charged_before, .. } => {
                    ends += u32::from(!late);
                    late_settles += u32::from(*late);
                    charged = charged.saturating_add(*in_all).saturating_sub(*charged_before);
                }
                _ => {}
            }
        }
        // What a look-up brings back of it is what the account knows.
        let about = self.events.iter().filter(|(event, _)| event.reservation() == Some(hold.id));
        let folded = Ended::fold(hold.id, about.map(|(event, at)| (event, *at)));
        assert_eq!(folded.as_ref(), self.account.ended.get(&hold.id));
        assert_eq!(folded.and_then(|ended| ended.feedback), hold.feedback, "the last word on {}", hold.id);
        let open = u32::from(hold.status == ReservationStatus::Held);
        assert_eq!(ends + open, 1, "I3: {} ended {ends} times", hold.id);
        assert!(late_settles <= 1, "I3: {} was settled late {late_settles} times", hold.id);
        assert_eq!(charged, hold.charged);
        assert!(!hold.capped || charged <= hold.credits, "I2: {} paid more than was held", hold.id);
    }
}

/// Credits that lots paid, with the revenue of each.
fn recognised_by(event: &Event) -> Vec<(Credits, i64)> {
    match event {
        Event::CreditsAdjusted { burned, .. }
        | Event::DebtRepaid { burned, .. }
        | Event::ReservationExpired { burned, .. }
        | Event::ReservationSettled { burned, .. } => {
            burned.iter().map(|burn| (burn.credits, burn.revenue_minor)).collect()
        }
        Event::CreditsExpired { credits, revenue_minor, .. } => vec![(*credits, *revenue_minor)],
        _ => vec![],
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn i1_i3_i8_i11_the_account_is_what_the_naive_model_says(history in a_history()) {
        let mut pair = Pair::new();
        let mut now = START;
        for (wait, command) in history {
            let before = now;
            // Two commands never share an instant: else "set before this hold" could not be told from "after".
            now = Timestamp(now.plus_seconds(wait).0 + 1);
            pair.step(command, before, now);
        }
        pair.finish();
    }
}
