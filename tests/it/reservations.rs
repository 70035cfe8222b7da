//! Holds by quote, settles by usage, batches, explanations, and balances of the past.

use std::sync::Arc;

use axum::routing::post;
use axum::{Json, Router};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tollgate::config::{Config, ProviderConfig};
use tollgate::domain::credits::Credits;

use crate::support::{OPERATOR, TestApp, client, listen};

const RESERVATIONS: &str = "/api/v1/orgs/acme/reservations";

fn quote(max_output_tokens: u64) -> Value {
    let quote = json!({ "model": "gpt-4o-mini", "provider": "openai", "input_tokens": 1_000,
                        "max_output_tokens": max_output_tokens });
    json!({ "quote": quote })
}

#[tokio::test]
async fn i9_a_quote_covers_its_usage_and_the_charge_is_explained() {
    let app = TestApp::start().await;
    let acme = app.funded("acme", "10").await;
    let hold = acme.post(RESERVATIONS, quote(500)).await.expect(StatusCode::CREATED);
    let path = format!("/api/v1/reservations/{}", hold["id"].as_str().unwrap());

    let usage = json!({ "input_tokens": 700, "cache_read_tokens": 300, "output_tokens": 500 });
    let settle = json!({ "provider": "openai", "model": "gpt-4o-mini", "usage": usage });
    let settled = acme.post(&format!("{path}/settle"), settle).await.expect(StatusCode::OK);
    let explained = acme.get(&format!("{path}/explain")).await.expect(StatusCode::OK);

    // 0.15 in, 0.075 cached and 0.60 out, each per million tokens.
    assert_eq!((&settled["charged"], &settled["quarantined"]), (&json!("0.0004275"), &json!(null)));
    assert!(credits(&hold["held"]) >= credits(&settled["charged"]), "{hold}");
    let attempt = &explained["attempts"][0];
    assert_eq!((&attempt["agrees"], &attempt["breakdown"]["exact"]), (&json!(true), &json!("0.0004275")));
    assert_eq!(
        attempt["breakdown"]["tokens"][1],
        json!({"class": "cache_read", "quantity": 300, "rate": "0.075", "cost": "0.0000225"})
    );
    assert_eq!(explained["paid_by"][0]["credits"], "0.0004275");
    assert_eq!(explained["events"].as_array().unwrap().len(), 2);
    app.finish().await;
}

/// A provider that says when it was asked, and answers when it is told to.
async fn waiting_provider(asked: Arc<Notify>, go_on: Arc<Notify>) -> ProviderConfig {
    let answer = async move || {
        asked.notify_one();
        go_on.notified().await;
        let message = json!({ "role": "assistant", "content": "Hello." });
        Json(json!({
            "id": "c-1", "object": "chat.completion", "created": 1, "model": "gpt-4o-mini",
            "choices": [{ "index": 0, "message": message, "finish_reason": "stop" }],
            "usage": { "prompt_tokens": 10, "completion_tokens": 1_000, "total_tokens": 1_010 },
        }))
    };
    let url = listen(Router::new().route("/v1/chat/completions", post(answer))).await;
    let provider = json!({ "name": "openai", "kind": "openai", "base_url": url, "api_key": "k" });
    serde_json::from_value(provider).unwrap()
}

