//! `/api/v1` as its users meet it.

use std::slice;

use futures_util::stream::{self, StreamExt};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use tollgate::domain::credits::Credits;
use tollgate::domain::format::Format;
use tollgate::domain::time::Timestamp;
use tollgate::domain::views::spend::{Group, SpendReport};
use tollgate::operations::find_org::known_org;
use tollgate::operations::list_alerts::list_alerts;
use tollgate::operations::spend_report::spend_report;

use crate::support::TestApp;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i1_of_5000_concurrent_reserves_exactly_the_1000_that_are_covered_are_accepted() {
    let app = TestApp::start().await;
    let acme = app.funded("acme", "1000").await;

    let reserves = stream::iter(0..5_000)
        .map(|_| acme.post("/api/v1/orgs/acme/reservations", json!({ "credits": "1" })));
    let statuses: Vec<StatusCode> = reserves.buffer_unordered(64).map(|answer| answer.status).collect().await;

    let count = |status| statuses.iter().filter(|seen| **seen == status).count();
    assert_eq!((count(StatusCode::CREATED), count(StatusCode::PAYMENT_REQUIRED)), (1_000, 4_000));
    let balance = acme.get("/api/v1/orgs/acme/balance").await.expect(StatusCode::OK);
    assert_eq!((&balance["available"], &balance["held"]), (&json!("0"), &json!("1000")));
    app.finish().await;
}

#[tokio::test]
async fn a_bundle_is_bought_once_per_payment_and_spent_to_the_nanocredit() {
    let app = TestApp::start().await;
    let operator = app.operator();
    let gateway = app.funded("acme", "0.5").await;
    let bundle = json!({ "name": "thousand", "credits": "1000", "price": "800.00", "currency": "USD" });
    operator.post("/api/v1/bundles", bundle).await.expect(StatusCode::CREATED);
    let purchase = json!({ "bundle": "thousand", "payment": { "method": "manual", "reference": "INV-1" } });

    let path = "/api/v1/orgs/acme/purchases";
    let first = operator.send(Method::POST, path, Some("p"), Some(purchase.clone())).await;
    let again = operator.send(Method::POST, path, Some("p"), Some(purchase.clone())).await;
    let other = operator.post(path, purchase).await;
    let hold = gateway.post("/api/v1/orgs/acme/reservations", json!({ "credits": "4.00" })).await;
    let hold = hold.expect(StatusCode::CREATED)["id"].as_str().unwrap().to_owned();
    let settle = format!("/api/v1/reservations/{hold}/settle");
    gateway.post(&settle, json!({ "credits": "1.000000001" })).await.expect(StatusCode::OK);

    assert_eq!(first.expect(StatusCode::CREATED)["id"], again.expect(StatusCode::CREATED)["id"]);
    other.expect(StatusCode::CREATED);
    let balance = gateway.get("/api/v1/orgs/acme/balance").await.expect(StatusCode::OK);
    assert_eq!(balance["available"], json!("999.499999999"));
    assert_eq!(balance["consumed"], json!("1.000000001"));
    app.finish().await;
}

#[tokio::test]
async fn money_has_the_decimals_of_its_currency_and_a_refund_gives_its_tax_back() {
    let app = TestApp::start().await;
    app.ledger().raise_format(Format::READ).await.unwrap();
    app.funded("acme", "1").await;
    let operator = app.operator();
    let bundle = |name: &str, price: &str, currency: &str| {
        let bundle = json!({ "name": name, "credits": "10", "price": price, "currency": currency });
        operator.post("/api/v1/bundles", bundle)
    };
    for (price, currency) in [("1.5", "JPY"), ("1.0005", "KWD"), ("1", "ZZZ"), ("1", "usd"), ("1", "XAU")] {
        bundle("odd", price, currency).await.expect(StatusCode::BAD_REQUEST);
    }

    for (price, currency, tax, paid, owed) in [
        ("1000", "JPY", "91", "909", ("455", "46")),
        ("80.500", "KWD", "0.005", "80.495", ("40.248", "0.003")),
        ("80.50", "EUR", "12.85", "67.65", ("33.83", "6.43")),
    ] {
        let made = bundle(currency, price, currency).await.expect(StatusCode::CREATED);
        let payment = json!({ "method": "manual", "reference": currency, "tax": tax });
        let lot = operator
            .post("/api/v1/orgs/acme/purchases", json!({ "bundle": currency, "payment": payment }))
            .await
            .expect(StatusCode::CREATED);
        let refund = json!({ "lot": lot["id"], "credits": "5", "reference": currency });
        let refunded = operator.post("/api/v1/orgs/acme/refunds", refund).await.expect(StatusCode::CREATED);

        let money = |amount: &str| json!({ "amount": amount, "currency": currency });
        assert_eq!((&made["price"], &lot["paid"]), (&json!(price), &money(paid)));
        assert_eq!((&refunded["owed"], &refunded["owed_tax"]), (&money(owed.0), &money(owed.1)));
    }
    app.finish().await;
}

