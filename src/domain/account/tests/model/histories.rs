//! Random histories: commands of every kind that an account takes, with the time between them.

use proptest::prelude::*;

use super::*;

/// Thirds, so that shares of prices do not come out even.
fn an_amount() -> impl Strategy<Value = Credits> {
    (0i64..=15).prop_map(|thirds| Credits::from_nanos(thirds * 333_333_333))
}

fn a_purpose() -> impl Strategy<Value = Purpose> {
    (0u8..12, 0u8..2, 0u8..3, 0u8..3).prop_map(|(of_project, by_key, user, of_arm)| Purpose {
        arm: (of_arm > 0).then(|| "small/haiku".to_owned()),
        // A promoted arm's requests have none.
        unit: (of_arm == 1).then(|| "a unit".to_owned()),
        project: match of_project {
            0 => Some(project(9)),
            1 => Some(project(2)),
            2..=5 => Some(project(1)),
            _ => None,
        },
        key: (by_key == 1).then(|| key(1)),
        end_user: ["ada", "bob"].get(usize::from(user)).map(|name| (*name).to_owned()),
        ..Purpose::default()
    })
}

/// Who says that it asks.
fn a_sender() -> impl Strategy<Value = Option<Dispatcher>> {
    prop_oneof![
        4 => Just(None),
        1 => Just(Some(Dispatcher::Tollgate)),
        1 => Just(Some(Dispatcher::External)),
    ]
}

fn a_new_key() -> impl Strategy<Value = OrgCommand> {
    let project = prop_oneof![Just(None), (1u128..4).prop_map(|n| Some(project(n)))];
    let expires_at = prop_oneof![Just(None), (-100i64..200_000).prop_map(|seconds| Some(after(seconds)))];
    (1u128..5, project, expires_at).prop_map(|(n, project, expires_at)| OrgCommand::CreateKey {
        key: key(n),
        role: Role::Inference,
        project,
        secret_sha256: "00".into(),
        expires_at,
    })
}

fn an_expiry() -> impl Strategy<Value = ExpiryPolicy> {
    prop_oneof![
        Just(ExpiryPolicy::Release),
        Just(ExpiryPolicy::ChargeBound),
        an_amount().prop_map(|credits| ExpiryPolicy::ChargeInput { credits }),
    ]
}

fn a_scope() -> impl Strategy<Value = BudgetScope> {
    prop_oneof![
        Just(BudgetScope::Org),
        Just(BudgetScope::Project { project: project(1) }),
        Just(BudgetScope::Key { key: key(1) }),
        Just(BudgetScope::EndUser { end_user: Some("ada".into()) }),
        Just(BudgetScope::EndUser { end_user: None }),
    ]
}

fn a_budget() -> impl Strategy<Value = Budget> {
    let window = prop_oneof![
        Just(BudgetWindow::Day),
        Just(BudgetWindow::Week),
        Just(BudgetWindow::Month),
        Just(BudgetWindow::Total)
    ];
    (a_scope(), window, an_amount()).prop_map(|(scope, window, cap)| budget(scope, window, cap))
}

fn a_rule() -> impl Strategy<Value = AlertRule> {
    let percent = || prop_oneof![Just(0u8), Just(30), Just(80), Just(100)];
    prop_oneof![
        an_amount().prop_map(|credits| AlertRule::BalanceBelow { credits }),
        percent().prop_map(|percent| AlertRule::PercentOfLastPurchase { percent }),
        percent().prop_map(|percent| AlertRule::BudgetPercent { percent }),
    ]
}

fn lot_terms() -> impl Strategy<Value = LotTerms> {
    let until = prop_oneof![Just(None), (-100i64..200_000).prop_map(|seconds| Some(after(seconds)))];
    (2u128..12, an_amount(), 0i16..2, until).prop_map(|(n, credits, priority, expires_at)| LotTerms {
        lot: lot(n),
        credits,
        priority,
        expires_at,
    })
}

fn a_reserve() -> impl Strategy<Value = OrgCommand> {
    let dispatcher = prop_oneof![Just(Dispatcher::Tollgate), Just(Dispatcher::External)];
    let ttl_seconds = prop_oneof![1i64..100, 1i64..100_000];
    (0u128..8, an_amount(), ttl_seconds, an_expiry(), dispatcher, a_purpose()).prop_map(
        |(n, amount, ttl_seconds, expiry, dispatcher, purpose)| {
            Reserve { ttl_seconds, expiry, dispatcher, purpose, ..hold(n, amount) }.into()
        },
    )
}

