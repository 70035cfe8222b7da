//! Names that are unique over all orgs: what is claimed is done once, under its caller's key, or not at all.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tollgate::domain::account::command::OrgCommand;
use tollgate::domain::account::refusal::Refusal;
use tollgate::domain::claim::Claim;
use tollgate::domain::commerce::{Bundle, Payment};
use tollgate::domain::credits::Credits;
use tollgate::domain::format::Format;
use tollgate::domain::idempotency::CommandRef;
use tollgate::domain::ids::{LotId, OrgId};
use tollgate::domain::lots::LotTerms;
use tollgate::domain::system::SystemCommand;
use tollgate::ledger::{By, LedgerError, Submission};
use tollgate::operations::claim::finish_claims;
use tollgate::operations::find_bundle::find_bundle;
use tollgate::operations::find_org::known_org;
use tollgate::operations::profile::{Profile, Subject};
use tollgate::operations::purchase::{Order, PurchaseError, purchase};

use crate::formats::begun_by_an_old_node;
use crate::support::TestApp;

const PURCHASES: &str = "/api/v1/orgs/acme/purchases";

/// An org with one credit, and a bundle of ten.
async fn shop() -> (TestApp, OrgId, Bundle) {
    let app = TestApp::start().await;
    app.ledger().raise_format(Format::READ).await.unwrap();
    app.funded("acme", "1").await;
    let bundle = json!({ "name": "ten", "credits": "10", "price": "8.00", "currency": "USD" });
    app.operator().post("/api/v1/bundles", bundle).await.expect(StatusCode::CREATED);
    let org = known_org(app.ledger(), "acme").unwrap();
    let bundle = find_bundle(app.ledger(), "ten").await.unwrap().unwrap();
    (app, org, bundle)
}

fn keyed(key: &str, fingerprint: &str) -> CommandRef {
    CommandRef { key: key.into(), fingerprint: fingerprint.into() }
}

fn paid_by(reference: &str) -> Value {
    json!({ "bundle": "ten", "payment": { "method": "manual", "reference": reference } })
}

/// A purchase as a node leaves it that goes away once it has claimed the payment: the claim that holds.
async fn left_open(app: &TestApp, org: OrgId, bundle: &Bundle, reference: &str, key: CommandRef) -> Claim {
    let payment = Payment {
        method: "manual".into(),
        reference: reference.into(),
        currency: "USD".into(),
        net_minor: 800,
        tax_minor: 0,
        decimals: 2,
    };
    let lot = LotId(app.clock().uuid());
    let terms = LotTerms { lot, credits: bundle.credits, priority: 10, expires_at: None };
    let then = Box::new(OrgCommand::Purchase { terms, bundle: bundle.id, quantity: 1, payment });
    let claim = Claim { name: format!("payment:manual:{reference}"), org, then, idempotency: Some(key) };
    let name = claim.name.clone();
    app.ledger().submit_system(SystemCommand::Claim { claim }, None, None).await.unwrap();
    app.ledger().system().claim(&name).unwrap().clone()
}

async fn granted(app: &TestApp) -> Value {
    app.operator().get("/api/v1/orgs/acme/balance").await.expect(StatusCode::OK)["granted"].clone()
}

#[tokio::test]
async fn i4_of_two_purchases_at_once_under_one_key_one_is_made_and_the_other_never() {
    let (app, org, bundle) = shop().await;
    let buy = |round: usize, reference: usize| {
        let reference = format!("INV-{round}-{reference}");
        let key = keyed(&format!("k{round}"), &reference);
        let (bundle, method) = (bundle.clone(), "manual".to_owned());
        purchase(app.ledger(), org, Order { bundle, quantity: 1, method, reference, tax_minor: 0 }, None, key)
    };
    const ROUNDS: usize = 4;

    for round in 0..ROUNDS {
        // Both find the key free before either binds it.
        let (one, two) = tokio::join!(buy(round, 1), buy(round, 2));
        let is_conflict = |refused: &Result<LotId, PurchaseError>| {
            matches!(refused, Err(PurchaseError::Ledger(LedgerError::Refused(Refusal::IdempotencyConflict))))
        };
        assert!(one.is_ok() != two.is_ok() && (is_conflict(&one) || is_conflict(&two)), "{one:?} {two:?}");
    }
    app.clock().advance_seconds(60);
    finish_claims(app.ledger()).await;

    assert_eq!(granted(&app).await, (1 + 10 * ROUNDS).to_string());
    assert_eq!(app.ledger().system().open_claims().count(), 0);
    // What was refused has used up no payment.
    for reference in ["INV-0-1", "INV-0-2"] {
        app.operator().post(PURCHASES, paid_by(reference)).await.expect(StatusCode::CREATED);
    }
    assert_eq!(granted(&app).await, (11 + 10 * ROUNDS).to_string());
    app.finish().await;
}

