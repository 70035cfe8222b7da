//! Rates that all nodes of one database keep together: this node takes shares of them and spends those by itself
//! (`domain::rate_limit` has the rules and the promise). Most requests ask nobody; of those that must ask, one does for all.
//!
//! Where the database can't be asked, nothing goes through: nothing could be held either.

use std::num::NonZeroU32;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use sha2::{Digest, Sha256};
use tokio::sync::Mutex as Turn;

use super::rows::{Name, Rows};
use super::{LimitKey, RateLimited, RateUnit};
use crate::domain::ids::OrgId;
use crate::domain::rate_limit::{RateLimit, Share, ShareAsked, Spent, Taken};
use crate::domain::time::Timestamp;
use crate::ledger::LedgerError;
use crate::operations::share_rate::{RateBook, SharedRate};

/// Between two looks for shares whose time is over: as often as they end, and half again.
const SWEEP: Duration = Duration::from_secs(1);
/// Sweeps between two removals of unused rates.
const SWEEPS_PER_FORGETTING: u32 = 60;
/// The pause before the next question, after one without an answer.
const SILENCE_SECONDS: i64 = 1;
/// Longer than a request takes whose tokens are corrected when it has ended.
const REQUEST_SECONDS_MAX: i64 = 3_600;

pub(super) struct SharedRates {
    book: RateBook,
    known: Mutex<AllKnown>,
}

type AllKnown = Rows<(LimitKey, RateUnit), Arc<Known>>;

impl Name for (LimitKey, RateUnit) {
    fn org_of_end_user(&self) -> Option<OrgId> {
        self.0.org_of_end_user()
    }
}

/// What this node knows of one rate.
struct Known {
    org: OrgId,
    id: [u8; 32],
    part: Mutex<Part>,
    /// Its holder is the only one that asks the database.
    turn: Turn<()>,
}

struct Part {
    /// As it was last asked for: a changed limit counts from the next question on.
    rate: Option<RateLimit>,
    share: Share,
    /// The last question had no answer.
    silent_until: Timestamp,
    /// What was taken until then is still to be corrected by what was used: no request takes longer.
    awaited_until: Timestamp,
}

/// A question under way: whoever asked may go away before its answer, and must not take a debt along.
struct Asking<'a> {
    known: &'a Known,
    ask: Option<ShareAsked>,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if let Some(ask) = self.ask {
            self.known.part().share.unanswered(ask);
        }
    }
}

impl SharedRates {
    /// Until it is dropped, what is not used goes back after a while.
    pub fn start(book: RateBook) -> Arc<SharedRates> {
        let rates = Arc::new(SharedRates { book, known: Mutex::default() });
        tokio::spawn(sweep(Arc::downgrade(&rates)));
        rates
    }

    /// # Errors
    /// `In` where all nodes together have used it up, `Unknown` where nobody can say.
    pub async fn take(
        &self,
        key: &LimitKey,
        unit: RateUnit,
        per_minute: NonZeroU32,
        units: i64,
    ) -> Result<(), RateLimited> {
        let known = self.known(key, unit);
        known.part().awaited_until = self.now().plus_seconds(REQUEST_SECONDS_MAX);
        let rate = RateLimit { per_minute };
        if let Some(done) = known.spend(units, self.now()) {
            return done;
        }
        let _turn = known.turn.lock().await;
        loop {
            // The holder of the turn before may have taken enough for this request too.
            if let Some(done) = known.spend(units, self.now()) {
                return done;
            }
            let ask = known.part().share.ask(units, rate, self.now());
            self.ask(&known, rate, ask).await.map_err(RateLimited::Unknown)?;
        }
    }

    pub fn correct(&self, key: &LimitKey, unit: RateUnit, less: i64) {
        let known = self.all().get(&(key.clone(), unit)).cloned();
        if let Some(known) = known {
            known.part().share.corrected(less);
        }
    }

    /// Gives back everything that was taken and not spent.
    pub async fn give_back(&self) {
        self.settle(|share, _| Some(share.all())).await;
    }

    /// Gives back what can't be spent any more, and forgets whose time is long over.
    async fn sweep(&self) {
        self.settle(Share::leftover).await;
        let now = self.now();
        let is_over = |part: &Part| part.share.is_blank(now) && part.awaited_until <= now;
        self.all().retain(|known| Arc::strong_count(known) > 1 || !is_over(&known.part()));
    }

