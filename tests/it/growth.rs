//! A ledger with more accounts than stay in memory: they leave it, are saved, come back, and are seen as they were at any
//! moment, always as the fold of their events.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::join_all;
use tollgate::clock::Clock;
use tollgate::domain::account::Account;
use tollgate::domain::account::command::{OrgCommand, Reserve, Settle};
use tollgate::domain::credits::Credits;
use tollgate::domain::ids::{LotId, OrgId, ReservationId};
use tollgate::domain::lots::{Balance, GrantKind, LotTerms};
use tollgate::domain::purpose::Purpose;
use tollgate::domain::reservation::{Dispatcher, ExpiryPolicy};
use tollgate::domain::time::Timestamp;
use tollgate::domain::views::spend::Group;
use tollgate::ledger::{Ledger, LedgerError, MemoryLimits, SNAPSHOT_FORMAT, Submission};
use tollgate::operations::account_as_of::account_as_of;
use tollgate::operations::list_events::list_events;
use tollgate::operations::spend_report::spend_report;
use tollgate::simulator::chance::Chance;
use tollgate::store::Database;
use uuid::Uuid;

use crate::database::TestDatabase;
use crate::waiting::until;

const SMALL: MemoryLimits =
    MemoryLimits { recent: 8, accounts: 4, events_per_snapshot: 50, unindexed: 1_000_000 };
const BEGIN: Timestamp = Timestamp(1_793_491_200_000_000);
const ORGS: u64 = 16;
const STEPS: u64 = 600;

/// One process after the other on one database.
struct Rig {
    database: TestDatabase,
    clock: Clock,
    chance: Chance,
    held: Vec<ReservationId>,
    /// What each org's balance was when it was asked for.
    answered: BTreeMap<(OrgId, Timestamp), Balance>,
}

fn org(number: u64) -> OrgId {
    OrgId(Uuid::from_u128(u128::from(number) + 1))
}

impl Rig {
    async fn start() -> (Rig, Ledger) {
        let database = TestDatabase::new().await;
        let clock = Clock::manual(BEGIN, 1);
        let rig = Rig { database, clock, chance: Chance::of(7, 1), held: vec![], answered: BTreeMap::new() };
        let ledger = rig.open().await;
        for number in 0..ORGS {
            let open = OrgCommand::OpenOrg {
                slug: format!("org-{number}"),
                time_zone: "UTC".into(),
                overdraft_limit: Credits::ZERO,
            };
            submit(&ledger, org(number), open).await.unwrap();
            submit(&ledger, org(number), rig.grant(None)).await.unwrap();
        }
        (rig, ledger)
    }

    async fn open(&self) -> Ledger {
        let Database { log, projections, .. } = self.database.reopen(&self.clock).await;
        Ledger::open(log, projections, self.clock.clone(), SMALL).await.unwrap()
    }

    fn grant(&self, lives_seconds: Option<i64>) -> OrgCommand {
        let terms = LotTerms {
            lot: LotId(self.clock.uuid()),
            credits: Credits::from_whole(100),
            priority: 0,
            expires_at: lives_seconds.map(|seconds| self.clock.now().plus_seconds(seconds)),
        };
        OrgCommand::Grant { terms, kind: GrantKind::Goodwill, note: None }
    }

    fn reserve(&self, org: OrgId, ttl_seconds: i64) -> (ReservationId, OrgCommand) {
        let reservation = ReservationId { org, local: self.clock.uuid() };
        let reserve = Reserve {
            reservation,
            credits: Credits::from_whole(2),
            ttl_seconds,
            expiry: ExpiryPolicy::Release,
            dispatcher: Dispatcher::External,
            price_book_version: 0,
            purpose: Purpose::default(),
        };
        (reservation, OrgCommand::Reserve(reserve))
    }

    /// Whatever comes: refusals are answers too.
    async fn step(&mut self, ledger: &Ledger) {
        self.clock.advance_seconds(self.chance.below(4) as i64);
        let (some, seconds) = (org(self.chance.below(ORGS)), 1 + self.chance.below(40));
        let (touched, command) = match self.chance.below(8) {
            0 => (some, self.grant(Some(seconds as i64))),
            1..=3 => {
                let (id, command) = self.reserve(some, seconds as i64);
                self.held.push(id);
                (some, command)
            }
            4 => (some, OrgCommand::Expire),
            choice => match self.chance.below(self.held.len() as u64) {
                _ if self.held.is_empty() => return,
                place if choice == 5 => {
                    let reservation = self.held[place as usize];
                    (reservation.org, OrgCommand::Release { reservation, by: None })
                }
                place => (self.held[place as usize].org, settle(self.held[place as usize])),
            },
        };
        match submit(ledger, touched, command).await {
            Ok(()) | Err(LedgerError::Refused(_)) => {}
            Err(error) => panic!("{error}"),
        }
        if self.chance.below(20) == 0 {
            ledger.projector().catch_up_all().await.unwrap();
        }
        self.ask(ledger, touched).await;
    }

    async fn ask(&mut self, ledger: &Ledger, org: OrgId) {
        let balance = ledger.read(org, Account::balance).await.unwrap();
        self.answered.insert((org, self.clock.now()), balance);
    }