#[tokio::test]
async fn i4_a_purchase_that_a_crash_left_open_binds_its_key_or_is_given_up() {
    let (app, org, bundle) = shop().await;
    let operator = app.operator();
    let grant = || json!({ "credits": "1", "kind": "goodwill" });
    let grants = "/api/v1/orgs/acme/grants";
    let granting = |key: &'static str| operator.send(Method::POST, grants, Some(key), Some(grant()));
    left_open(&app, org, &bundle, "INV-1", keyed("bound", "INV-1")).await;
    left_open(&app, org, &bundle, "INV-2", keyed("free", "INV-2")).await;
    granting("bound").await.expect(StatusCode::CREATED);

    app.clock().advance_seconds(30);
    finish_claims(app.ledger()).await;

    assert_eq!(granted(&app).await, "12");
    assert_eq!(app.ledger().system().open_claims().count(), 0);
    granting("free").await.expect(StatusCode::CONFLICT);
    operator.post(PURCHASES, paid_by("INV-1")).await.expect(StatusCode::CREATED);
    operator.post(PURCHASES, paid_by("INV-2")).await.expect(StatusCode::CREATED);
    assert_eq!(granted(&app).await, "22", "one payment buys once");
    app.finish().await;
}

#[tokio::test]
async fn a_slug_that_is_taken_is_named_as_it_was_asked_for() {
    let app = TestApp::start().await;
    app.operator()
        .post("/api/v1/orgs", json!({ "slug": "acme", "name": "Acme" }))
        .await
        .expect(StatusCode::CREATED);

    for other in [
        json!({ "slug": "acme", "name": "Acme", "time_zone": "Europe/Berlin" }),
        json!({ "slug": "acme", "name": "Somebody else" }),
    ] {
        let refused = app.operator().post("/api/v1/orgs", other).await.expect(StatusCode::CONFLICT);
        assert_eq!((&refused["code"], &refused["name"]), (&json!("name_taken"), &json!("acme")), "{refused}");
        assert_eq!(refused["detail"], "the name \"acme\" is taken");
    }
    app.finish().await;
}

#[tokio::test]
async fn i4_a_payment_whose_lot_is_there_buys_no_other_though_the_key_of_its_repeat_is_used_up() {
    let (app, org, bundle) = shop().await;
    let operator = app.operator();
    // The lot is in the log when the node goes away, and so does the next one, which the same was asked under another key.
    let Claim { then, idempotency, .. } = left_open(&app, org, &bundle, "INV-1", keyed("one", "INV-1")).await;
    let purchase = Submission { org, command: *then, by: By::Tollgate, idempotency };
    app.ledger().submit(purchase).await.unwrap();
    let again = left_open(&app, org, &bundle, "INV-1", keyed("two", "INV-1")).await;
    assert_eq!(again.idempotency, Some(keyed("two", "INV-1")));
    let grant = Some(json!({ "credits": "1", "kind": "goodwill" }));
    let granted_under = operator.send(Method::POST, "/api/v1/orgs/acme/grants", Some("two"), grant).await;
    granted_under.expect(StatusCode::CREATED);
    app.clock().advance_seconds(30);

    finish_claims(app.ledger()).await;

    assert_eq!(app.ledger().system().open_claims().count(), 0);
    app.funded("beta", "1").await;
    let refused = operator.post("/api/v1/orgs/beta/purchases", paid_by("INV-1")).await;
    assert_eq!(refused.expect(StatusCode::CONFLICT)["code"], "payment_used");
    assert_eq!(granted(&app).await, "12");
    app.finish().await;
}