    async fn settle(&self, what: impl Fn(&mut Share, Timestamp) -> Option<ShareAsked>) {
        let all: Vec<Arc<Known>> = self.all().values().cloned().collect();
        for known in all {
            let _turn = known.turn.lock().await;
            let ask = what(&mut known.part().share, self.now());
            let rate = known.part().rate;
            if let Some((ask, rate)) = ask.filter(|ask| ask.returned != 0).zip(rate) {
                // What stays owed is asked for again.
                let _ = self.ask(&known, rate, ask).await;
            }
        }
    }

    async fn ask(&self, known: &Known, rate: RateLimit, ask: ShareAsked) -> Result<(), LedgerError> {
        let shared = SharedRate { org: known.org, id: known.id, rate };
        let mut asking = Asking { known, ask: Some(ask) };
        let answer = self.book.take_share(&shared, ask).await;
        asking.ask = None;
        let (mut part, now) = (known.part(), self.now());
        part.rate = Some(rate);
        let outcome = match &answer {
            Ok(Taken::Share(_)) => "taken",
            Ok(Taken::NotYet { .. }) => "refused",
            Err(_) => "unknown",
        };
        metrics::counter!("tollgate_rate_shares_total", "outcome" => outcome).increment(1);
        match answer {
            Ok(taken) => part.share.answered(ask, taken, now),
            Err(error) => {
                part.share.unanswered(ask);
                if matches!(error, LedgerError::Unavailable(_) | LedgerError::Unknown(_)) {
                    part.silent_until = now.plus_seconds(SILENCE_SECONDS);
                }
                return Err(error);
            }
        }
        Ok(())
    }

    fn known(&self, key: &LimitKey, unit: RateUnit) -> Arc<Known> {
        let mut all = self.all();
        let name = (key.clone(), unit);
        if let Some(known) = all.get(&name) {
            return known.clone();
        }
        // What end users have is lost to everybody for as long as it takes to flow in again.
        all.make_room(&name, |_| false);
        let known = Arc::new(Known::of(key, unit));
        all.insert(name, known.clone());
        known
    }

    fn all(&self) -> MutexGuard<'_, AllKnown> {
        self.known.lock()
    }

    fn now(&self) -> Timestamp {
        self.book.clock().now()
    }
}

impl Known {
    fn of(key: &LimitKey, unit: RateUnit) -> Known {
        let name = serde_json::to_vec(&(key, unit)).unwrap_or_default();
        let part = Part {
            rate: None,
            share: Share::default(),
            silent_until: Timestamp(0),
            awaited_until: Timestamp(0),
        };
        let id = Sha256::digest(name).into();
        Known { org: key.org, id, part: Mutex::new(part), turn: Turn::default() }
    }

    /// None where the rate must be asked.
    fn spend(&self, units: i64, now: Timestamp) -> Option<Result<(), RateLimited>> {
        let mut part = self.part();
        match part.share.spend(units, now) {
            Spent::Yes => Some(Ok(())),
            Spent::NotYet { seconds } => Some(Err(RateLimited::In { seconds })),
            Spent::Unknown if now < part.silent_until => {
                let why = "the rates that nodes share could not be read a moment ago";
                Some(Err(RateLimited::Unknown(LedgerError::Unavailable(why.into()))))
            }
            Spent::Unknown => None,
        }
    }

    fn part(&self) -> MutexGuard<'_, Part> {
        self.part.lock()
    }
}

