//! Bundles, prices and mark-ups: what one node has published is there on every node, and everybody sees what they pay.

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::TestApp;

fn card(model: &str) -> Value {
    json!({ "cards": [{ "provider": "own", "model": model, "rates": { "input": "1", "output": "2" } }] })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_node_published_another_sells_at_once() {
    let one = TestApp::on_postgres().await;
    let two = one.beside(2).await;
    let acme = one.funded("acme", "10").await;
    let (operator, elsewhere) = (one.operator(), two.operator());
    let gateway = two.with_key(acme.secret());
    gateway.get("/api/v1/orgs/acme/balance").await.expect(StatusCode::OK);
    let bundle = |name: &str| json!({ "name": name, "credits": "10", "price": "8.00", "currency": "USD" });
    let found = |page: &Value, field: &str, name: &str| {
        page["data"].as_array().unwrap().iter().any(|row| row[field] == name)
    };

    operator.post("/api/v1/bundles", bundle("ten")).await.expect(StatusCode::CREATED);
    let purchase = json!({ "bundle": "ten", "payment": { "method": "manual", "reference": "INV-1" } });
    elsewhere.post("/api/v1/orgs/acme/purchases", purchase).await.expect(StatusCode::CREATED);
    operator.post("/api/v1/bundles", bundle("twenty")).await.expect(StatusCode::CREATED);
    let bundles = elsewhere.get("/api/v1/bundles").await.expect(StatusCode::OK);
    assert!(found(&bundles, "name", "twenty"), "{bundles}");

    operator.post("/api/v1/prices", card("quoted")).await.expect(StatusCode::CREATED);
    let quote = json!({ "quote": { "model": "quoted", "input_tokens": 1_000, "max_output_tokens": 1_000 } });
    let held = gateway.post("/api/v1/orgs/acme/reservations", quote).await.expect(StatusCode::CREATED);
    operator.post("/api/v1/prices", card("settled")).await.expect(StatusCode::CREATED);
    let settle = format!("/api/v1/reservations/{}/settle", held["id"].as_str().unwrap());
    let usage = json!({ "provider": "own", "model": "settled", "usage": { "input_tokens": 1_000 } });
    let settled = gateway.post(&settle, usage).await.expect(StatusCode::OK);
    assert_eq!((&settled["charged"], &settled["quarantined"]), (&json!("0.001"), &json!(null)));
    operator.post("/api/v1/prices", card("listed")).await.expect(StatusCode::CREATED);
    assert!(found(&elsewhere.get("/api/v1/prices").await.expect(StatusCode::OK), "model", "listed"));
    operator.post("/api/v1/prices", card("old")).await.expect(StatusCode::CREATED);
    gateway.get("/api/v1/prices/own/old").await.expect(StatusCode::OK);
    let opened = json!({ "slug": "late", "name": "Late" });
    operator.post("/api/v1/orgs", opened).await.expect(StatusCode::CREATED);
    assert!(found(&elsewhere.get("/api/v1/orgs").await.expect(StatusCode::OK), "slug", "late"));
    operator
        .post("/api/v1/keys", json!({ "name": "f", "role": "finance" }))
        .await
        .expect(StatusCode::CREATED);
    assert!(found(&elsewhere.get("/api/v1/keys").await.expect(StatusCode::OK), "name", "f"));

    two.finish().await;
    one.finish().await;
}

#[tokio::test]
async fn i12_an_org_sees_its_own_mark_up_and_the_operator_all_in_force() {
    let app = TestApp::start().await;
    let (acme, other) = (app.funded("acme", "10").await, app.funded("other", "10").await);
    let operator = app.operator();
    let org = operator.get("/api/v1/orgs/acme").await.expect(StatusCode::OK)["id"].clone();
    let mark_ups = json!([
        { "percent": "10", "effective_from": app.time_in(0) },
        { "percent": "2.5", "effective_from": app.time_in(0), "org": org },
        { "percent": "20", "effective_from": app.time_in(60) },
    ]);
    operator.post("/api/v1/prices", json!({ "mark_ups": mark_ups })).await.expect(StatusCode::CREATED);

    let [seen, others, all] = [&acme, &other, &operator].map(|actor| actor.get("/api/v1/prices"));
    let seen = seen.await.expect(StatusCode::OK);
    let others = others.await.expect(StatusCode::OK);
    let all = all.await.expect(StatusCode::OK);

    assert_eq!((&seen["mark_up_percent"], seen.get("mark_ups")), (&json!("2.5"), None));
    assert_eq!((&others["mark_up_percent"], others.get("mark_ups")), (&json!("10"), None));
    let in_force = json!([
        { "org": null, "percent": "10", "effective_from": app.time_in(0) },
        { "org": org, "percent": "2.5", "effective_from": app.time_in(0) },
    ]);
    assert_eq!((&all["mark_up_percent"], &all["mark_ups"]), (&json!("10"), &in_force));
    app.clock().advance_seconds(60);
    assert_eq!(other.get("/api/v1/prices").await.expect(StatusCode::OK)["mark_up_percent"], "20");
    app.finish().await;
}