#[tokio::test]
async fn i4_a_replay_gets_the_first_answer_and_another_body_a_conflict() {
    let app = TestApp::start().await;
    let acme = app.funded("acme", "10").await;
    let path = "/api/v1/orgs/acme/reservations";
    let ask = |credits: &str| acme.send(Method::POST, path, Some("k"), Some(json!({ "credits": credits })));

    let first = ask("2").await.expect(StatusCode::CREATED);
    let again = ask("2").await.expect(StatusCode::CREATED);
    let other = ask("3").await.expect(StatusCode::CONFLICT);

    assert_eq!(first, again);
    assert_eq!(other["code"], "idempotency_conflict");
    app.finish().await;
}

#[tokio::test]
async fn i12_another_orgs_things_are_not_found() {
    let app = TestApp::start().await;
    let acme = app.funded("acme", "10").await;
    let mallory = app.funded("mallory", "10").await;
    let hold = acme.post("/api/v1/orgs/acme/reservations", json!({ "credits": "2" })).await;
    let hold = hold.expect(StatusCode::CREATED)["id"].as_str().unwrap().to_owned();

    for (method, path) in [
        (Method::GET, "/api/v1/orgs/acme".to_owned()),
        (Method::GET, "/api/v1/orgs/acme/balance".to_owned()),
        (Method::GET, "/api/v1/orgs/acme/events".to_owned()),
        (Method::GET, "/api/v1/orgs/acme/alerts".to_owned()),
        (Method::POST, "/api/v1/orgs/acme/reservations".to_owned()),
        (Method::GET, format!("/api/v1/reservations/{hold}")),
        (Method::POST, format!("/api/v1/reservations/{hold}/settle")),
        (Method::POST, format!("/api/v1/reservations/{hold}/release")),
    ] {
        let body = match path.as_str() {
            path if path.ends_with("release") => json!({}),
            _ => json!({ "credits": "1" }),
        };
        let body = Some(body).filter(|_| method == Method::POST);
        let answer = mallory.send(method, &path, Some("k"), body).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}: {}", answer.body);
        let missing = if path.contains(&hold) { "unknown_reservation" } else { "unknown_org" };
        assert_eq!(answer.body["code"], missing, "{path}");
    }
    app.finish().await;
}

#[tokio::test]
async fn roles_do_what_they_are_for_and_no_more() {
    let app = TestApp::start().await;
    app.funded("acme", "10").await;
    let grant = json!({ "credits": "1", "kind": "goodwill" });
    let reserve = json!({ "credits": "1" });
    let key = json!({ "name": "k", "role": "inference" });
    for (role, may_grant, may_reserve, may_make_keys) in [
        ("org_admin", StatusCode::FORBIDDEN, StatusCode::FORBIDDEN, StatusCode::CREATED),
        ("gateway", StatusCode::FORBIDDEN, StatusCode::CREATED, StatusCode::FORBIDDEN),
        ("inference", StatusCode::FORBIDDEN, StatusCode::FORBIDDEN, StatusCode::FORBIDDEN),
    ] {
        let actor = app.key("acme", role).await;

        let granted = actor.post("/api/v1/orgs/acme/grants", grant.clone()).await.status;
        let reserved = actor.post("/api/v1/orgs/acme/reservations", reserve.clone()).await.status;
        let made = actor.post("/api/v1/orgs/acme/keys", key.clone()).await.status;

        assert_eq!((granted, reserved, made), (may_grant, may_reserve, may_make_keys), "{role}");
    }
    let told = app.key("acme", "inference").await.post("/api/v1/orgs/acme/reservations", reserve).await.body;
    let detail = told["detail"].as_str().unwrap();
    assert!(detail.ends_with("use a key of role gateway or operator"), "{detail}");
    let stranger = app.with_key("tg_nonsense");
    stranger.get("/api/v1/orgs/acme").await.expect(StatusCode::UNAUTHORIZED);
    app.finish().await;
}

