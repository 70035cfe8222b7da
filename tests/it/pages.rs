//! Lists come in pages that end, and no answer grows with an org's past.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::json;
use tollgate::domain::account::command::OrgCommand;
use tollgate::domain::ids::{LotId, OrgId};
use tollgate::domain::lots::{GrantKind, LotTerms};
use tollgate::ledger::Submission;
use tollgate::operations::find_org::known_org;

use crate::support::{Actor, TestApp};

#[tokio::test]
async fn every_list_comes_in_pages_that_end() {
    let app = TestApp::start().await;
    let acme = app.funded("acme", "10").await;
    let operator = app.operator();
    let rules = json!({ "rules": (1..=3).map(|below| json!({ "kind": "balance_below", "credits": (below + 6).to_string() })).collect::<Vec<_>>() });
    operator
        .send(Method::PUT, "/api/v1/orgs/acme/alert_rules", None, Some(rules))
        .await
        .expect(StatusCode::OK);
    let card = |index: usize| json!({ "cards": [{ "provider": "own", "model": "m", "rates": { "input": index.to_string(), "output": "1" } }] });
    for index in 0..3 {
        operator.post("/api/v1/prices", card(index)).await.expect(StatusCode::CREATED);
        let grant = json!({ "credits": "0.1", "kind": "goodwill" });
        operator.post("/api/v1/orgs/acme/grants", grant).await.expect(StatusCode::CREATED);
        app.funded(&format!("org-{index}"), "1").await;
        app.key("acme", "inference").await;
        let finance = json!({ "name": format!("f{index}"), "role": "finance" });
        operator.post("/api/v1/keys", finance).await.expect(StatusCode::CREATED);
        let bundle = json!({ "name": format!("b{index}"), "credits": "1", "price": "1", "currency": "USD" });
        operator.post("/api/v1/bundles", bundle).await.expect(StatusCode::CREATED);
        let project = json!({ "name": format!("p{index}") });
        operator.post("/api/v1/orgs/acme/projects", project).await.expect(StatusCode::CREATED);
        let hold = acme.post("/api/v1/orgs/acme/reservations", json!({ "credits": "1" })).await;
        let settle = format!(
            "/api/v1/reservations/{}/settle",
            hold.expect(StatusCode::CREATED)["id"].as_str().unwrap()
        );
        acme.post(&settle, json!({ "credits": "1.5" })).await.expect(StatusCode::OK);
        acme.post("/api/v1/orgs/acme/reservations", json!({ "credits": "0.5" }))
            .await
            .expect(StatusCode::CREATED);
    }

    let in_force = app.ledger().system().prices.in_force(OrgId::SYSTEM, app.clock().now()).len();
    assert!((100..1_000).contains(&in_force), "{in_force}");
    let first = operator.get("/api/v1/prices").await.expect(StatusCode::OK);
    assert_eq!(first["data"].as_array().unwrap().len(), 100);
    let listed = in_force;
    for (path, rows) in [
        ("/api/v1/orgs", 4),
        ("/api/v1/bundles", 3),
        ("/api/v1/orgs/acme/projects", 3),
        ("/api/v1/orgs/acme/keys", 4),
        ("/api/v1/orgs/acme/reservations", 3),
        ("/api/v1/keys", 3),
        ("/api/v1/orgs/acme/alerts", 3),
        ("/api/v1/orgs/acme/lots", 4),
        ("/api/v1/prices/own/m", 3),
        ("/api/v1/prices", listed),
    ] {
        // A list of hundreds by one would ask hundreds of times.
        for limit in [1, 2, rows].into_iter().filter(|limit| rows / limit < 100) {
            assert_eq!(walked(&operator, path, limit).await, rows, "{path} by {limit}");
        }
    }
    app.finish().await;
}

/// Lots of an org that has bought for years.
const LOTS: usize = 2_000;

#[tokio::test]
async fn a_balance_stays_small_whatever_an_org_has_used_up() {
    let app = TestApp::start().await;
    let acme = app.funded("acme", "1").await;
    let org = known_org(app.ledger(), "acme").unwrap();
    let grant = |_| {
        let (lot, credits) = (LotId(app.clock().uuid()), "1".parse().unwrap());
        let terms = LotTerms { lot, credits, priority: 0, expires_at: None };
        let command = OrgCommand::Grant { terms, kind: GrantKind::Goodwill, note: None };
        app.ledger().submit(Submission::by_tollgate(org, command))
    };
    assert!(join_all((1..LOTS).map(grant)).await.iter().all(Result::is_ok));
    let balance = async || acme.get("/api/v1/orgs/acme/balance").await.expect(StatusCode::OK);

    let full = balance().await;
    let hold =
        acme.post("/api/v1/orgs/acme/reservations", json!({ "credits": (LOTS - 1).to_string() })).await;
    let hold = hold.expect(StatusCode::CREATED)["id"].as_str().unwrap().to_owned();
    let cost = json!({ "credits": (LOTS - 1).to_string() });
    acme.post(&format!("/api/v1/reservations/{hold}/settle"), cost).await.expect(StatusCode::OK);
    let used_up = balance().await;

    assert_eq!((full["lots"].as_array().unwrap().len(), &full["more_lots"]), (100, &json!(true)));
    assert_eq!((used_up["lots"].as_array().unwrap().len(), &used_up["more_lots"]), (1, &json!(false)));
    assert!(used_up.to_string().len() < 10_000, "{}", used_up.to_string().len());
    assert_eq!(used_up["lots"][0]["remaining"], "1");
    assert_eq!(walked(&acme, "/api/v1/orgs/acme/lots", 900).await, LOTS);
    app.finish().await;
}

/// How many different rows a walk over all pages meets; it panics where one comes twice.
async fn walked(actor: &Actor, path: &str, limit: usize) -> usize {
    let (mut after, mut seen) = (String::new(), BTreeSet::new());
    loop {
        let page = actor.get(&format!("{path}?limit={limit}{after}")).await.expect(StatusCode::OK);
        let rows = page["data"].as_array().unwrap();
        assert!(rows.len() <= limit);
        for row in rows {
            assert!(seen.insert(row.to_string()), "{path}: {row} came twice");
        }
        let Some(next) = page["next"].as_str() else { return seen.len() };
        after = format!("&after={next}");
    }
}