async fn sweep(rates: Weak<SharedRates>) {
    for round in 1_u32.. {
        tokio::time::sleep(SWEEP).await;
        let Some(rates) = rates.upgrade() else { return };
        rates.sweep().await;
        if round % SWEEPS_PER_FORGETTING == 0
            && let Err(error) = rates.book.forget_full_rates().await
        {
            tracing::warn!(%error, "rates that nobody uses stay in the database");
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::HashMap;
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    use async_trait::async_trait;
    use futures_util::FutureExt;
    use futures_util::future::join_all;
    use uuid::Uuid;

    use super::super::rows::ROWS_MAX;
    use super::*;
    use crate::clock::Clock;
    use crate::domain::account::budget::BudgetScope;
    use crate::ledger::{Ledger, MemoryLimits};
    use crate::store::{MovedRate, RateId, RateRow, Rates, SqliteStore, SqliteViews, StoreError};

    /// What stands in for the database: it counts the questions, and is silent when a test says so.
    #[derive(Default)]
    struct Table {
        rows: Mutex<HashMap<RateId, MovedRate>>,
        asked: AtomicU32,
        is_silent: AtomicBool,
    }

    #[async_trait]
    impl Rates for Table {
        async fn rate(&self, _: i32, id: &RateId, now: Timestamp) -> Result<RateRow, StoreError> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            match self.is_silent.load(Ordering::SeqCst) {
                true => Err(StoreError::Unavailable("nobody is there".into())),
                false => Ok(RateRow { stands: self.rows.lock().get(id).copied(), now }),
            }
        }

        async fn move_rate(
            &self,
            _: i32,
            id: &RateId,
            from: Option<Timestamp>,
            to: MovedRate,
        ) -> Result<bool, StoreError> {
            let mut rows = self.rows.lock();
            let is_there = rows.get(id).map(|stands| stands.full_at) == from;
            if is_there {
                rows.insert(*id, to);
            }
            Ok(is_there)
        }

        async fn forget_full_rates(&self, _: i32, now: Timestamp) -> Result<(), StoreError> {
            self.rows.lock().retain(|_, stands| stands.full_at >= now);
            Ok(())
        }
    }

    struct Rig {
        table: Arc<Table>,
        clock: Clock,
        nodes: [Arc<SharedRates>; 2],
        _folder: tempfile::TempDir,
    }

    impl Rig {
        async fn new() -> Rig {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("t.db");
            let store = Arc::new(SqliteStore::open(&path).await.expect("opens"));
            let views = Arc::new(SqliteViews::open(&path).await.expect("opens"));
            let clock = Clock::manual(Timestamp(1_000_000_000_000), 1);
            let ledger =
                Ledger::open(store, views, clock.clone(), MemoryLimits::default()).await.expect("opens");
            let table = Arc::new(Table::default());
            let book = RateBook::new(ledger, table.clone());
            let node = || Arc::new(SharedRates { book: book.clone(), known: Mutex::default() });
            Rig { table, clock, nodes: [node(), node()], _folder: folder }
        }

        async fn take(&self, node: usize, units: i64) -> Result<(), RateLimited> {
            self.nodes[node].take(&org(), RateUnit::Tokens, SIX_HUNDRED, units).await
        }

        fn asked(&self) -> u32 {
            self.table.asked.load(Ordering::SeqCst)
        }
    }

    /// Those of one node.
    pub async fn rates() -> (Arc<SharedRates>, impl Sized) {
        let Rig { nodes: [node, _], _folder, .. } = Rig::new().await;
        (node, _folder)
    }

    const SIX_HUNDRED: NonZeroU32 = NonZeroU32::new(600).expect("not zero");

    fn org() -> LimitKey {
        LimitKey { org: OrgId(Uuid::from_u128(1)), scope: BudgetScope::Org, end_user: None }
    }

    #[tokio::test]
    async fn many_requests_ask_few_questions_and_those_who_are_refused_ask_none() {
        let rig = Rig::new().await;

        let taken = join_all((0..300).map(|_| rig.take(0, 1))).await;
        let for_those = rig.asked();
        let both = join_all((0..900).map(|n| rig.take(n % 2, 1))).await;
        let for_all = rig.asked();
        let refused = join_all((0..900).map(|n| rig.take(n % 2, 1))).await;

        assert!(taken.iter().all(Result::is_ok));
        assert!(for_those <= 20, "{for_those} questions for 300 requests");
        assert_eq!(both.iter().filter(|taken| taken.is_ok()).count(), 300, "and no more than the limit");
        assert!(refused.iter().all(|taken| matches!(taken, Err(RateLimited::In { seconds: 1 }))));
        assert_eq!(rig.asked(), for_all);
    }

    #[tokio::test]
    async fn what_an_estimate_was_too_high_by_reaches_the_other_nodes_and_so_does_a_debt() {
        let rig = Rig::new().await;
        rig.take(0, 600).await.expect("all of it");
        rig.take(1, 1).await.expect_err("nothing is left");

        rig.nodes[0].correct(&org(), RateUnit::Tokens, 500);
        rig.clock.advance_seconds(2);
        rig.nodes[0].sweep().await;
        rig.take(1, 520).await.expect("what was not used, and what flowed in");
        rig.nodes[1].correct(&org(), RateUnit::Tokens, -80);
        rig.nodes[1].give_back().await;

        let refused = rig.take(0, 20).await.expect_err("more was used than there was");
        assert!(matches!(refused, RateLimited::In { seconds: 10 }), "{refused:?}");
        rig.clock.advance_seconds(10);
        rig.take(0, 20).await.expect("it has flowed in");
    }

    #[tokio::test]
    async fn a_clock_that_is_set_back_takes_its_rates_along() {
        let rig = Rig::new().await;
        rig.take(0, 600).await.expect("all of it");

        rig.clock.advance_seconds(-3_600);
        let at_once = rig.take(1, 20).await.expect_err("nothing has flowed in");
        rig.clock.advance_seconds(2);
        let soon = rig.take(1, 20).await;

        assert!(matches!(at_once, RateLimited::In { seconds: 2 }), "{at_once:?}");
        assert!(soon.is_ok(), "{soon:?}");
    }

    #[tokio::test]
    async fn where_nobody_can_say_nothing_goes_through_and_only_one_waits_for_it() {
        let rig = Rig::new().await;
        rig.table.is_silent.store(true, Ordering::SeqCst);

        let silent = join_all((0..100).map(|_| rig.take(0, 1))).await;
        let questions = rig.asked();
        rig.table.is_silent.store(false, Ordering::SeqCst);
        let soon = rig.take(0, 1).await;
        rig.clock.advance_seconds(SILENCE_SECONDS);
        let later = rig.take(0, 1).await;

        assert!(
            silent
                .iter()
                .all(|taken| matches!(taken, Err(RateLimited::Unknown(LedgerError::Unavailable(_)))))
        );
        assert_eq!(questions, 1);
        assert!(soon.is_err() && later.is_ok(), "{soon:?} {later:?}");
    }

    #[tokio::test]
    async fn what_a_slow_request_used_is_counted_though_its_share_has_ended_long_ago() {
        let rig = Rig::new().await;
        rig.take(0, 600).await.expect("all of it");
        rig.clock.advance_seconds(3);
        rig.nodes[0].sweep().await;

        rig.nodes[0].correct(&org(), RateUnit::Tokens, -80);
        rig.nodes[0].sweep().await;

        rig.take(1, 1).await.expect_err("30 have flowed in, and 80 more were used");
        rig.clock.advance_seconds(6);
        rig.take(1, 1).await.expect("it is made good");
    }

    #[tokio::test]
    async fn a_debt_outlives_a_caller_who_goes_away_while_its_rate_is_asked() {
        let rig = Rig::new().await;
        rig.take(0, 600).await.expect("all of it");
        rig.nodes[0].correct(&org(), RateUnit::Tokens, -80);
        rig.clock.advance_seconds(3);

        assert!(rig.take(0, 1).now_or_never().is_none(), "it waits for the answer");
        rig.nodes[0].give_back().await;

        rig.take(1, 1).await.expect_err("30 have flowed in, and 80 more were used");
    }

    #[tokio::test]
    async fn what_nobody_uses_is_forgotten() {
        let rig = Rig::new().await;
        rig.take(0, 1).await.expect("there is enough");

        rig.nodes[0].sweep().await;
        let known = rig.nodes[0].all().len();
        rig.clock.advance_seconds(REQUEST_SECONDS_MAX);
        rig.nodes[0].sweep().await;
        rig.nodes[0].book.forget_full_rates().await.expect("forgets");

        assert_eq!((known, rig.nodes[0].all().len()), (1, 0));
        assert!(rig.table.rows.lock().is_empty());
    }

    #[test]
    fn the_name_of_a_shared_rate_stays_what_other_nodes_call_it() {
        let user = LimitKey {
            org: OrgId(Uuid::from_u128(1)),
            scope: BudgetScope::EndUser { end_user: None },
            end_user: Some("ann".into()),
        };

        let name = serde_json::to_value((&user, RateUnit::Tokens)).expect("json");

        let expected = r#"[{"org":"org_00000000000000000000000000000001","scope":{"scope":"end_user","end_user":null},"end_user":"ann"},"Tokens"]"#;
        assert_eq!(name.to_string(), expected);
    }

    #[tokio::test]
    async fn end_users_without_end_are_forgotten_and_no_org() {
        let rig = Rig::new().await;
        rig.take(0, 1).await.expect("there is enough");

        for user in 0..200_000 {
            let key = LimitKey { org: OrgId(Uuid::from_u128(2)), end_user: Some(user.to_string()), ..org() };
            rig.nodes[0].known(&key, RateUnit::Tokens);
        }

        let all = rig.nodes[0].all();
        assert!(all.get(&(org(), RateUnit::Tokens)).is_some() && all.len() <= ROWS_MAX);
    }
}