#[tokio::test]
async fn a_revoked_key_opens_nothing() {
    let app = TestApp::start().await;
    app.funded("acme", "10").await;
    let made = app.operator().post("/api/v1/orgs/acme/keys", json!({ "name": "k", "role": "gateway" })).await;
    let made = made.expect(StatusCode::CREATED);
    let actor = app.with_key(made["secret"].as_str().unwrap());
    actor.get("/api/v1/orgs/acme/balance").await.expect(StatusCode::OK);

    let path = format!("/api/v1/orgs/acme/keys/{}", made["id"].as_str().unwrap());
    app.operator().send(Method::DELETE, &path, None, None).await.expect(StatusCode::NO_CONTENT);

    actor.get("/api/v1/orgs/acme/balance").await.expect(StatusCode::UNAUTHORIZED);
    app.finish().await;
}

#[tokio::test]
async fn bad_input_is_named_and_changes_nothing() {
    let app = TestApp::start().await;
    let acme = app.funded("acme", "10").await;
    let before = acme.get("/api/v1/orgs/acme/balance").await.expect(StatusCode::OK);

    for (body, status) in [
        (json!({ "credits": "0" }), StatusCode::UNPROCESSABLE_ENTITY),
        (json!({ "credits": "-1" }), StatusCode::UNPROCESSABLE_ENTITY),
        (json!({ "credits": "0.0000000001" }), StatusCode::BAD_REQUEST),
        (json!({ "credits": "999999999999" }), StatusCode::BAD_REQUEST),
        (json!({ "credits": "2000000000" }), StatusCode::UNPROCESSABLE_ENTITY),
        (json!({ "credits": 1 }), StatusCode::BAD_REQUEST),
        (json!({ "credits": "1", "unknown": true }), StatusCode::BAD_REQUEST),
        (json!({ "credits": "1", "ttl_seconds": 0 }), StatusCode::UNPROCESSABLE_ENTITY),
        (json!({}), StatusCode::BAD_REQUEST),
        (Value::Null, StatusCode::BAD_REQUEST),
    ] {
        let answer = acme.post("/api/v1/orgs/acme/reservations", body.clone()).await;
        assert_eq!(answer.status, status, "{body}: {}", answer.body);
        assert!(answer.body["detail"].is_string(), "{}", answer.body);
    }
    let unkeyed =
        acme.send(Method::POST, "/api/v1/orgs/acme/reservations", None, Some(json!({ "credits": "1" })));
    unkeyed.await.expect(StatusCode::BAD_REQUEST);

    assert_eq!(acme.get("/api/v1/orgs/acme/balance").await.expect(StatusCode::OK), before);
    app.finish().await;
}

