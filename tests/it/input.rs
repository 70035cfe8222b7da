//! Bad input: each gets a problem with a code and a detail that says what to do, and changes nothing.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{Actor, TestApp, client};

#[tokio::test]
async fn whatever_can_not_be_is_refused_and_changes_nothing() {
    let app = TestApp::start().await;
    let acme = app.funded("acme", "10").await;
    let operator = app.operator();
    let bundle = json!({ "name": "b", "credits": "1", "price": "9999999999.99", "currency": "USD" });
    operator.post("/api/v1/bundles", bundle).await.expect(StatusCode::CREATED);
    let before = operator.get("/api/v1/orgs/acme/events?limit=1000").await.expect(StatusCode::OK);
    let long = "x".repeat(2_000);
    let a_lot = "lot_00000000000000000000000000000001";
    let purchase = |payment: Value| json!({ "bundle": "b", "payment": payment });
    let card = |more: Value| {
        let mut card = json!({ "provider": "p", "model": "m", "rates": { "input": "1", "output": "1" } });
        card.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({ "cards": [card] })
    };
    let budget = |budget: Value| json!({ "budgets": [budget] });

    let table = [
        ("orgs", json!({ "slug": "Acme!", "name": "n" }), 400),
        ("orgs", json!({ "slug": "org_00000000000000000000000000000001", "name": "n" }), 400),
        ("orgs", json!({ "slug": "new", "name": "" }), 400),
        ("orgs", json!({ "slug": "new", "name": "n", "billing_email": "acme" }), 400),
        ("orgs", json!({ "slug": "new", "name": "n", "billing_email": "a@b.example, c@d.example" }), 400),
        ("orgs", json!({ "slug": "new", "name": "n", "time_zone": "Mars/Phobos" }), 422),
        ("orgs", json!({ "slug": "new", "name": "n", "overdraft_limit": "-1" }), 422),
        ("orgs", json!({ "slug": "acme", "name": "another" }), 409),
        ("bundles", json!({ "name": "c", "credits": "1", "price": "-1", "currency": "USD" }), 400),
        ("bundles", json!({ "name": "c", "credits": "1", "price": "1.001", "currency": "USD" }), 400),
        ("bundles", json!({ "name": "c", "credits": "1", "price": "9".repeat(28), "currency": "USD" }), 400),
        ("bundles", json!({ "name": "c", "credits": "0", "price": "1", "currency": "USD" }), 422),
        ("bundles", json!({ "name": "c", "credits": "1000000000.1", "price": "1", "currency": "USD" }), 422),
        ("bundles", json!({ "name": "c", "credits": "1", "price": "1", "currency": "dollars" }), 400),
        (
            "bundles",
            json!({ "name": "c", "credits": "1", "price": "1", "currency": "USD", "validity_days": 0 }),
            400,
        ),
        ("bundles", json!({ "name": "b", "credits": "1", "price": "1", "currency": "USD" }), 409),
        ("orgs/acme/purchases", purchase(json!({ "method": "manual", "reference": "" })), 400),
        ("orgs/acme/purchases", purchase(json!({ "method": "ma:nual", "reference": "r" })), 400),
        ("orgs/acme/purchases", purchase(json!({ "method": "manual", "reference": long })), 400),
        ("orgs/acme/purchases", purchase(json!({ "method": "manual", "reference": "INV-1 " })), 400),
        ("orgs/acme/purchases", purchase(json!({ "method": "manual", "reference": "\u{a0}INV-1" })), 400),
        (
            "orgs/acme/purchases",
            purchase(json!({ "method": "manual", "reference": "r", "tax": "10000000000" })),
            400,
        ),
        (
            "orgs/acme/purchases",
            json!({ "bundle": "none", "payment": { "method": "m", "reference": "r" } }),
            404,
        ),
        (
            "orgs/acme/purchases",
            json!({ "bundle": "b", "quantity": 0, "payment": { "method": "m", "reference": "r" } }),
            400,
        ),
        ("orgs/acme/grants", json!({ "credits": "0", "kind": "goodwill" }), 422),
        ("orgs/acme/grants", json!({ "credits": "1", "kind": "gift" }), 400),
        ("orgs/acme/grants", json!({ "credits": "1", "kind": "goodwill", "note": long }), 400),
        ("orgs/acme/grants", json!({ "credits": "1", "kind": "goodwill", "expires_at": "tomorrow" }), 400),
        (
            "orgs/acme/grants",
            json!({ "credits": "1", "kind": "goodwill", "expires_at": "2020-01-01T00:00:00Z" }),
            422,
        ),
        ("orgs/acme/adjustments", json!({ "credits": "0", "reason": "r" }), 422),
        ("orgs/acme/adjustments", json!({ "credits": "-11", "reason": "r" }), 402),
        ("orgs/acme/adjustments", json!({ "credits": "1", "reason": "" }), 400),
        ("orgs/acme/refunds", json!({ "lot": "lot_x", "credits": "1", "reference": "r" }), 400),
        ("orgs/acme/refunds", json!({ "lot": a_lot, "credits": "1", "reference": "r" }), 404),
        ("orgs/acme/refunds", json!({ "lot": a_lot, "credits": "1", "reference": "r " }), 400),
        ("orgs/acme/refunds", json!({ "lot": a_lot, "credits": "1", "reference": " r" }), 400),
        ("orgs/acme/projects", json!({ "name": "Not A Slug" }), 400),
        ("orgs/acme/keys", json!({ "name": "k", "role": "operator" }), 400),
        ("orgs/acme/keys", json!({ "name": "k", "role": "emperor" }), 400),
        (
            "orgs/acme/keys",
            json!({ "name": "k", "role": "org_admin", "project": "prj_00000000000000000000000000000001" }),
            400,
        ),
        ("orgs/acme/keys", json!({ "name": "k", "role": "gateway", "project": "prj_x" }), 400),
        ("keys", json!({ "name": "k", "role": "gateway" }), 400),
        ("prices", json!({}), 400),
        ("bundles", json!({ "name": "c", "credits": "1", "price": "1_000.00", "currency": "USD" }), 400),
        ("prices", json!({ "mark_ups": [{ "percent": "-5" }] }), 400),
        ("prices", json!({ "mark_ups": [{ "percent": "+5" }] }), 400),
        (
            "prices",
            json!({ "cards": [{ "provider": "p", "model": "m", "rates": { "input": ".5", "output": "1" } }] }),
            400,
        ),
        ("prices", json!({ "mark_ups": [{ "percent": "5000" }] }), 400),
        (
            "prices",
            json!({ "cards": [{ "provider": "p", "model": "m", "rates": { "input": "1000001", "output": "1" } }] }),
            400,
        ),
        (
            "prices",
            json!({ "mark_ups": [{ "percent": "5", "org": "org_000000000000000000000000000000ab" }] }),
            404,
        ),
        ("prices", json!({ "cards": [{ "provider": "p", "model": "m", "rates": { "input": "1" } }] }), 422),
        ("prices", json!({ "cards": [{ "provider": "p", "model": "m", "rates": { "inputs": "1" } }] }), 400),
        (
            "prices",
            json!({ "cards": [{ "provider": "", "model": "m", "rates": { "input": "1", "output": "1" } }] }),
            400,
        ),
        ("prices", card(json!({ "uplifts": { "region_eu": "0.1" } })), 422),
        (
            "prices",
            card(json!({ "tiers": { "standard": { "rates": { "input": "1", "output": "1" } } } })),
            422,
        ),
        ("batch", json!({ "operations": [] }), 400),
        ("batch", json!({ "operations": vec![json!({}); 1_001] }), 400),
        ("orgs/acme/reservations", json!({ "credits": "1", "labels": { "team": "" } }), 400),
        ("orgs/acme/reservations", json!({ "credits": "1", "labels": { "a,b": "c" } }), 400),
        ("orgs/acme/reservations", json!({ "credits": "1", "end_user": long }), 400),
        ("orgs/acme/reservations", json!({ "credits": "1", "ttl_seconds": i64::MAX }), 422),
        ("orgs/acme/reservations", json!({ "credits": "1", "quote": { "model": "m" } }), 400),
        (
            "orgs/acme/reservations",
            json!({ "quote": { "model": long, "input_tokens": 1, "max_output_tokens": 1 } }),
            400,
        ),
        (
            "orgs/acme/reservations",
            json!({ "quote": { "model": "gpt-4o-mini", "input_tokens": u64::MAX, "max_output_tokens": 1 } }),
            400,
        ),
        ("reservations/res_nonsense/settle", json!({ "credits": "1" }), 404),
    ];
    for (path, body, status) in table {
        refused(&operator, Method::POST, &format!("/api/v1/{path}"), Some(body), status).await;
    }
    for (path, body, status) in [
        ("budgets", budget(json!({ "scope": "org", "window": "month", "cap": "-1" })), 422),
        ("budgets", budget(json!({ "scope": "org", "window": "month", "cap": "1", "caps": "2" })), 400),
        ("budgets", budget(json!({ "scope": "org", "window": "aeon", "cap": "1" })), 400),
        ("budgets", budget(json!({ "scope": "project", "window": "day", "cap": "1" })), 400),
        ("limits", json!({ "limits": [{ "scope": "org", "requests_per_minute": 0 }] }), 400),
        ("limits", json!({ "limits": [{ "scope": "org", "requests_per_second": 5 }] }), 400),
        ("limits", json!({ "limits": [{ "scope": "org", "credits_per_request": "0" }] }), 400),
        ("alert_rules", json!({ "rules": [{ "kind": "budget_percent", "percent": 101 }] }), 400),
        ("alert_rules", json!({ "rules": vec![json!({ "kind": "budget_percent", "percent": 50 }); 2] }), 422),
        (
            "alert_rules",
            json!({ "rules": (1..=11).map(|percent| json!({ "kind": "budget_percent", "percent": percent })).collect::<Vec<_>>() }),
            400,
        ),
        ("profile", json!({ "name": "n", "billing_email": "Ada <ada@acme.example>" }), 400),
        ("alert_rules", json!({ "rules": [{ "kind": "balance_below", "credits": "1", "percent": 3 }] }), 400),
    ] {
        refused(&operator, Method::PUT, &format!("/api/v1/orgs/acme/{path}"), Some(body), status).await;
    }
    let below = Some(json!({ "overdraft_limit": "-1" }));
    let path = "/api/v1/orgs/acme/overdraft_limit";
    let below = operator.send(Method::PUT, path, None, below).await.expect(StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(below["detail"], "the amount must not be negative", "zero is an answer");
    for (path, status) in [
        ("orgs?limit=0", 400),
        ("orgs?limit=many", 400),
        ("orgs?size=3", 400),
        ("orgs/%FF", 400),
        ("orgs/acme/events?after=soon", 400),
        ("orgs/acme/reservations?after=soon", 400),
        ("orgs?after=soon", 400),
        ("bundles?after=soon", 400),
        ("keys?after=zzz", 400),
        ("orgs/acme/keys?after=key_1", 400),
        ("orgs/acme/projects?after=prj_zz", 400),
        ("orgs/acme/balance?as_of=yesterday", 400),
        ("orgs/acme/spend?from=2026-11-01T00:30:00Z", 400),
        ("orgs/acme/spend?from=2026-11-02T00:00:00Z&to=2026-11-01T00:00:00Z", 400),
        ("orgs/acme/spend?from=2026-11-01T00:00:00Z&to=2026-11-01T00:00:00Z", 400),
        ("orgs/acme/spend?format=xml", 400),
        ("orgs/acme/spend?groupby=day", 400),
        ("orgs/acme/lots?after=lot_1", 400),
        ("prices/nobody/nothing", 404),
        ("prices?size=3", 400),
        ("prices?limit=0", 400),
        ("prices?after=gpt-4o", 400),
        ("prices?org=nobody", 404),
        ("prices?org=org_000000000000000000000000000000ab", 404),
        ("prices/openai/gpt-4o?after=x", 400),
    ] {
        refused(&operator, Method::GET, &format!("/api/v1/{path}"), None, status).await;
    }

    assert_eq!(operator.get("/api/v1/orgs/acme/events?limit=1000").await.expect(StatusCode::OK), before);
    acme.get("/api/v1/orgs/new").await.expect(StatusCode::NOT_FOUND);
    app.finish().await;
}

#[tokio::test]
async fn what_a_card_gets_wrong_has_a_code_of_its_own() {
    let app = TestApp::start().await;
    let rates = json!({ "input": "1", "output": "1" });

    for (field, value, code) in [
        ("rates", json!({ "input": "1" }), "incomplete_card"),
        ("uplifts", json!({ "region_eu": "0.1" }), "uplift_below_one"),
        ("tiers", json!({ "standard": { "rates": rates } }), "standard_tier_twice"),
    ] {
        let mut card = json!({ "provider": "p", "model": "m", "rates": rates });
        card[field] = value;
        let answer = app.operator().post("/api/v1/prices", json!({ "cards": [card] })).await;
        assert_eq!(answer.expect(StatusCode::UNPROCESSABLE_ENTITY)["code"], code);
    }
    app.finish().await;
}

#[tokio::test]
async fn a_field_that_would_not_count_is_refused() {
    let app = TestApp::start().await;
    let acme = app.funded("acme", "10").await;
    let hold = acme.post("/api/v1/orgs/acme/reservations", json!({ "credits": "1" })).await;
    let id = hold.expect(StatusCode::CREATED)["id"].as_str().unwrap().to_owned();
    let settle = format!("/api/v1/reservations/{id}/settle");
    let post = |path: &str| {
        let request = client().post(format!("{}/api/v1/{path}", app.url)).bearer_auth(acme.secret());
        request.header("idempotency-key", "twice")
    };

    // A call's name, where no call is told.
    let nameless = json!({ "credits": "1", "provider_request_id": "chatcmpl-1" });
    refused(&acme, Method::POST, &settle, Some(nameless), 400).await;
    // One of two values, by either way.
    for fields in [r#""credits": "1", "credits": "2""#, r#""credits": "1", "labels": {"a": "b", "a": "c"}"#] {
        let operation =
            format!(r#"{{"op": "reserve", "org": "acme", "idempotency_key": "twice", {fields}}}"#);
        for (path, body) in [
            ("orgs/acme/reservations", format!("{{{fields}}}")),
            ("batch", format!(r#"{{"operations": [{operation}]}}"#)),
        ] {
            let answer = post(path).body(body).send().await.unwrap();
            assert_eq!(answer.status(), 400, "{path} {fields}");
            assert!(answer.text().await.unwrap().contains("duplicate field"), "{path} {fields}");
        }
    }

    let stands = acme.get(&format!("/api/v1/reservations/{id}")).await.expect(StatusCode::OK);
    assert_eq!(stands["status"], "held");
    app.finish().await;
}

#[tokio::test]
async fn i12_an_org_that_was_never_opened_is_not_found_and_neither_is_the_systems_own() {
    let app = TestApp::start().await;
    for org in ["nobody", "org_000000000000000000000000000000ab", "org_00000000000000000000000000000000"] {
        for what in [
            "",
            "/balance",
            "/lots",
            "/events",
            "/events?after=1",
            "/alerts",
            "/alerts?after=1",
            "/spend",
            "/reservations",
            "/projects",
            "/keys",
            "/budgets",
        ] {
            let path = format!("/api/v1/orgs/{org}{what}");
            refused(&app.operator(), Method::GET, &path, None, 404).await;
        }
        let path = format!("/api/v1/orgs/{org}/grants");
        refused(
            &app.operator(),
            Method::POST,
            &path,
            Some(json!({ "credits": "1", "kind": "goodwill" })),
            404,
        )
        .await;
    }
    app.finish().await;
}

#[tokio::test]
async fn personal_data_is_erased_and_no_event_kept_it() {
    let app = TestApp::start().await;
    app.funded("acme", "10").await;
    let admin = app.key("acme", "org_admin").await;
    let path = "/api/v1/orgs/acme/profile";

    let keys = async || admin.get("/api/v1/orgs/acme/keys").await.expect(StatusCode::OK)["data"].clone();
    let key = keys().await[0]["id"].as_str().unwrap().to_owned();
    let key_name = format!("/api/v1/orgs/acme/keys/{key}/name");

    let profile = json!({ "name": "Acme Ltd", "billing_email": "jane@acme.example" });
    let renamed = admin.send(Method::PUT, path, None, Some(profile)).await.expect(StatusCode::OK);
    let jane = Some(json!({ "name": "Jane's laptop" }));
    let named = admin.send(Method::PUT, &key_name, None, jane).await.expect(StatusCode::OK);
    assert_eq!((&named["id"], &named["name"]), (&json!(key), &json!("Jane's laptop")));
    assert_eq!(keys().await[0], named);
    app.funded("other", "1").await;
    admin.send(Method::DELETE, path, None, None).await.expect(StatusCode::NO_CONTENT);
    assert!(keys().await.as_array().unwrap().iter().all(|key| key["name"] == ""), "{}", keys().await);
    let others = app.operator().get("/api/v1/orgs/other/keys").await.expect(StatusCode::OK);
    assert_eq!(others["data"][0]["name"], "a key", "another org's are its own");

    let erased = admin.get("/api/v1/orgs/acme").await.expect(StatusCode::OK);
    let events = admin.get("/api/v1/orgs/acme/events").await.expect(StatusCode::OK).to_string();
    assert_eq!(
        (&renamed["name"], &renamed["billing_email"]),
        (&json!("Acme Ltd"), &json!("jane@acme.example"))
    );
    assert_eq!((&erased["name"], &erased["billing_email"]), (&json!(""), &json!(null)));
    assert!(!events.contains("jane") && !events.contains("billing@example.com"));
    app.finish().await;
}

#[tokio::test]
async fn a_key_opens_nothing_from_its_expiry_on() {
    let app = TestApp::start().await;
    app.funded("acme", "10").await;
    let operator = app.operator();
    let wanted = |role: &str| json!({ "name": "k", "role": role, "expires_at": app.time_in(60) });
    let mut keys = Vec::new();
    for (path, role) in [("/api/v1/orgs/acme/keys", "gateway"), ("/api/v1/keys", "finance")] {
        let made = operator.post(path, wanted(role)).await.expect(StatusCode::CREATED);
        assert_eq!(made["expires_at"], app.time_in(60));
        keys.push(app.with_key(made["secret"].as_str().unwrap()));
        let past = json!({ "name": "k", "role": role, "expires_at": app.time_in(0) });
        operator.post(path, past).await.expect(StatusCode::UNPROCESSABLE_ENTITY);
    }

    app.clock().advance_seconds(59);
    for key in &keys {
        key.get("/api/v1/orgs/acme/balance").await.expect(StatusCode::OK);
    }
    app.clock().advance_seconds(1);
    for key in &keys {
        let refused = key.get("/api/v1/orgs/acme/balance").await.expect(StatusCode::UNAUTHORIZED);
        assert!(refused["detail"].as_str().unwrap().contains("expired"), "{refused}");
    }
    app.finish().await;
}

#[tokio::test]
async fn an_expired_key_is_told_so_though_the_orgs_keys_were_looked_at_since() {
    let app = TestApp::start().await;
    let gateway = app.funded("acme", "10").await;
    let wanted = json!({ "name": "k", "role": "gateway", "expires_at": app.time_in(60) });
    let made = app.operator().post("/api/v1/orgs/acme/keys", wanted).await.expect(StatusCode::CREATED);
    let expired = app.with_key(made["secret"].as_str().unwrap());

    app.clock().advance_seconds(60);
    gateway.get("/api/v1/orgs/acme/balance").await.expect(StatusCode::OK);
    let refused = expired.get("/api/v1/orgs/acme/balance").await.expect(StatusCode::UNAUTHORIZED);

    let detail = refused["detail"].as_str().unwrap();
    assert!(detail.contains("expired at"), "{refused}");
    app.finish().await;
}

#[tokio::test]
async fn i12_the_key_of_a_project_spends_for_no_other_project() {
    let app = TestApp::start().await;
    app.funded("acme", "10").await;
    let operator = app.operator();
    let mut projects = Vec::new();
    for name in ["web", "batch"] {
        let made = operator.post("/api/v1/orgs/acme/projects", json!({ "name": name })).await;
        projects.push(made.expect(StatusCode::CREATED)["id"].clone());
    }
    let key = json!({ "name": "k", "role": "gateway", "project": projects[0] });
    let key = operator.post("/api/v1/orgs/acme/keys", key).await.expect(StatusCode::CREATED);
    let web = app.with_key(key["secret"].as_str().unwrap());
    let hold = |project: Value| json!({ "credits": "1", "project": project });

    let own = web.post("/api/v1/orgs/acme/reservations", hold(projects[0].clone())).await;
    let other = web.post("/api/v1/orgs/acme/reservations", hold(projects[1].clone())).await;
    let unnamed = web.post("/api/v1/orgs/acme/reservations", json!({ "credits": "1" })).await;

    own.expect(StatusCode::CREATED);
    let other = other.expect(StatusCode::FORBIDDEN);
    assert_eq!(other["code"], "forbidden");
    assert!(other["detail"].as_str().unwrap().contains(projects[0].as_str().unwrap()), "{other}");
    let unnamed = unnamed.expect(StatusCode::CREATED);
    let events = operator.get("/api/v1/orgs/acme/events?limit=1000").await.expect(StatusCode::OK);
    let last = events["data"].as_array().unwrap().last().unwrap();
    let data = &last["payload"]["event"]["data"];
    assert_eq!((&data["reservation"], &data["purpose"]["project"]), (&unnamed["id"], &projects[0]));
    app.finish().await;
}

#[tokio::test]
async fn i12_the_key_of_a_project_touches_no_other_projects_hold() {
    let app = TestApp::start().await;
    app.funded("acme", "10").await;
    let operator = app.operator();
    let mut keys = Vec::new();
    for name in ["web", "batch"] {
        let made = operator.post("/api/v1/orgs/acme/projects", json!({ "name": name })).await;
        let project = made.expect(StatusCode::CREATED)["id"].clone();
        let key = json!({ "name": name, "role": "gateway", "project": project });
        let key = operator.post("/api/v1/orgs/acme/keys", key).await.expect(StatusCode::CREATED);
        keys.push(app.with_key(key["secret"].as_str().unwrap()));
    }
    let [web, batch] = &keys[..] else { panic!("two keys") };
    let hold = web.post("/api/v1/orgs/acme/reservations", json!({ "credits": "1" })).await;
    let id = hold.expect(StatusCode::CREATED)["id"].as_str().unwrap().to_owned();
    let path = format!("/api/v1/reservations/{id}");

    for end in ["settle", "release", "extend"] {
        let body = match end {
            "settle" => json!({ "credits": "1" }),
            "release" => json!({}),
            _ => json!({ "ttl_seconds": 60 }),
        };
        batch.post(&format!("{path}/{end}"), body.clone()).await.expect(StatusCode::NOT_FOUND);
        let mut operation = body;
        operation["op"] = end.into();
        operation["reservation"] = id.clone().into();
        operation["idempotency_key"] = end.into();
        let done = batch.post("/api/v1/batch", json!({ "operations": [operation] })).await;
        assert_eq!(done.expect(StatusCode::OK)["outcomes"][0]["status"], 404, "{end}");
    }
    for seen in [path.clone(), format!("{path}/explain")] {
        batch.get(&seen).await.expect(StatusCode::NOT_FOUND);
        web.get(&seen).await.expect(StatusCode::OK);
    }
    let listed = async |key: &Actor| {
        let listed = key.get("/api/v1/orgs/acme/reservations").await.expect(StatusCode::OK);
        listed["data"].as_array().unwrap().len()
    };
    assert_eq!((listed(web).await, listed(batch).await), (1, 0));
    web.post(&format!("{path}/settle"), json!({ "credits": "1" })).await.expect(StatusCode::OK);
    batch.get(&path).await.expect(StatusCode::NOT_FOUND);
    app.finish().await;
}

async fn refused(actor: &Actor, method: Method, path: &str, body: Option<Value>, status: u16) {
    let key = (method == Method::POST)
        .then(|| format!("{path} {}", body.clone().unwrap_or_default()).len().to_string());
    let said = body.clone().unwrap_or_default().to_string().chars().take(120).collect::<String>();
    let answer = actor.send(method.clone(), path, key.as_deref(), body).await;
    assert_eq!(answer.status.as_u16(), status, "{method} {path} {said}: {}", answer.body);
    let named = |field: &str| answer.body[field].as_str().is_some_and(|text| text.len() >= 4);
    assert!(named("code") && named("detail"), "{method} {path} {said}: {}", answer.body);
    assert_eq!(answer.body["status"], status);
}