#[tokio::test]
async fn i4_claims_without_keys_are_made_and_finished_while_an_older_node_runs() {
    let (app, _) = begun_by_an_old_node().await;
    let operator = app.operator();
    app.funded("acme", "1").await;
    let bundle = json!({ "name": "ten", "credits": "10", "price": "8.00", "currency": "USD" });
    operator.post("/api/v1/bundles", bundle).await.expect(StatusCode::CREATED);
    let buy = async |key, reference| {
        operator.send(Method::POST, PURCHASES, Some(key), Some(paid_by(reference))).await
    };

    let first = buy("one", "INV-1").await.expect(StatusCode::CREATED);
    assert_eq!(buy("one", "INV-1").await.expect(StatusCode::CREATED), first);
    assert_eq!(buy("two", "INV-1").await.expect(StatusCode::CREATED), first);
    buy("one", "INV-2").await.expect(StatusCode::CONFLICT);

    let claim = app.ledger().system().claim("payment:manual:INV-1").unwrap().clone();
    assert_eq!((claim.idempotency, app.ledger().system().claim("payment:manual:INV-2")), (None, None));
    assert_eq!(app.ledger().system().open_claims().count(), 0);
    assert_eq!(granted(&app).await, "11");
    app.finish().await;
}

#[tokio::test]
async fn personal_data_of_an_opening_that_a_crash_cut_short_is_removed() {
    let app = TestApp::start().await;
    app.funded("acme", "1").await;
    let acme = known_org(app.ledger(), "acme").unwrap();
    let (orphan, claimed) = (OrgId(app.clock().uuid()), OrgId(app.clock().uuid()));
    let profile = Profile { name: "Ada".into(), email: Some("ada@example.com".into()) };
    for org in [orphan, claimed] {
        app.profiles().put(Subject::Org(org), &profile).await.unwrap();
    }
    let then = Box::new(OrgCommand::OpenOrg {
        slug: "beta".into(),
        time_zone: "UTC".into(),
        overdraft_limit: Credits::ZERO,
    });
    let claim = Claim { name: "slug:beta".into(), org: claimed, then, idempotency: None };
    app.ledger().submit_system(SystemCommand::Claim { claim }, None, None).await.unwrap();
    let is_there = async |org| app.profiles().find(Subject::Org(org)).await.unwrap().is_some();

    app.clock().advance_seconds(3_599);
    app.profiles().remove_orphans().await.unwrap();
    assert!(is_there(orphan).await, "its opening may be under way");
    app.clock().advance_seconds(1);
    app.profiles().remove_orphans().await.unwrap();

    assert!(!is_there(orphan).await);
    assert!(is_there(claimed).await && is_there(acme).await);
    app.finish().await;
}

#[tokio::test]
async fn i5_a_claim_that_a_crash_left_open_is_finished_with_its_own_ids() {
    let app = TestApp::start().await;
    let org: OrgId = "org_000000000000000000000000000000aa".parse().unwrap();
    let open =
        OrgCommand::OpenOrg { slug: "acme".into(), time_zone: "UTC".into(), overdraft_limit: Credits::ZERO };
    let claim = Claim { name: "slug:acme".into(), org, then: Box::new(open), idempotency: None };
    app.ledger().submit_system(SystemCommand::Claim { claim }, None, None).await.unwrap();
    app.operator().get("/api/v1/orgs/acme").await.expect(StatusCode::NOT_FOUND);

    app.clock().advance_seconds(29);
    finish_claims(app.ledger()).await;
    app.operator().get("/api/v1/orgs/acme").await.expect(StatusCode::NOT_FOUND);
    app.clock().advance_seconds(1);
    finish_claims(app.ledger()).await;
    finish_claims(app.ledger()).await;

    let acme = app.operator().get("/api/v1/orgs/acme").await.expect(StatusCode::OK);
    assert_eq!(acme["id"], json!(org));
    let asked_again = json!({ "slug": "acme", "name": "Acme" });
    let joined = app.operator().post("/api/v1/orgs", asked_again).await.expect(StatusCode::CREATED);
    assert_eq!(joined["id"], json!(org), "the same wish under another key joins the first");
    let another = json!({ "slug": "acme", "name": "Somebody else" });
    app.operator().post("/api/v1/orgs", another).await.expect(StatusCode::CONFLICT);
    assert_eq!(app.operator().get("/api/v1/orgs/acme").await.expect(StatusCode::OK)["name"], "Acme");
    app.finish().await;
}