#[tokio::test]
async fn a_budget_refuses_and_an_alert_tells_once() {
    let app = TestApp::start().await;
    let acme = app.funded("acme", "10").await;
    let operator = app.operator();
    let budgets = json!({ "budgets": [{ "scope": "org", "window": "month", "cap": "5" }] });
    let rules = json!({ "rules": [{ "kind": "balance_below", "credits": "8" }] });
    operator.send(Method::PUT, "/api/v1/orgs/acme/budgets", None, Some(budgets)).await.expect(StatusCode::OK);
    operator
        .send(Method::PUT, "/api/v1/orgs/acme/alert_rules", None, Some(rules))
        .await
        .expect(StatusCode::OK);

    for _ in 0..2 {
        let hold = acme.post("/api/v1/orgs/acme/reservations", json!({ "credits": "2" })).await;
        let hold = hold.expect(StatusCode::CREATED)["id"].as_str().unwrap().to_owned();
        let settle = format!("/api/v1/reservations/{hold}/settle");
        acme.post(&settle, json!({ "credits": "2" })).await.expect(StatusCode::OK);
    }
    let refused = acme.post("/api/v1/orgs/acme/reservations", json!({ "credits": "2" })).await;

    let refused = refused.expect(StatusCode::PAYMENT_REQUIRED);
    assert_eq!((&refused["code"], &refused["available"]), (&json!("budget_exceeded"), &json!("1")));
    let held = acme.post("/api/v1/orgs/acme/reservations", json!({ "credits": "0.25" })).await;
    held.expect(StatusCode::CREATED);
    let in_use = acme.get("/api/v1/orgs/acme/budgets").await.expect(StatusCode::OK);
    let budget = json!({
        "scope": "org", "window": "month", "cap": "5",
        "in_use": {
            "charged": "4", "held": "0.25", "left": "0.75", "window_starts_at": "2026-11-01T00:00:00.000000Z",
        },
    });
    assert_eq!(in_use["budgets"], json!([budget]));
    let alerts = operator.get("/api/v1/orgs/acme/alerts").await.expect(StatusCode::OK);
    assert_eq!(alerts["data"].as_array().unwrap().len(), 1, "{alerts}");
    app.finish().await;
}

/// A client reads the budgets, changes one and sends all of them back.
#[tokio::test]
async fn what_was_read_of_budgets_can_be_sent_back() {
    let app = TestApp::start().await;
    let acme = app.funded("acme", "10").await;
    let operator = app.operator();
    let path = "/api/v1/orgs/acme/budgets";
    let budgets = json!({ "budgets": [
        { "scope": "org", "window": "month", "cap": "5" },
        { "scope": "end_user", "window": "total", "cap": "1" },
    ]});
    operator.send(Method::PUT, path, None, Some(budgets.clone())).await.expect(StatusCode::OK);
    acme.post("/api/v1/orgs/acme/reservations", json!({ "credits": "2" })).await.expect(StatusCode::CREATED);

    let mut read = operator.get(path).await.expect(StatusCode::OK);
    let openapi = operator.get("/openapi.json").await.expect(StatusCode::OK);
    let schema =
        json!({ "components": openapi["components"].clone(), "$ref": "#/components/schemas/Budgets" });
    assert!(jsonschema::is_valid(&schema, &read), "{read}");
    read["budgets"][0]["cap"] = json!("4");
    let answer = operator.send(Method::PUT, path, None, Some(read)).await.expect(StatusCode::OK);

    let mut changed = budgets;
    changed["budgets"][0]["cap"] = json!("4");
    assert_eq!(answer, changed, "it says what is in force, and no figures of before");
    let read = operator.get(path).await.expect(StatusCode::OK);
    assert_eq!(read["budgets"][0]["in_use"]["left"], "2");
    assert_eq!(read["budgets"][1]["in_use"]["charged"], Value::Null);
    app.finish().await;
}

#[tokio::test]
async fn an_alert_says_whose_count_it_is_and_a_page_looks_only_so_far() {
    let app = TestApp::start().await;
    let acme = app.funded("acme", "100").await;
    let operator = app.operator();
    let budgets = json!({ "budgets": [{ "scope": "end_user", "window": "day", "cap": "5" }] });
    let rules = json!({ "rules": [{ "kind": "budget_percent", "percent": 50 }] });
    for (path, body) in [("budgets", budgets), ("alert_rules", rules)] {
        let path = format!("/api/v1/orgs/acme/{path}");
        operator.send(Method::PUT, &path, None, Some(body)).await.expect(StatusCode::OK);
    }
    for (end_user, credits) in [("ada", "1"), ("bob", "3"), ("ada", "2")] {
        let ask = json!({ "credits": credits, "end_user": end_user });
        let hold = acme.post("/api/v1/orgs/acme/reservations", ask).await.expect(StatusCode::CREATED);
        let settle = format!("/api/v1/reservations/{}/settle", hold["id"].as_str().unwrap());
        acme.post(&settle, json!({ "credits": credits })).await.expect(StatusCode::OK);
    }

    let alerts = operator.get("/api/v1/orgs/acme/alerts").await.expect(StatusCode::OK);
    let first = operator.get("/api/v1/orgs/acme/alerts?limit=1").await.expect(StatusCode::OK);
    let org = known_org(app.ledger(), "acme").unwrap();
    let (mut found, mut empty, mut after) = (Vec::new(), 0, Some(0));
    while let Some(version) = after {
        let (alerts, seen) = list_alerts(app.ledger(), org, version, 100, 2).await.unwrap();
        empty += usize::from(alerts.is_empty());
        found.extend(alerts.iter().map(|alert| alert.version));
        after = seen;
    }

    let whose: Vec<&Value> =
        alerts["data"].as_array().unwrap().iter().map(|alert| &alert["end_user"]).collect();
    assert_eq!(whose, ["bob", "ada"]);
    assert_eq!(alerts["data"][0]["window_starts_at"], "2026-11-01T00:00:00.000000Z");
    assert_eq!((&alerts["next"], &first["data"][0]), (&Value::Null, &alerts["data"][0]));
    assert_eq!(found.len(), 2);
    assert!(first["next"].is_string() && empty > 2, "{first}");
    app.finish().await;
}

