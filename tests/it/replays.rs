//! One key, one effect, one answer (I4), on every route that changes money.

use futures_util::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Map, Value, json};

use crate::support::{Actor, TestApp};

/// A route, a body, and another body under the same key.
const ROUTES: &[(&str, &str, &str)] = &[
    (
        "/api/v1/orgs",
        r#"{"slug":"other","name":"Other","billing_email":"a@example.com"}"#,
        r#"{"slug":"other","name":"Other"}"#,
    ),
    (
        "/api/v1/bundles",
        r#"{"name":"ten","credits":"10","price":"8.00","currency":"USD","validity_days":30}"#,
        r#"{"name":"ten","credits":"10","price":"8.00","currency":"USD"}"#,
    ),
    (
        "/api/v1/orgs/acme/purchases",
        r#"{"bundle":"ten","payment":{"method":"manual","reference":"INV-1"}}"#,
        r#"{"bundle":"ten","payment":{"method":"manual","reference":"INV-2"}}"#,
    ),
    (
        "/api/v1/orgs/acme/grants",
        r#"{"credits":"5","kind":"goodwill","priority":-1}"#,
        r#"{"credits":"5","kind":"goodwill"}"#,
    ),
    (
        "/api/v1/orgs/acme/adjustments",
        r#"{"credits":"-1.5","reason":"granted twice"}"#,
        r#"{"credits":"1.5","reason":"granted twice"}"#,
    ),
    (
        "/api/v1/orgs/acme/adjustments",
        r#"{"credits":"0.5","reason":"made good"}"#,
        r#"{"credits":"0.5","reason":"other"}"#,
    ),
    ("/api/v1/prices", r#"{"mark_ups":[{"percent":"7.5"}],"cards":[]}"#, r#"{"mark_ups":[{"percent":"8"}]}"#),
    (
        "/api/v1/orgs/acme/refunds",
        r#"{"lot":"{lot}","credits":"4","reference":"RF-1"}"#,
        r#"{"lot":"{lot}","credits":"3","reference":"RF-1"}"#,
    ),
    ("/api/v1/orgs/acme/reservations", r#"{"credits":"2","ttl_seconds":60}"#, r#"{"credits":"2"}"#),
    ("/api/v1/reservations/{hold}/extend", r#"{"ttl_seconds":900}"#, r#"{"ttl_seconds":901}"#),
    ("/api/v1/reservations/{hold}/settle", r#"{"credits":"1.25"}"#, r#"{"credits":"1.26"}"#),
];
/// Their places in `ROUTES`.
const PURCHASE: usize = 2;
const REFUND: usize = 7;
const RESERVE: usize = 8;

#[tokio::test]
async fn i4_every_repeat_gets_the_first_answer_and_every_other_body_a_conflict() {
    let app = TestApp::start().await;
    let acme = app.funded("acme", "100").await;
    let operator = app.operator();
    let mut first: Vec<(StatusCode, Value)> = Vec::new();
    let filled = |text: &str, first: &[(StatusCode, Value)]| {
        let id =
            |index: usize| first.get(index).and_then(|(_, body)| body["id"].as_str()).unwrap_or_default();
        text.replace("{lot}", id(PURCHASE)).replace("{hold}", id(RESERVE))
    };
    for (index, (path, body, _)) in ROUTES.iter().enumerate() {
        let (path, body) = (filled(path, &first), filled(body, &first));
        let answer = keyed(&operator, &path, index, serde_json::from_str(&body).unwrap()).await;
        assert!(answer.0.is_success(), "{path}: {}", answer.1);
        first.push(answer);
    }
    // What was answered must not depend on what came after it.
    acme.post("/api/v1/orgs/acme/reservations", json!({ "credits": "90" })).await.expect(StatusCode::CREATED);
    operator.post("/api/v1/orgs/other/suspend", json!({})).await.expect(StatusCode::OK);
    let before = acme.get("/api/v1/orgs/acme/balance").await.expect(StatusCode::OK);

    for (index, (path, body, other)) in ROUTES.iter().enumerate() {
        let path = filled(path, &first);
        let [body, other] = [body, other].map(|text| serde_json::from_str(&filled(text, &first)).unwrap());
        assert_eq!(keyed(&operator, &path, index, reversed(&body)).await, first[index], "{path}");
        let conflict = keyed(&operator, &path, index, other).await;
        assert_eq!(conflict.0, StatusCode::CONFLICT, "{path}: {}", conflict.1);
        assert_eq!(conflict.1["code"], "idempotency_conflict");
    }
    let on_another_route =
        keyed(&operator, "/api/v1/orgs/acme/grants", RESERVE, json!({ "credits": "2", "kind": "goodwill" }));
    assert_eq!(on_another_route.await.0, StatusCode::CONFLICT);
    assert_eq!(first[REFUND].1["owed"], json!({ "amount": "3.20", "currency": "USD" }));
    assert_eq!(first[REFUND].1["owed_tax"], json!({ "amount": "0.00", "currency": "USD" }));
    assert_eq!(acme.get("/api/v1/orgs/acme/balance").await.expect(StatusCode::OK), before);
    app.finish().await;
}

/// A route that sets something, a body, a later one's, and what of it is read where.
const SETTINGS: &[(&str, [&str; 2], &str)] = &[
    (
        "PUT /api/v1/orgs/acme/budgets",
        [
            r#"{"budgets":[{"scope":"org","window":"day","cap":"1"}]}"#,
            r#"{"budgets":[{"scope":"org","window":"day","cap":"2"}]}"#,
        ],
        "/api/v1/orgs/acme/budgets",
    ),
    (
        "PUT /api/v1/orgs/acme/limits",
        [
            r#"{"limits":[{"scope":"org","requests_per_minute":1}]}"#,
            r#"{"limits":[{"scope":"org","requests_per_minute":2}]}"#,
        ],
        "/api/v1/orgs/acme/limits",
    ),
    (
        "PUT /api/v1/orgs/acme/alert_rules",
        [r#"{"rules":[{"kind":"balance_below","credits":"1"}]}"#, r#"{"rules":[]}"#],
        "/api/v1/orgs/acme/alert_rules",
    ),
    (
        "PUT /api/v1/orgs/acme/overdraft_limit",
        [r#"{"overdraft_limit":"1"}"#, r#"{"overdraft_limit":"2"}"#],
        "/api/v1/orgs/acme",
    ),
];

#[tokio::test]
async fn i4_a_setting_that_is_repeated_late_does_not_undo_a_newer_one() {
    let app = TestApp::start().await;
    app.funded("acme", "1").await;
    let operator = app.operator();
    let set = async |route: &str, key: &str, body: &str| {
        let (method, path) = route.split_once(' ').unwrap();
        let body = serde_json::from_str(body).unwrap();
        let answer = operator.send(method.parse().unwrap(), path, Some(key), Some(body)).await;
        (answer.status, answer.body["code"].clone())
    };
    for (route, [first, later], read) in SETTINGS {
        let before = operator.get(read).await.expect(StatusCode::OK);
        let [one, two] = ["one", "two"].map(|name| format!("{route} {name}"));
        assert_eq!(set(route, &one, first).await.0, StatusCode::OK, "{route}");
        assert_ne!(operator.get(read).await.expect(StatusCode::OK), before, "{route}");
        assert_eq!(set(route, &two, later).await.0, StatusCode::OK, "{route}");
        let stands = operator.get(read).await.expect(StatusCode::OK);

        assert_eq!(set(route, &one, first).await.0, StatusCode::OK, "{route}");
        assert_eq!(operator.get(read).await.expect(StatusCode::OK), stands, "{route}");
        let conflict = set(route, &one, later).await;
        assert_eq!(conflict, (StatusCode::CONFLICT, json!("idempotency_conflict")), "{route}");
    }

    let change = async |what: &str, key: &str| {
        let path = format!("/api/v1/orgs/acme/{what}");
        let answer = operator.send(Method::POST, &path, Some(key), Some(json!({}))).await;
        answer.expect(StatusCode::OK)["status"].clone()
    };
    assert_eq!(change("suspend", "s").await, "suspended");
    assert_eq!(change("resume", "r").await, "active");
    assert_eq!(change("suspend", "s").await, "active", "it was resumed since");
    assert_eq!(change("suspend", "t").await, "suspended");
    assert_eq!(change("resume", "r").await, "suspended");
    app.finish().await;
}

#[tokio::test]
async fn i4_a_repeated_project_is_the_first_and_a_repeated_key_is_named_without_its_secret() {
    let app = TestApp::start().await;
    app.funded("acme", "1").await;
    let operator = app.operator();
    let project = json!({ "name": "web" });
    let path = "/api/v1/orgs/acme/projects";
    let first = keyed(&operator, path, 1, project.clone()).await;
    let again = keyed(&operator, path, 1, project).await;
    let other = keyed(&operator, path, 1, json!({ "name": "search" })).await;
    assert_eq!((first.0, &first), (StatusCode::CREATED, &again));
    assert_eq!((other.0, &other.1["code"]), (StatusCode::CONFLICT, &json!("idempotency_conflict")));

    for (path, role) in [("/api/v1/orgs/acme/keys", "gateway"), ("/api/v1/keys", "finance")] {
        let key = json!({ "name": "k", "role": role });
        let count = async || {
            let listed = operator.get(path).await.expect(StatusCode::OK);
            listed["data"].as_array().unwrap().len()
        };
        let before = count().await;
        let first = keyed(&operator, path, 2, key.clone()).await;
        let again = keyed(&operator, path, 2, key.clone()).await;
        let other = keyed(&operator, path, 2, json!({ "name": "l", "role": role })).await;
        assert_eq!(first.0, StatusCode::CREATED);
        assert_eq!((again.0, &again.1["code"]), (StatusCode::CONFLICT, &json!("key_made_before")));
        assert_eq!((&again.1["key"], again.1.get("secret")), (&first.1["id"], None));
        assert_eq!((other.0, &other.1["code"]), (StatusCode::CONFLICT, &json!("idempotency_conflict")));
        assert_eq!(count().await, before + 1);
        // Nobody has to name one.
        operator.send(Method::POST, path, None, Some(key)).await.expect(StatusCode::CREATED);
    }
    app.finish().await;
}

#[tokio::test]
async fn i4_a_repeat_names_the_key_though_it_has_expired_since() {
    let app = TestApp::start().await;
    app.funded("acme", "1").await;
    let operator = app.operator();
    let wanted = [("/api/v1/orgs/acme/keys", "gateway"), ("/api/v1/keys", "finance")];
    let expires_at = app.time_in(60);
    let asked = async |path: &str, role: &str| {
        let key = json!({ "name": "k", "role": role, "expires_at": expires_at });
        keyed(&operator, path, 1, key).await
    };
    let mut made = Vec::new();
    for (path, role) in wanted {
        made.push(asked(path, role).await.1["id"].clone());
    }

    app.clock().advance_seconds(60);

    for ((path, role), made) in wanted.into_iter().zip(&made) {
        let (status, again) = asked(path, role).await;
        assert_eq!((status, &again["code"]), (StatusCode::CONFLICT, &json!("key_made_before")), "{path}");
        assert_eq!(&again["key"], made);
    }
    app.finish().await;
}

#[tokio::test]
async fn i4_an_opening_that_is_refused_binds_no_key() {
    let app = TestApp::start().await;
    let open = |time_zone: &str, overdraft: &str| {
        let names = json!({ "slug": "acme", "name": "Acme", "billing_email": "a@example.com" });
        let mut body = names.as_object().unwrap().clone();
        body.extend([("time_zone".into(), json!(time_zone)), ("overdraft_limit".into(), json!(overdraft))]);
        Value::Object(body)
    };
    let operator = app.operator();

    for refused in [open("Mars/Olympus", "0"), open("UTC", "-1")] {
        let (status, body) = keyed(&operator, "/api/v1/orgs", 1, refused).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{body}");
    }
    let (status, body) = keyed(&operator, "/api/v1/orgs", 1, open("UTC", "0")).await;

    assert_eq!(status, StatusCode::CREATED, "{body}");
    app.finish().await;
}

#[tokio::test]
async fn a_repeated_opening_brings_back_nothing_that_was_erased_or_renamed() {
    let app = TestApp::start().await;
    let operator = app.operator();
    let open =
        |slug: &str, name: &str| json!({ "slug": slug, "name": name, "billing_email": "ada@example.com" });
    let status = async |key: usize, body: Value| keyed(&operator, "/api/v1/orgs", key, body).await.0;
    for (key, slug) in [(1, "acme"), (2, "beta")] {
        assert_eq!(status(key, open(slug, "Ada")).await, StatusCode::CREATED);
    }

    operator
        .send(Method::DELETE, "/api/v1/orgs/acme/profile", None, None)
        .await
        .expect(StatusCode::NO_CONTENT);
    let renamed = Some(json!({ "name": "Ada & Co" }));
    operator.send(Method::PUT, "/api/v1/orgs/beta/profile", None, renamed).await.expect(StatusCode::OK);
    for (key, slug) in [(1, "acme"), (2, "beta")] {
        assert_eq!(status(key, open(slug, "Ada")).await, StatusCode::CREATED, "the first answer");
    }
    assert_eq!(status(3, open("acme", "Somebody else")).await, StatusCode::CONFLICT);
    assert_eq!(status(4, open("acme", "Ada")).await, StatusCode::CONFLICT, "who can tell?");

    for (slug, name) in [("acme", ""), ("beta", "Ada & Co")] {
        let org = operator.get(&format!("/api/v1/orgs/{slug}")).await.expect(StatusCode::OK);
        assert_eq!(org["name"], name);
        assert!(org["billing_email"].is_null(), "{org}");
    }
    app.finish().await;
}

#[tokio::test]
async fn i4_a_purchases_key_is_its_orgs() {
    let app = TestApp::start().await;
    for org in ["acme", "other"] {
        app.funded(org, "1").await;
    }
    let operator = app.operator();
    let bundle = json!({ "name": "ten", "credits": "10", "price": "8.00", "currency": "USD" });
    operator.post("/api/v1/bundles", bundle).await.expect(StatusCode::CREATED);
    let buy = |org: &str, reference: &str| {
        let body = json!({ "bundle": "ten", "payment": { "method": "manual", "reference": reference } });
        (format!("/api/v1/orgs/{org}/purchases"), body)
    };
    let grant = || ("/api/v1/orgs/acme/grants".to_owned(), json!({ "credits": "1", "kind": "goodwill" }));
    let status = async |key: usize, (path, body): (String, Value)| keyed(&operator, &path, key, body).await.0;

    assert_eq!(status(1, buy("acme", "A1")).await, StatusCode::CREATED);
    assert_eq!(status(1, buy("acme", "A1")).await, StatusCode::CREATED);
    assert_eq!(
        status(1, buy("other", "B1")).await,
        StatusCode::CREATED,
        "another org's key of the same name"
    );
    assert_eq!(status(1, buy("acme", "A2")).await, StatusCode::CONFLICT);
    assert_eq!(status(1, grant()).await, StatusCode::CONFLICT);
    assert_eq!(status(2, grant()).await, StatusCode::CREATED);
    assert_eq!(status(2, buy("acme", "A3")).await, StatusCode::CONFLICT);
    assert_eq!(status(3, buy("acme", "A3")).await, StatusCode::CREATED, "the payment is free to buy");
    for (org, granted) in [("acme", "22"), ("other", "11")] {
        let balance = operator.get(&format!("/api/v1/orgs/{org}/balance")).await.expect(StatusCode::OK);
        assert_eq!(balance["granted"], granted, "{org}");
    }
    app.finish().await;
}

async fn keyed(actor: &Actor, path: &str, key: usize, body: Value) -> (StatusCode, Value) {
    let answer = actor.send(Method::POST, path, Some(&format!("k{key}")), Some(body)).await;
    (answer.status, answer.body)
}

/// The same body with its names in the other order.
fn reversed(body: &Value) -> Value {
    Value::Object(body.as_object().unwrap().clone().into_iter().rev().collect::<Map<_, _>>())
}

#[tokio::test]
async fn i12_a_slug_for_which_many_ask_at_once_is_given_to_one() {
    for round in 0..8 {
        let app = TestApp::start().await;
        let operator = app.operator();
        let asked = |who: usize| json!({ "slug": "acme", "name": format!("Caller {who}"), "billing_email": format!("{who}@example.com") });

        let answers = join_all((0..8).map(|who| keyed(&operator, "/api/v1/orgs", who, asked(who)))).await;

        let shown = operator.get("/api/v1/orgs/acme").await.expect(StatusCode::OK);
        let given: Vec<usize> = (0..8).filter(|who| answers[*who].0 == StatusCode::CREATED).collect();
        assert_eq!(given.len(), 1, "round {round}: {answers:?}");
        assert_eq!(answers[given[0]].1, shown);
        for (who, answer) in answers.iter().enumerate() {
            // Whoever was refused is refused again, and the first answer is given again.
            let again = keyed(&operator, "/api/v1/orgs", who, asked(who)).await;
            assert_eq!(again.0, answer.0, "round {round}: {again:?}");
        }
        // The same wish joins, whenever it comes.
        let joined =
            join_all((8..12).map(|key| keyed(&operator, "/api/v1/orgs", key, asked(given[0])))).await;
        assert!(joined.iter().all(|joined| joined.1 == shown), "{joined:?}");
        app.finish().await;
    }
}

#[tokio::test]
async fn i4_a_reference_refunds_once() {
    let app = TestApp::start().await;
    app.funded("acme", "1").await;
    let operator = app.operator();
    let lots = {
        let bundle = json!({ "name": "ten", "credits": "10", "price": "8.00", "currency": "USD" });
        operator.post("/api/v1/bundles", bundle).await.expect(StatusCode::CREATED);
        let buy = async |reference: &str| {
            let payment = json!({ "method": "manual", "reference": reference });
            let purchase = json!({ "bundle": "ten", "payment": payment });
            let lot = operator.post("/api/v1/orgs/acme/purchases", purchase).await;
            lot.expect(StatusCode::CREATED)["id"].clone()
        };
        [buy("INV-1").await, buy("INV-2").await]
    };
    let refund = |lot: usize, credits: &str, reference: &str| {
        let refund = json!({ "lot": lots[lot], "credits": credits, "reference": reference });
        operator.post("/api/v1/orgs/acme/refunds", refund)
    };

    let raced = join_all((0..4).map(|_| refund(0, "10", "RF-1"))).await;
    let first = raced[0].body.clone();
    let later = refund(0, "10", "RF-1").await.expect(StatusCode::CREATED);
    for (lot, credits) in [(0, "9"), (1, "10")] {
        let other = refund(lot, credits, "RF-1").await.expect(StatusCode::CONFLICT);
        assert_eq!(other["code"], "refund_used", "{other}");
        let detail = other["detail"].as_str().unwrap();
        assert!(detail.starts_with("the reference \"RF-1\" has refunded something else"), "{detail}");
    }
    refund(1, "4", "RF-2").await.expect(StatusCode::CREATED);

    assert!(raced.iter().all(|one| one.status == StatusCode::CREATED && one.body == first), "{raced:?}");
    assert_eq!((&later, &first["owed"]["amount"]), (&first, &json!("8.00")));
    let balance = operator.get("/api/v1/orgs/acme/balance").await.expect(StatusCode::OK);
    assert_eq!(balance["refunded"], "14");
    // Another org has references of its own.
    app.funded("beta", "1").await;
    let beta = operator.get("/api/v1/orgs/beta/balance").await.expect(StatusCode::OK);
    let refund = json!({ "lot": beta["lots"][0]["id"], "credits": "1", "reference": "RF-1" });
    operator.post("/api/v1/orgs/beta/refunds", refund).await.expect(StatusCode::CREATED);
    app.finish().await;
}