#[tokio::test]
async fn i2_an_org_does_not_say_what_the_requests_cost_that_tollgate_sends() {
    let (asked, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let provider = waiting_provider(asked.clone(), go_on.clone()).await;
    let app = TestApp::configured(&Config { providers: vec![provider], ..Config::default() }).await;
    let gateway = app.funded("acme", "10").await;
    let inference = app.key("acme", "inference").await;
    let chat = json!({ "model": "gpt-4o-mini", "messages": [{ "role": "user", "content": "Hello" }] });
    let free = async |id: &Value| {
        let path = format!("/api/v1/reservations/{}", id.as_str().unwrap());
        for (op, body) in [
            ("settle", json!({ "credits": "0" })),
            ("release", json!({})),
            ("extend", json!({ "ttl_seconds": 600_000 })),
        ] {
            let refused = gateway.post(&format!("{path}/{op}"), body.clone()).await;
            assert_eq!(refused.expect(StatusCode::FORBIDDEN)["code"], "not_its_sender", "{op}");
            let mut operation = json!({ "op": op, "reservation": id, "idempotency_key": op });
            operation.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
            let batch = json!({ "operations": [operation] });
            let outcomes = gateway.post("/api/v1/batch", batch).await.expect(StatusCode::OK);
            assert_eq!(outcomes["outcomes"][0]["status"], 403, "{outcomes}");
        }
    };
    let cheat = async {
        asked.notified().await;
        let open = gateway.get(RESERVATIONS).await.expect(StatusCode::OK);
        free(&open["data"][0]["id"]).await;
        go_on.notify_one();
        open["data"][0]["id"].clone()
    };

    let (answered, id) = tokio::join!(inference.post("/v1/chat/completions", chat), cheat);
    answered.expect(StatusCode::OK);
    free(&id).await;

    let balance = gateway.get("/api/v1/orgs/acme/balance").await.expect(StatusCode::OK);
    // 0.15 in and 0.60 out, each per million tokens.
    assert_eq!((&balance["consumed"], &balance["held"]), (&json!("0.0006015"), &json!("0")));
    let path = format!("/api/v1/reservations/{}/release", id.as_str().unwrap());
    let ended = app.operator().post(&path, json!({})).await.expect(StatusCode::CONFLICT);
    assert_eq!(ended["code"], "reservation_ended", "an operator may, where it has not ended");
    app.finish().await;
}

#[tokio::test]
async fn usage_that_can_not_be_true_is_refused_and_the_hold_stays() {
    let app = TestApp::start().await;
    let acme = app.funded("acme", "10").await;
    let hold = acme.post(RESERVATIONS, json!({ "credits": "1" })).await.expect(StatusCode::CREATED);
    let path = format!("/api/v1/reservations/{}", hold["id"].as_str().unwrap());
    let settle = |count: u64| json!({ "provider": "openai", "model": "gpt-4o-mini", "usage": { "input_tokens": count } });

    for count in [1_000_000_001, i64::MAX.unsigned_abs(), u64::MAX] {
        let refused =
            acme.post(&format!("{path}/settle"), settle(count)).await.expect(StatusCode::BAD_REQUEST);
        assert!(refused["detail"].as_str().unwrap().contains("1000000000"), "{refused}");
    }
    let stands = acme.get(&path).await.expect(StatusCode::OK);
    acme.post(&format!("{path}/settle"), settle(1_000)).await.expect(StatusCode::OK);

    assert_eq!(stands["status"], "held");
    app.operator().get("/api/v1/orgs/acme/spend?group_by=model").await.expect(StatusCode::OK);
    app.finish().await;
}

/// Some text that no database can make short.
fn noise(bytes: usize) -> String {
    let mut state = 1_u64;
    let letter = |state: &mut u64| {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'0' + u8::try_from((*state >> 33) % 75).unwrap())
    };
    std::iter::repeat_with(|| letter(&mut state)).take(bytes).collect()
}

#[tokio::test]
async fn whatever_a_hold_may_say_of_itself_is_grouped_by() {
    let app = TestApp::start().await;
    let acme = app.funded("acme", "10").await;
    let labels = |bytes: usize| {
        let values = (0..4).map(|label| (format!("label-{label}"), json!(noise(bytes / 4 - 7))));
        Value::Object(values.collect())
    };
    let hold =
        |end_user: String, labels: Value| json!({ "credits": "1", "end_user": end_user, "labels": labels });

    let longest = acme.post(RESERVATIONS, hold(noise(255), labels(768))).await.expect(StatusCode::CREATED);
    let settle = json!({ "provider": noise(255), "model": noise(255), "usage": { "input_tokens": 1 } });
    let path = format!("/api/v1/reservations/{}/settle", longest["id"].as_str().unwrap());
    acme.post(&path, settle).await.expect(StatusCode::OK);
    for refused in [
        hold(noise(256), json!({})),
        hold("a\u{0}b".into(), json!({})),
        hold(String::new(), json!({})),
        hold("u".into(), labels(772)),
        hold("u".into(), json!({ "a": "b\u{0}" })),
        hold(
            "u".into(),
            (0..17).map(|n| (n.to_string(), json!("x"))).collect::<serde_json::Map<_, _>>().into(),
        ),
    ] {
        acme.post(RESERVATIONS, refused).await.expect(StatusCode::BAD_REQUEST);
    }

    let spend = app.operator().get("/api/v1/orgs/acme/spend?group_by=end_user").await.expect(StatusCode::OK);
    assert_eq!(spend["data"][0]["end_user"], noise(255));
    let formula = acme.post(RESERVATIONS, hold("=1+1".into(), json!({}))).await.expect(StatusCode::CREATED);
    let path = format!("/api/v1/reservations/{}/settle", formula["id"].as_str().unwrap());
    acme.post(&path, json!({ "credits": "1" })).await.expect(StatusCode::OK);
    let asked = format!("{}/api/v1/orgs/acme/spend?group_by=end_user&format=csv", app.url);
    let csv = client().get(asked).header("authorization", format!("bearer {OPERATOR}")).send().await.unwrap();
    let csv = csv.error_for_status().unwrap().text().await.unwrap();
    assert!(csv.contains("\n'=1+1,1,1,"), "{csv}");
    app.finish().await;
}