fn a_settle() -> impl Strategy<Value = OrgCommand> {
    (0u128..8, an_amount(), 0u8..10, a_sender()).prop_map(|(n, cost, doubt, by)| {
        let quarantine = (doubt == 0).then(|| "a negative count".to_owned());
        // What a settle says of itself never moves it to other budgets.
        let purpose = (doubt == 1).then(|| Purpose { route: Some("fast".into()), ..Purpose::default() });
        Settle { quarantine, purpose, by, ..settle(n, cost) }.into()
    })
}

fn a_command() -> impl Strategy<Value = OrgCommand> {
    let signed = (an_amount(), any::<bool>());
    let signed =
        signed.prop_map(|(credits, less)| if less { Credits::ZERO.saturating_sub(credits) } else { credits });
    let budgets = proptest::collection::vec(a_budget(), 0..4).prop_map(|mut budgets| {
        let all = budgets.clone();
        let mut index = 0;
        budgets.retain(|budget: &Budget| {
            index += 1;
            all[..index - 1].iter().all(|other| other.key != budget.key)
        });
        OrgCommand::SetBudgets { budgets }
    });
    prop_oneof![
        12 => a_reserve(),
        10 => a_settle(),
        3 => (0u128..8, a_sender())
            .prop_map(|(n, by)| OrgCommand::Release { reservation: reservation(n), by }),
        4 => (0u128..8, an_amount(), an_expiry(), a_sender()).prop_map(|(n, credits, expiry, by)| {
            OrgCommand::Grow { reservation: reservation(n), credits, expiry, by }
        }),
        2 => (0u128..8, 1i64..100_000, a_sender()).prop_map(|(n, ttl_seconds, by)| OrgCommand::Extend {
            reservation: reservation(n),
            ttl_seconds,
            by,
        }),
        1 => (1u128..4).prop_map(create_project),
        2 => a_new_key(),
        1 => (1u128..5).prop_map(|n| OrgCommand::RevokeKey { key: key(n) }),
        4 => lot_terms().prop_map(grant_lot),
        4 => (lot_terms(), 0i64..500).prop_map(|(terms, minor)| purchase(terms, minor)),
        3 => (signed, 12u128..16).prop_map(|(credits, n)| OrgCommand::Adjust {
            credits,
            reason: "a correction".into(),
            lot: lot(n),
        }),
        4 => (1u128..12, an_amount(), 0..40).prop_map(|(n, credits, reference)| OrgCommand::Refund {
            lot: lot(n),
            credits,
            reference: format!("REF-{reference}"),
        }),
        3 => budgets,
        1 => (a_scope(), an_amount()).prop_map(|(scope, amount)| request_limit(scope, amount)),
        2 => proptest::collection::vec(a_rule(), 0..4).prop_map(|rules| OrgCommand::SetAlertRules { rules }),
        2 => (any::<bool>(), an_amount()).prop_map(|(is_capped, credits)| OrgCommand::AllotArm {
            arm: "small/haiku".into(),
            credits: is_capped.then_some(credits),
        }),
        2 => (0u128..8, 0u16..3, any::<Option<bool>>()).prop_map(|(n, score, served)| {
            let feedback = Feedback { score_thousandths: Some(score * 400), served };
            OrgCommand::GiveFeedback { reservation: reservation(n), feedback }
        }),
        2 => an_amount().prop_map(overdraft),
        1 => Just(OrgCommand::SuspendOrg { reason: "unpaid".into() }),
        2 => Just(OrgCommand::ResumeOrg),
        1 => Just(OrgCommand::CloseOrg),
        1 => Just(OrgCommand::Expire),
    ]
}

pub fn a_history() -> impl Strategy<Value = Vec<(i64, OrgCommand)>> {
    let wait = prop_oneof![6 => Just(0i64), 3 => 1i64..120, 2 => 1i64..50_000, 1 => 1i64..2_000_000];
    proptest::collection::vec((wait, a_command()), 1..24)
}