    /// Every balance is, for every moment at which it was asked for, what was answered then and what its events come to.
    async fn check(&self, ledger: &Ledger) {
        let mut events = BTreeMap::new();
        for number in 0..ORGS {
            events.insert(org(number), list_events(ledger, org(number), 0, i64::MAX).await.unwrap());
        }
        for ((org, at), then) in &self.answered {
            let mut folded = Account::new(*org);
            for event in events[org].iter().take_while(|event| event.recorded_at <= *at) {
                folded.evolve(&event.payload.event, event.recorded_at);
                folded.ended.clear();
            }
            let account = account_as_of(ledger, *org, *at).await.unwrap();

            assert_eq!(account.balance(), *then, "{org} as of {at:?}");
            assert_eq!(account, *folded.as_of(*at), "{org} as of {at:?}");
        }
    }
}

fn settle(reservation: ReservationId) -> OrgCommand {
    OrgCommand::Settle(Settle {
        reservation,
        cost: Credits::from_whole(1),
        price_book_version: 0,
        attempts: Arc::default(),
        purpose: None,
        quarantine: None,
        by: None,
    })
}

async fn submit(ledger: &Ledger, org: OrgId, command: OrgCommand) -> Result<(), LedgerError> {
    ledger.submit(Submission::by_tollgate(org, command)).await.map(|_| ())
}

#[tokio::test]
async fn i7_accounts_that_come_and_go_are_the_fold_of_their_events_at_every_moment() {
    let (mut rig, ledger) = Rig::start().await;
    for _ in 0..STEPS {
        rig.step(&ledger).await;
    }

    rig.check(&ledger).await;
    drop(ledger);
    let ledger = rig.open().await;
    for number in 0..ORGS {
        rig.ask(&ledger, org(number)).await;
    }
    rig.check(&ledger).await;
    assert!(ledger.projector().compare().await.unwrap().values().all(|differ| *differ == 0));
}

#[tokio::test]
async fn i7_a_balance_long_ago_begins_at_the_snapshot_before_it() {
    let (mut rig, ledger) = Rig::start().await;
    let busy = org(0);
    for _ in 0..30 {
        rig.clock.advance_seconds(60);
        let holds: Vec<_> = (0..45).map(|_| rig.reserve(busy, 600)).collect();
        let ids: Vec<ReservationId> = holds.iter().map(|(id, _)| *id).collect();
        for held in join_all(holds.into_iter().map(|(_, hold)| submit(&ledger, busy, hold))).await {
            held.unwrap();
        }
        for settled in join_all(ids.into_iter().map(|id| submit(&ledger, busy, settle(id)))).await {
            settled.unwrap();
        }
        let grant = rig.grant(Some(90));
        submit(&ledger, busy, grant).await.unwrap();
        rig.ask(&ledger, busy).await;
    }
    let (store, shard) = (ledger.projector().store().clone(), ledger.shard_of(busy));
    for version_max in [999, 1_999, i64::MAX] {
        // They are written beside everything else.
        until("a snapshot is written", async || {
            store.snapshot(shard, busy, SNAPSHOT_FORMAT, version_max).await.unwrap().is_some()
        })
        .await;
    }

    rig.check(&ledger).await;
    let first = store.snapshot(shard, busy, SNAPSHOT_FORMAT, 999).await.unwrap().unwrap();
    let second = store.snapshot(shard, busy, SNAPSHOT_FORMAT, 1_999).await.unwrap().unwrap();
    assert!(first.version < 1_000 && first.version < second.version, "{} {}", first.version, second.version);
    let before_all = account_as_of(&ledger, busy, Timestamp(BEGIN.0 - 1)).await;
    assert!(matches!(before_all, Err(LedgerError::Refused(_))), "{before_all:?}");
}

#[tokio::test]
async fn a_report_by_days_adds_up_the_hours() {
    let (rig, ledger) = Rig::start().await;
    for _ in 0..30 {
        rig.clock.advance_seconds(5_000);
        let (id, hold) = rig.reserve(org(0), 60);
        submit(&ledger, org(0), hold).await.unwrap();
        submit(&ledger, org(0), settle(id)).await.unwrap();
    }
    let end = rig.clock.now().plus_seconds(1);

    let report = async |groups: &[Group]| {
        let report = spend_report(&ledger, org(0), BEGIN, end, groups, usize::MAX).await;
        report.unwrap().unwrap().rows
    };
    let hours = report(&[Group::Hour]).await;
    let days = report(&[Group::Day]).await;
    let both = report(&[Group::Day, Group::Hour]).await;
    let weeks = report(&[Group::Week, Group::Model]).await;

    let mut summed: BTreeMap<Vec<String>, u64> = BTreeMap::new();
    for (hour, spend) in &hours {
        *summed.entry(vec![hour[0][..10].to_owned()]).or_default() += spend.requests;
    }
    let requests = |rows: &BTreeMap<Vec<String>, tollgate::domain::views::spend::Spend>| -> BTreeMap<_, _> {
        rows.iter().map(|(group, spend)| (group.clone(), spend.requests)).collect()
    };
    assert!(days.len() > 1 && hours.len() > days.len(), "{days:?}");
    assert_eq!(requests(&days), summed);
    assert_eq!(both.len(), hours.len());
    assert_eq!(weeks.values().map(|spend| spend.requests).sum::<u64>(), 30);
}