#[tokio::test]
async fn a_refused_quote_names_the_longest_output_that_is_affordable() {
    let app = TestApp::start().await;
    let acme = app.funded("acme", "0.005").await;

    let refused = acme.post(RESERVATIONS, quote(1_000_000)).await.expect(StatusCode::PAYMENT_REQUIRED);
    let longest = refused["max_affordable_output_tokens"].as_u64().unwrap();

    acme.post(RESERVATIONS, quote(longest + 1)).await.expect(StatusCode::PAYMENT_REQUIRED);
    acme.post(RESERVATIONS, quote(longest)).await.expect(StatusCode::CREATED);
    let unpriced =
        json!({ "quote": { "model": "no-such-model", "input_tokens": 1, "max_output_tokens": 1 } });
    let unpriced = acme.post(RESERVATIONS, unpriced).await.expect(StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(unpriced["code"], "unpriced_model");
    // Not even its input is; and what is no quote has no output.
    let long =
        json!({ "quote": { "model": "gpt-4o-mini", "input_tokens": 1_000_000, "max_output_tokens": 1 } });
    let long = acme.post(RESERVATIONS, long).await.expect(StatusCode::PAYMENT_REQUIRED);
    assert_eq!(long.get("max_affordable_output_tokens"), Some(&json!(null)));
    let plain = acme.post(RESERVATIONS, json!({ "credits": "9" })).await.expect(StatusCode::PAYMENT_REQUIRED);
    let suspend = json!({ "reason": "unpaid" });
    app.operator().post("/api/v1/orgs/acme/suspend", suspend).await.expect(StatusCode::OK);
    let suspended = acme.post(RESERVATIONS, quote(1)).await.expect(StatusCode::FORBIDDEN);
    for other in [plain, suspended] {
        assert_eq!(other.get("max_affordable_output_tokens"), None, "{other}");
    }
    app.finish().await;
}

#[tokio::test]
async fn a_quote_without_a_provider_covers_whoever_serves_the_org() {
    let app = TestApp::start().await;
    let acme = app.funded("acme", "100").await;
    let operator = app.operator();
    let org = acme.get("/api/v1/orgs/acme").await.expect(StatusCode::OK)["id"].clone();
    let card = |provider: &str, org: Option<&Value>, rate: &str| {
        let rates = json!({ "input": rate, "output": rate });
        json!({ "provider": provider, "model": "mm", "org": org, "rates": rates })
    };
    let cards = json!({ "cards": [
        card("alpha", None, "1"), card("beta", Some(&org), "1000"), card("gamma", None, "5000"),
        card("gamma", Some(&org), "2"),
    ]});
    operator.post("/api/v1/prices", cards).await.expect(StatusCode::CREATED);

    for (provider, charged) in [("alpha", "0.02"), ("beta", "20"), ("gamma", "0.04")] {
        let quote =
            json!({ "quote": { "model": "mm", "input_tokens": 10_000, "max_output_tokens": 10_000 } });
        let hold = acme.post(RESERVATIONS, quote).await.expect(StatusCode::CREATED);
        let path = format!("/api/v1/reservations/{}/settle", hold["id"].as_str().unwrap());
        let usage = json!({ "input_tokens": 10_000, "output_tokens": 10_000 });
        let settle = json!({ "provider": provider, "model": "mm", "usage": usage });
        let settled = acme.post(&path, settle).await.expect(StatusCode::OK);

        assert_eq!((&settled["charged"], settled["quarantined"].as_str()), (&json!(charged), None));
        assert!(credits(&hold["held"]) >= credits(&settled["charged"]), "{provider}: {hold}");
    }
    app.finish().await;
}

#[tokio::test]
async fn i9_who_paid_adds_up_to_what_was_charged_and_what_no_lot_paid_is_told() {
    let app = TestApp::start().await;
    let acme = app.funded("acme", "9.6").await;
    let operator = app.operator();
    let bundle = json!({ "name": "four", "credits": "4", "price": "4.00", "currency": "USD" });
    operator.post("/api/v1/bundles", bundle).await.expect(StatusCode::CREATED);
    let buy = |reference: &str| json!({ "bundle": "four", "payment": { "method": "manual", "reference": reference } });
    let hold = async |credits: &str| {
        let hold = json!({ "credits": credits, "ttl_seconds": 60, "on_expiry": "charge_bound" });
        let hold = acme.post(RESERVATIONS, hold).await.expect(StatusCode::CREATED);
        format!("/api/v1/reservations/{}", hold["id"].as_str().unwrap())
    };
    let settle = async |path: &str, credits: &str| {
        let cost = json!({ "credits": credits });
        acme.post(&format!("{path}/settle"), cost).await.expect(StatusCode::OK);
    };
    // The lines of who paid, and what went on debt.
    let explained = async |path: &str| {
        let explained = acme.get(&format!("{path}/explain")).await.expect(StatusCode::OK);
        let paid: Vec<Credits> =
            explained["paid_by"].as_array().unwrap().iter().map(|paid| credits(&paid["credits"])).collect();
        let sum = paid.iter().copied().sum::<Credits>().saturating_add(credits(&explained["on_debt"]));
        assert_eq!(sum, credits(&explained["charged"]), "{explained}");
        (paid.iter().map(Credits::to_string).collect::<Vec<_>>(), explained["on_debt"].clone())
    };

    // An estimate that proves too high gives back to the lot that paid.
    let expired = hold("1").await;
    app.clock().advance_seconds(60);
    acme.get("/api/v1/orgs/acme/balance").await.expect(StatusCode::OK);
    assert_eq!(explained(&expired).await, (vec!["1".to_owned()], json!("0")));
    settle(&expired, "0.4").await;
    assert_eq!(explained(&expired).await, (vec!["0.4".to_owned()], json!("0")));
    // Beyond all lots, and after new ones have repaid that.
    let (above, late) = (hold("1").await, hold("2").await);
    app.clock().advance_seconds(60);
    settle(&above, "15").await;
    operator.post("/api/v1/orgs/acme/purchases", buy("a")).await.expect(StatusCode::CREATED);
    assert_eq!(explained(&above).await.1, json!("7.8"));
    settle(&late, "9").await;
    operator.post("/api/v1/orgs/acme/purchases", buy("b")).await.expect(StatusCode::CREATED);
    operator.post("/api/v1/orgs/acme/purchases", buy("c")).await.expect(StatusCode::CREATED);
    for path in [&expired, &above, &late] {
        explained(path).await;
    }
    app.finish().await;
}

#[tokio::test]
async fn i3_usage_without_a_price_is_charged_at_the_bound_and_never_refused() {
    let app = TestApp::start().await;
    let acme = app.funded("acme", "10").await;
    let hold = acme.post(RESERVATIONS, json!({ "credits": "2" })).await.expect(StatusCode::CREATED);
    let path = format!("/api/v1/reservations/{}/settle", hold["id"].as_str().unwrap());

    let settle = json!({ "provider": "nobody", "model": "unheard-of", "usage": { "input_tokens": 5 } });
    let settled = acme.post(&path, settle).await.expect(StatusCode::OK);

    assert_eq!(settled["charged"], "2");
    assert_eq!(settled["quarantined"], "nobody/unheard-of has no price for this usage");
    let events = app.operator().get("/api/v1/orgs/acme/events").await.expect(StatusCode::OK);
    let kinds: Vec<&str> =
        events["data"].as_array().unwrap().iter().filter_map(|event| event["kind"].as_str()).collect();
    assert!(kinds.contains(&"UsageQuarantined"), "{kinds:?}");
    app.finish().await;
}

#[tokio::test]
async fn i4_a_batch_answers_each_operation_as_its_route_would() {
    let app = TestApp::start().await;
    let acme = app.funded("acme", "10").await;
    let reserve = |key: &str, credits: &str| json!({ "op": "reserve", "org": "acme", "idempotency_key": key, "credits": credits });
    let operations = vec![
        reserve("a", "4"),
        reserve("a", "4"),
        reserve("a", "5"),
        reserve("b", "9"),
        json!({ "op": "reserve", "org": "acme", "credits": "1" }),
        json!({ "op": "dance", "reservation": "x", "idempotency_key": "d" }),
        json!(7),
    ];

    let first = acme.post("/api/v1/batch", json!({ "operations": operations })).await.expect(StatusCode::OK);
    let statuses = |outcomes: &Value| -> Vec<u64> {
        outcomes["outcomes"].as_array().unwrap().iter().filter_map(|one| one["status"].as_u64()).collect()
    };
    let held = first["outcomes"][0]["body"]["id"].clone();
    let ends = json!({ "operations": [
        { "op": "extend", "reservation": held, "idempotency_key": "e", "ttl_seconds": 900 },
        { "op": "settle", "reservation": held, "idempotency_key": "s", "credits": "1.5" },
        { "op": "release", "reservation": held, "idempotency_key": "r" },
    ]});
    let second = acme.post("/api/v1/batch", ends.clone()).await.expect(StatusCode::OK);
    let again = acme.post("/api/v1/batch", ends).await.expect(StatusCode::OK);
    let settle = format!("/api/v1/reservations/{}/settle", held.as_str().unwrap());
    let single =
        acme.send(reqwest::Method::POST, &settle, Some("s"), Some(json!({ "credits": "1.5" }))).await;

    assert_eq!(statuses(&first), [201, 201, 409, 402, 400, 400, 400], "{first}");
    assert_eq!(statuses(&second), [200, 200, 409], "{second}");
    assert_eq!(second["outcomes"][1], again["outcomes"][1]);
    assert_eq!(single.expect(StatusCode::OK), second["outcomes"][1]["body"]);
    app.finish().await;
}

#[tokio::test]
async fn a_hold_that_nobody_ends_charges_what_its_owner_has_said() {
    let app = TestApp::start().await;
    let acme = app.funded("acme", "10").await;
    for (credits, policy) in [("1", "release"), ("2", "charge_bound")] {
        let hold = json!({ "credits": credits, "ttl_seconds": 60, "on_expiry": policy });
        acme.post(RESERVATIONS, hold).await.expect(StatusCode::CREATED);
    }
    let odd = json!({ "credits": "1", "on_expiry": "charge_input" });
    acme.post(RESERVATIONS, odd).await.expect(StatusCode::BAD_REQUEST);

    app.clock().advance_seconds(60);

    let balance = acme.get("/api/v1/orgs/acme/balance").await.expect(StatusCode::OK);
    let field = |name: &str| balance[name].clone();
    assert_eq!([field("consumed"), field("available"), field("held")], [json!("2"), json!("8"), json!("0")]);
    app.finish().await;
}

#[tokio::test]
async fn credits_that_a_hold_gives_back_when_their_time_is_over_are_not_said_to_be_available() {
    let app = TestApp::start().await;
    let acme = app.funded("acme", "10").await;
    let expires_at = app.clock().now().plus_seconds(60).to_rfc3339();
    let grant = json!({ "credits": "5", "kind": "goodwill", "expires_at": expires_at, "priority": 1 });
    app.operator().post("/api/v1/orgs/acme/grants", grant).await.expect(StatusCode::CREATED);
    let hold = json!({ "credits": "12", "ttl_seconds": 600 });
    let hold = acme.post(RESERVATIONS, hold).await.expect(StatusCode::CREATED);
    let release = format!("/api/v1/reservations/{}/release", hold["id"].as_str().unwrap());
    app.clock().advance_seconds(120);

    let ended = acme.post(&release, json!({})).await.expect(StatusCode::OK);

    let balance = acme.get("/api/v1/orgs/acme/balance").await.expect(StatusCode::OK);
    assert_eq!((&ended["released"], &ended["available"]), (&json!("12"), &balance["available"]), "{balance}");
    app.finish().await;
}

#[tokio::test]
async fn a_balance_as_of_a_moment_is_what_was_answered_then() {
    let app = TestApp::start().await;
    let acme = app.funded("acme", "10").await;
    let mut answered = Vec::new();
    for (credits, ttl) in [("1", 30), ("2", 3600), ("3", 45)] {
        app.clock().advance_seconds(20);
        acme.post(RESERVATIONS, json!({ "credits": credits, "ttl_seconds": ttl }))
            .await
            .expect(StatusCode::CREATED);
        app.clock().advance_seconds(1);
        let now = acme.get("/api/v1/orgs/acme/balance").await.expect(StatusCode::OK);
        answered.push((app.time_in(0), now));
    }
    app.clock().advance_seconds(1_000);
    acme.post(RESERVATIONS, json!({ "credits": "4" })).await.expect(StatusCode::CREATED);

    for (at, then) in answered {
        let balance = acme.get(&format!("/api/v1/orgs/acme/balance?as_of={at}")).await.expect(StatusCode::OK);
        for field in ["available", "held", "granted", "consumed", "lots"] {
            assert_eq!(balance[field], then[field], "{field} as of {at}");
        }
    }
    // What happens in this moment still counts in it.
    let now = app.time_in(0);
    let refused =
        acme.get(&format!("/api/v1/orgs/acme/balance?as_of={now}")).await.expect(StatusCode::BAD_REQUEST);
    assert!(refused["detail"].as_str().unwrap().contains("ask for 20"), "{refused}");
    app.clock().advance_seconds(8);
    acme.get(&format!("/api/v1/orgs/acme/balance?as_of={now}")).await.expect(StatusCode::OK);
    acme.get("/api/v1/orgs/acme/balance?as_of=2999-01-01T00:00:00Z").await.expect(StatusCode::BAD_REQUEST);
    let before =
        acme.get("/api/v1/orgs/acme/balance?as_of=2020-01-01T00:00:00Z").await.expect(StatusCode::NOT_FOUND);
    assert!(before["detail"].as_str().unwrap().contains("was opened at 20"), "{before}");
    app.finish().await;
}

#[tokio::test]
async fn a_reservation_is_shown_long_after_it_ended_and_pages_end() {
    let app = TestApp::start().await;
    let acme = app.funded("acme", "10").await;
    for _ in 0..5 {
        let hold = acme.post(RESERVATIONS, json!({ "credits": "1" })).await.expect(StatusCode::CREATED);
        let path = format!("/api/v1/reservations/{}", hold["id"].as_str().unwrap());
        acme.post(&format!("{path}/settle"), json!({ "credits": "0.5" })).await.expect(StatusCode::OK);
    }
    let admin = app.key("acme", "org_admin").await;
    let (mut after, mut seen) = (String::new(), Vec::new());
    loop {
        let page =
            admin.get(&format!("/api/v1/orgs/acme/events?limit=4{after}")).await.expect(StatusCode::OK);
        seen.extend(page["data"].as_array().unwrap().iter().map(|event| event["version"].as_i64().unwrap()));
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={next}");
    }

    assert_eq!(seen, (1..=i64::try_from(seen.len()).unwrap()).collect::<Vec<_>>());
    app.finish().await;
}

#[tokio::test]
async fn one_payment_buys_once_whoever_asks_and_however_often() {
    let app = TestApp::start().await;
    app.funded("acme", "1").await;
    let operator = app.operator();
    let bundle = json!({ "name": "ten", "credits": "10", "price": "8.00", "currency": "USD" });
    operator.post("/api/v1/bundles", bundle).await.expect(StatusCode::CREATED);
    let buy = |quantity: u32| {
        let payment = json!({ "method": "manual", "reference": "INV-7" });
        operator.post(
            "/api/v1/orgs/acme/purchases",
            json!({ "bundle": "ten", "quantity": quantity, "payment": payment }),
        )
    };

    let (one, other) = tokio::join!(buy(1), buy(1));
    let different = buy(2).await;

    let (one, other) = (one.expect(StatusCode::CREATED), other.expect(StatusCode::CREATED));
    assert_eq!(one["id"], other["id"], "the second joins the first");
    different.expect(StatusCode::CONFLICT);
    let balance = operator.get("/api/v1/orgs/acme/balance").await.expect(StatusCode::OK);
    assert_eq!(balance["granted"], "11");
    app.finish().await;
}

fn credits(amount: &Value) -> Credits {
    amount.as_str().unwrap().parse().unwrap()
}