#[tokio::test]
async fn the_spend_report_adds_up_to_what_was_consumed() {
    let app = TestApp::start().await;
    let acme = app.funded("acme", "10").await;
    for (credits, team) in [("1.5", "red"), ("0.25", "blue"), ("0.000000001", "red")] {
        let ask = json!({ "credits": "2", "labels": { "team": team } });
        let hold = acme.post("/api/v1/orgs/acme/reservations", ask).await.expect(StatusCode::CREATED);
        let settle = format!("/api/v1/reservations/{}/settle", hold["id"].as_str().unwrap());
        acme.post(&settle, json!({ "credits": credits })).await.expect(StatusCode::OK);
    }
    let admin = app.key("acme", "org_admin").await;

    let report = admin.get("/api/v1/orgs/acme/spend?group_by=label:team").await.expect(StatusCode::OK);
    let sheet =
        admin.get("/api/v1/orgs/acme/spend?group_by=label:team&format=csv").await.expect(StatusCode::OK);
    let balance = admin.get("/api/v1/orgs/acme/balance").await.expect(StatusCode::OK);

    assert_eq!(report["total"], balance["consumed"]);
    assert_eq!(report["data"][1]["credits"], "1.500000001");
    let classes = "input_tokens,cache_read_tokens,cache_write_5m_tokens,cache_write_1h_tokens,output_tokens,reasoning_tokens,\
                   audio_input_tokens,cached_audio_tokens,audio_output_tokens,image_tokens,video_tokens,web_searches,images,\
                   seconds";
    let none = ["0"; 14].join(",");
    let expected = format!(
        "label:team,requests,credits,{classes},saved\nblue,1,0.25,{none},0\nred,2,1.500000001,{none},0\n"
    );
    assert_eq!(sheet, json!(expected));
    let usage = json!({ "input_tokens": 700, "cache_read_tokens": 300, "output_tokens": 5 });
    let hold = acme.post("/api/v1/orgs/acme/reservations", json!({ "credits": "2" })).await;
    let settle =
        format!("/api/v1/reservations/{}/settle", hold.expect(StatusCode::CREATED)["id"].as_str().unwrap());
    let cost = json!({ "provider": "openai", "model": "gpt-4o-mini", "usage": usage });
    acme.post(&settle, cost).await.expect(StatusCode::OK);
    let path = "/api/v1/orgs/acme/spend?group_by=model";
    let rows = admin.get(path).await.expect(StatusCode::OK);
    let sheet = admin.get(&format!("{path}&format=csv")).await.expect(StatusCode::OK);
    assert_eq!(rows["data"][1]["usage"], usage, "{rows}");
    assert!(sheet.as_str().unwrap().contains(",700,300,0,0,5,0,"), "JSON and CSV count alike: {sheet}");
    let org = known_org(app.ledger(), "acme").unwrap();
    let (from, to) = (Timestamp(0), Timestamp(i64::MAX));
    for (rows_max, fits) in [(1, false), (2, true)] {
        let report = spend_report(app.ledger(), org, from, to, &[Group::Model], rows_max).await.unwrap();
        assert_eq!(report.is_some(), fits, "at most {rows_max} rows");
    }
    let many: Vec<String> = (0..13).map(|n| format!("label:{n}")).collect();
    for (groups, says) in [
        ("colour", "`colour` is not a group"),
        ("day,model,day", "`day` twice"),
        ("label:team,label:team", "`label:team` twice"),
        (&many.join(","), "at most 12 groups"),
    ] {
        let path = format!("/api/v1/orgs/acme/spend?group_by={groups}");
        let refused = admin.get(&path).await.expect(StatusCode::BAD_REQUEST);
        assert!(refused["detail"].as_str().unwrap().contains(says), "{refused}");
    }
    let two = admin.get("/api/v1/orgs/acme/spend?group_by=label:team,label:none").await;
    assert_eq!(two.expect(StatusCode::OK)["data"][1]["label:team"], "blue");
    app.finish().await;
}