#[tokio::test]
async fn a_refused_purchase_leaves_its_payment_free_to_buy_once() {
    let app = TestApp::start().await;
    app.funded("acme", "1").await;
    let operator = app.operator();
    for (name, credits) in [("vast", "900000000"), ("ten", "10")] {
        let bundle = json!({ "name": name, "credits": credits, "price": "8.00", "currency": "USD" });
        operator.post("/api/v1/bundles", bundle).await.expect(StatusCode::CREATED);
    }
    let payment = json!({ "method": "manual", "reference": "INV-1" });
    let path = "/api/v1/orgs/acme/purchases";
    let vast = json!({ "bundle": "vast", "quantity": 2, "payment": payment });

    for _ in 0..2 {
        let refused = operator.send(Method::POST, path, Some("vast"), Some(vast.clone())).await;
        refused.expect(StatusCode::UNPROCESSABLE_ENTITY);
    }
    // More than any amount can be.
    let endless = json!({ "bundle": "vast", "quantity": 1_000, "payment": payment });
    let refused = operator.post(path, endless).await.expect(StatusCode::UNPROCESSABLE_ENTITY);
    assert!(refused["detail"].as_str().unwrap().contains("single command"), "{refused}");
    let ten = json!({ "bundle": "ten", "payment": payment });
    let bought = operator.post(path, ten.clone()).await.expect(StatusCode::CREATED);
    let again = operator.post(path, ten).await.expect(StatusCode::CREATED);
    let refused = operator.send(Method::POST, path, Some("vast"), Some(vast)).await;

    assert_eq!(bought, again);
    let refused = refused.expect(StatusCode::CONFLICT);
    assert_eq!(refused["code"], "payment_used");
    let detail = refused["detail"].as_str().unwrap();
    assert!(detail.starts_with("the payment \"INV-1\" by \"manual\" has bought something else"), "{detail}");
    let other = json!({ "bundle": "ten", "payment": { "method": "manual", "reference": "INV-2" } });
    let corrected = operator.send(Method::POST, path, Some("vast"), Some(other)).await;
    corrected.expect(StatusCode::CREATED);
    let balance = operator.get("/api/v1/orgs/acme/balance").await.expect(StatusCode::OK);
    assert_eq!(balance["granted"], "21");
    app.finish().await;
}

#[tokio::test]
async fn i4_a_key_that_is_bound_frees_no_payment_that_somebody_else_buys_with() {
    let app = TestApp::start().await;
    app.funded("acme", "1").await;
    let operator = app.operator();
    let bundle = json!({ "name": "ten", "credits": "10", "price": "8.00", "currency": "USD" });
    operator.post("/api/v1/bundles", bundle).await.expect(StatusCode::CREATED);
    let grant = json!({ "credits": "1", "kind": "goodwill" });
    let bound = operator.send(Method::POST, "/api/v1/orgs/acme/grants", Some("bad"), Some(grant)).await;
    bound.expect(StatusCode::CREATED);
    let buy = |key: &'static str, reference: usize| {
        let payment = json!({ "method": "manual", "reference": format!("INV-{reference}") });
        let body = json!({ "bundle": "ten", "payment": payment });
        operator.send(Method::POST, "/api/v1/orgs/acme/purchases", Some(key), Some(body))
    };
    const ROUNDS: usize = 8;

    for round in 0..ROUNDS {
        let good: &'static str = ["a", "b", "c", "d", "e", "f", "g", "h"][round];
        let again: &'static str = ["i", "j", "k", "l", "m", "n", "o", "p"][round];
        let (bad, good) = tokio::join!(buy("bad", round), buy(good, round));
        let third = buy(again, round).await.expect(StatusCode::CREATED);
        assert_eq!(bad.expect(StatusCode::CONFLICT)["code"], "idempotency_conflict");
        assert_eq!(good.expect(StatusCode::CREATED)["id"], third["id"]);
    }

    let balance = operator.get("/api/v1/orgs/acme/balance").await.expect(StatusCode::OK);
    assert_eq!(balance["granted"], "82");
    app.finish().await;
}

#[tokio::test]
async fn i5_a_purchase_that_a_crash_left_open_is_finished_though_the_org_has_closed_since() {
    let (app, org, bundle) = shop().await;
    let claim = left_open(&app, org, &bundle, "INV-1", keyed("k", "f")).await;
    // The node goes away once the lot is in the log.
    let Claim { name, then, .. } = claim;
    app.ledger().submit(Submission::by_tollgate(org, *then)).await.unwrap();
    app.operator().post("/api/v1/orgs/acme/close", json!({})).await.expect(StatusCode::OK);

    app.clock().advance_seconds(30);
    finish_claims(app.ledger()).await;

    let system = app.ledger().system();
    assert_eq!(system.open_claims().count(), 0);
    assert!(system.claim(&name).is_some(), "one payment buys once");
    app.finish().await;
}
