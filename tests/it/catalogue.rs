//! Bundles, prices and mark-ups: what one node has published is there on every node, and everybody sees what they pay.

use reqwest::StatusCode;
use serde_json::{Value, json};

use tollgate::commands::prices::{self, PricesError, Published};
use tollgate::domain::pricing::litellm;

use crate::support::{OPERATOR, TestApp};

fn card(model: &str) -> Value {
    json!({ "cards": [{ "provider": "own", "model": model, "rates": { "input": "1", "output": "2" } }] })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_node_published_another_sells_at_once() {
    needs_postgres!();
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
    // A node that explains a charge whose prices it has not read yet.
    operator.post("/api/v1/prices", card("explained")).await.expect(StatusCode::CREATED);
    let quote = json!({ "quote": { "model": "explained", "input_tokens": 1_000, "max_output_tokens": 0 } });
    let later = acme.post("/api/v1/orgs/acme/reservations", quote).await.expect(StatusCode::CREATED);
    let settle = format!("/api/v1/reservations/{}/settle", later["id"].as_str().unwrap());
    let usage = json!({ "provider": "own", "model": "explained", "usage": { "input_tokens": 1_000 } });
    acme.post(&settle, usage).await.expect(StatusCode::OK);
    let explain = format!("/api/v1/reservations/{}/explain", later["id"].as_str().unwrap());
    let explained = gateway.get(&explain).await.expect(StatusCode::OK);
    assert_eq!(explained["attempts"][0]["agrees"], true, "{explained}");
    operator.post("/api/v1/prices", card("listed")).await.expect(StatusCode::CREATED);
    let listed = elsewhere.get("/api/v1/prices?limit=1000").await.expect(StatusCode::OK);
    assert!(found(&listed, "model", "listed"));
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
    let of_acme = operator.get("/api/v1/prices?org=acme&limit=1").await.expect(StatusCode::OK);
    assert_eq!((&of_acme["mark_up_percent"], of_acme["next"].is_string()), (&json!("2.5"), true));
    let own = acme.get("/api/v1/prices?org=acme").await.expect(StatusCode::OK);
    assert_eq!(own["mark_up_percent"], "2.5");
    other.get("/api/v1/prices?org=acme").await.expect(StatusCode::NOT_FOUND);
    app.clock().advance_seconds(60);
    assert_eq!(other.get("/api/v1/prices").await.expect(StatusCode::OK)["mark_up_percent"], "20");
    app.finish().await;
}

#[tokio::test]
async fn a_published_card_prices_from_its_moment_on_and_tells_its_history() {
    let app = TestApp::start().await;
    let acme = app.funded("acme", "10").await;
    let operator = app.operator();
    let card = |input: &str, from: String| {
        json!({ "cards": [{ "provider": "own", "model": "m", "effective_from": from,
                            "rates": { "input": input, "output": "2" } }] })
    };
    for (input, from) in [("1", app.time_in(0)), ("3", app.time_in(3_600))] {
        operator.post("/api/v1/prices", card(input, from)).await.expect(StatusCode::CREATED);
    }
    let [one, other] = ["4", "5"].map(|input| card(input, app.time_in(7_200))["cards"][0].clone());
    let both = operator.post("/api/v1/prices", json!({ "cards": [one, other] })).await;
    assert_eq!(both.expect(StatusCode::UNPROCESSABLE_ENTITY)["code"], "card_twice");
    let quote = json!({ "quote": { "model": "m", "input_tokens": 1_000_000, "max_output_tokens": 0 } });

    let now = acme.post("/api/v1/orgs/acme/reservations", quote.clone()).await.expect(StatusCode::CREATED);
    app.clock().advance_seconds(3_600);
    let later = acme.post("/api/v1/orgs/acme/reservations", quote).await.expect(StatusCode::CREATED);
    let settle = format!("/api/v1/reservations/{}/settle", now["id"].as_str().unwrap());
    let usage = json!({ "provider": "own", "model": "m", "usage": { "input_tokens": 500_000 } });
    let settled = acme.post(&settle, usage).await.expect(StatusCode::OK);
    let history = acme.get("/api/v1/prices/own/m").await.expect(StatusCode::OK);

    assert_eq!((&now["held"], &later["held"]), (&json!("1"), &json!("3")));
    assert_eq!(settled["charged"], "0.5", "at the price that the hold pinned");
    let inputs: Vec<&Value> =
        history["data"].as_array().unwrap().iter().map(|row| &row["card"]["rates"]["input"]).collect();
    assert_eq!(inputs, [&json!("1"), &json!("3")]);
    app.finish().await;
}

#[tokio::test]
async fn an_import_publishes_what_is_new_and_only_that() {
    let app = TestApp::start().await;
    let map = |input: &str| {
        format!(
            r#"{{ "own-model": {{ "litellm_provider": "openai", "mode": "chat", "max_output_tokens": 4096,
                "input_cost_per_token": {input}, "output_cost_per_token": 4e-06 }},
               "painter": {{ "litellm_provider": "openai", "mode": "image_generation" }} }}"#
        )
    };
    let import = |input: &str| {
        let import = litellm::import(&map(input), app.clock().now()).unwrap();
        assert_eq!((import.cards.len(), import.refused.len()), (1, 1));
        import.cards
    };
    let publish = |cards: Vec<_>, from: Option<String>| {
        let (url, key) = (app.url.clone(), OPERATOR);
        async move { prices::publish(&url, key, &cards, from.as_deref()).await }
    };

    let first = publish(import("1e-06"), None).await.unwrap();
    let again = publish(import("1e-06"), None).await.unwrap();
    let dearer = publish(import("2e-06"), Some(app.time_in(3_600))).await.unwrap();

    let version = first.version.unwrap();
    assert_eq!(first, Published { published: 1, unchanged: 0, version: Some(version) });
    assert_eq!(again, Published { published: 0, unchanged: 1, version: None });
    assert_eq!(dearer, Published { published: 1, unchanged: 0, version: Some(version + 1) });
    let history = app.operator().get("/api/v1/prices/openai/own-model").await.expect(StatusCode::OK);
    let rate = |row: usize| &history["data"][row]["card"]["rates"]["input"];
    assert_eq!((rate(0), rate(1)), (&json!("1"), &json!("2")));
    assert_eq!(history["data"][1]["card"]["effective_from"], app.time_in(3_600));
    let wrong_key = prices::publish(&app.url, "tg_nonsense", &import("3e-06"), None).await;
    assert!(matches!(wrong_key, Err(PricesError::Refused { status: 401, .. })), "{wrong_key:?}");
    app.finish().await;
}