#[tokio::test]
async fn a_report_is_as_large_as_its_own_rows_however_many_it_is_made_of() {
    let app = TestApp::start().await;
    let acme = app.funded("acme", "10").await;
    for run in 1..=3 {
        let ask = json!({ "credits": "1", "labels": { "team": "red", "run": run.to_string() } });
        let hold = acme.post("/api/v1/orgs/acme/reservations", ask).await.expect(StatusCode::CREATED);
        let settle = format!("/api/v1/reservations/{}/settle", hold["id"].as_str().unwrap());
        acme.post(&settle, json!({ "credits": "1" })).await.expect(StatusCode::OK);
        app.clock().advance_seconds(86_400);
    }
    let org = known_org(app.ledger(), "acme").unwrap();
    let label = |name: &str| Group::Label(name.to_owned());

    for (group, rows_max, rows) in [
        (label("team"), 1, Some(1)),
        (Group::Month, 1, Some(1)),
        (Group::Day, 3, Some(3)),
        (label("run"), 3, Some(3)),
        (label("run"), 2, None),
        (Group::Day, 0, None),
    ] {
        let (from, to) = (Timestamp(0), Timestamp(i64::MAX));
        let report =
            spend_report(app.ledger(), org, from, to, slice::from_ref(&group), rows_max).await.unwrap();
        let rows_of = |report: &SpendReport| (report.rows.len(), report.total());
        let expected = rows.map(|rows| (rows, Credits::from_whole(3)));
        assert_eq!(report.as_ref().map(rows_of), expected, "{group:?}");
    }
    app.finish().await;
}

#[tokio::test]
async fn a_connection_serves_on_after_a_request_that_was_refused_before_its_body_came() {
    let app = TestApp::start().await;
    let body = "{\"credits\": \"1\"}";
    for path in ["/api/v1/orgs/acme/reservations", "/api/v1/nowhere", "/v1/nowhere"] {
        let mut connection = TcpStream::connect(app.url.trim_start_matches("http://")).await.unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: t\r\nauthorization: Bearer tg_none\r\nidempotency-key: k\r\n\
             content-length: {}\r\n\r\n",
            body.len()
        );
        connection.write_all(head.as_bytes()).await.unwrap();
        // Long enough for the head to be refused alone.
        for _ in 0..10_000 {
            tokio::task::yield_now().await;
        }
        connection.write_all(body.as_bytes()).await.unwrap();
        connection.write_all(b"GET /healthz HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n").await.unwrap();

        let mut answers = String::new();
        connection.read_to_string(&mut answers).await.unwrap();
        let both = answers.starts_with("HTTP/1.1 40") && answers.contains("HTTP/1.1 200 OK");
        assert!(both, "{path}: {answers}");
    }

    // Nobody waits for a body that is too long.
    let mut connection = TcpStream::connect(app.url.trim_start_matches("http://")).await.unwrap();
    let head = "POST /api/v1/nowhere HTTP/1.1\r\nhost: t\r\ncontent-length: 9999999\r\n\r\n";
    connection.write_all(head.as_bytes()).await.unwrap();
    connection.write_all(&vec![b' '; (1 << 20) + 1]).await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 404") && answer.contains("connection: close"), "{answer}");
    app.finish().await;
}
