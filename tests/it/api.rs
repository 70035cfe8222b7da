//! What the API says of itself, and who may do what on every route of it.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{Actor, TestApp};

/// Who may use a route, and a body with which it can be asked. `{org}` and `{reservation}` are acme's.
const ROUTES: &[(&str, &str, &[&str], &str)] = &[
    ("post", "/api/v1/orgs", &["operator"], r#"{"slug":"new-org","name":"New"}"#),
    ("get", "/api/v1/orgs", &["operator", "finance"], ""),
    ("get", "/api/v1/orgs/{org}", &["operator", "finance", "org_admin", "gateway"], ""),
    ("post", "/api/v1/orgs/{org}/suspend", &["operator"], r#"{"reason":"a test"}"#),
    ("post", "/api/v1/orgs/{org}/resume", &["operator"], "{}"),
    ("put", "/api/v1/orgs/{org}/overdraft_limit", &["operator"], r#"{"overdraft_limit":"1"}"#),
    ("post", "/api/v1/orgs/{org}/projects", &["operator", "org_admin"], r#"{"name":"web"}"#),
    ("get", "/api/v1/orgs/{org}/projects", &["operator", "finance", "org_admin", "gateway"], ""),
    ("post", "/api/v1/orgs/{org}/keys", &["operator", "org_admin"], r#"{"name":"k","role":"gateway"}"#),
    ("get", "/api/v1/orgs/{org}/keys", &["operator", "finance", "org_admin"], ""),
    ("delete", "/api/v1/orgs/{org}/keys/{key}", &["operator", "org_admin"], ""),
    ("post", "/api/v1/keys", &["operator"], r#"{"name":"k","role":"finance"}"#),
    ("delete", "/api/v1/keys/{key}", &["operator"], ""),
    ("get", "/api/v1/bundles", EVERYBODY, ""),
    (
        "post",
        "/api/v1/bundles",
        &["operator"],
        r#"{"name":"b","credits":"10","price":"8.00","currency":"USD"}"#,
    ),
    (
        "post",
        "/api/v1/orgs/{org}/purchases",
        &["operator"],
        r#"{"bundle":"b","payment":{"method":"manual","reference":"r-1"}}"#,
    ),
    ("post", "/api/v1/orgs/{org}/grants", &["operator"], r#"{"credits":"1","kind":"goodwill"}"#),
    ("post", "/api/v1/orgs/{org}/adjustments", &["operator"], r#"{"credits":"1","reason":"a test"}"#),
    (
        "post",
        "/api/v1/orgs/{org}/refunds",
        &["operator"],
        r#"{"lot":"lot_00000000000000000000000000000001","credits":"1","reference":"r"}"#,
    ),
    ("get", "/api/v1/orgs/{org}/balance", &["operator", "finance", "org_admin", "gateway"], ""),
    ("post", "/api/v1/orgs/{org}/reservations", &["operator", "gateway"], r#"{"credits":"0.1"}"#),
    ("get", "/api/v1/reservations/{reservation}", &["operator", "finance", "org_admin", "gateway"], ""),
    (
        "get",
        "/api/v1/reservations/{reservation}/explain",
        &["operator", "finance", "org_admin", "gateway"],
        "",
    ),
    ("post", "/api/v1/reservations/{reservation}/extend", &["operator", "gateway"], r#"{"ttl_seconds":900}"#),
    ("post", "/api/v1/reservations/{reservation}/settle", &["operator", "gateway"], r#"{"credits":"0.1"}"#),
    ("post", "/api/v1/reservations/{reservation}/release", &["operator", "gateway"], "{}"),
    ("post", "/api/v1/batch", EVERYBODY, r#"{"operations":[{}]}"#),
    ("put", "/api/v1/orgs/{org}/budgets", &["operator", "org_admin"], r#"{"budgets":[]}"#),
    ("get", "/api/v1/orgs/{org}/budgets", &["operator", "finance", "org_admin", "gateway"], ""),
    ("put", "/api/v1/orgs/{org}/limits", &["operator", "org_admin"], r#"{"limits":[]}"#),
    ("get", "/api/v1/orgs/{org}/limits", &["operator", "finance", "org_admin", "gateway"], ""),
    ("put", "/api/v1/orgs/{org}/alert_rules", &["operator", "org_admin"], r#"{"rules":[]}"#),
    ("get", "/api/v1/orgs/{org}/alert_rules", &["operator", "finance", "org_admin", "gateway"], ""),
    ("get", "/api/v1/orgs/{org}/alerts", &["operator", "finance", "org_admin"], ""),
    ("get", "/api/v1/orgs/{org}/events", &["operator", "finance", "org_admin"], ""),
    ("get", "/api/v1/orgs/{org}/spend", &["operator", "finance", "org_admin"], ""),
    ("get", "/api/v1/prices", EVERYBODY, ""),
    ("post", "/api/v1/prices", &["operator"], r#"{"mark_ups":[{"percent":"1","effective_from":0}]}"#),
    ("get", "/api/v1/prices/{provider}/{model}", EVERYBODY, ""),
    ("get", "/api/v1/projections", &["operator"], ""),
    ("post", "/api/v1/projections/{name}/rebuild", &["operator"], "{}"),
    ("post", "/api/v1/orgs/{org}/close", &["operator"], "{}"),
    ("get", "/healthz", ANYBODY, ""),
    ("get", "/readyz", ANYBODY, ""),
    ("get", "/metrics", ANYBODY, ""),
];
/// With any key.
const EVERYBODY: &[&str] = &["operator", "finance", "org_admin", "gateway", "inference"];
/// With none.
const ANYBODY: &[&str] = &["operator", "finance", "org_admin", "gateway", "inference", "nobody"];

#[tokio::test]
async fn i12_every_route_lets_in_its_roles_and_nobody_else() {
    let app = TestApp::start().await;
    let gateway = app.funded("acme", "10").await;
    let finance = app.operator().post("/api/v1/keys", json!({ "name": "f", "role": "finance" })).await;
    let finance = finance.expect(StatusCode::CREATED)["secret"].as_str().unwrap().to_owned();
    let mut actors = vec![("operator", app.operator()), ("finance", app.with_key(&finance))];
    for role in ["org_admin", "inference"] {
        actors.push((role, app.key("acme", role).await));
    }
    actors.push(("gateway", gateway.clone()));
    actors.push(("nobody", app.with_key("tg_nonsense")));
    let hold = gateway.post("/api/v1/orgs/acme/reservations", json!({ "credits": "1" })).await;
    let hold = hold.expect(StatusCode::CREATED)["id"].as_str().unwrap().to_owned();
    let documented = documented(&app).await;
    let listed: Vec<(String, String)> =
        ROUTES.iter().map(|(method, path, ..)| ((*method).to_owned(), (*path).to_owned())).collect();
    for route in &documented {
        assert!(listed.contains(route), "{route:?} is served; say in ROUTES who may use it");
    }
    assert_eq!(documented.len(), listed.len(), "a route of the table is not served");

    for (method, path, allowed, body) in ROUTES {
        let path = fill(path, &hold);
        for (role, actor) in &actors {
            let answer = ask(actor, method, &path, body).await;
            let let_in = !matches!(answer, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
            // Closing revokes the keys of the org itself; what came before is what counts.
            assert_eq!(let_in, allowed.contains(role), "{method} {path} as {role}: {answer}");
        }
    }
    app.finish().await;
}

#[tokio::test]
async fn i12_no_key_of_another_org_reaches_this_one() {
    let app = TestApp::start().await;
    let gateway = app.funded("acme", "10").await;
    app.funded("mallory", "10").await;
    let hold = gateway.post("/api/v1/orgs/acme/reservations", json!({ "credits": "1" })).await;
    let hold = hold.expect(StatusCode::CREATED)["id"].as_str().unwrap().to_owned();
    let before = gateway.get("/api/v1/orgs/acme/balance").await.expect(StatusCode::OK);

    for role in ["org_admin", "gateway", "inference"] {
        let stranger = app.key("mallory", role).await;
        for (method, path, _, body) in
            ROUTES.iter().filter(|(_, path, ..)| path.contains("{org}") || path.contains("{reservation}"))
        {
            let status = ask(&stranger, method, &fill(path, &hold), body).await;
            assert!(
                matches!(status, StatusCode::NOT_FOUND | StatusCode::FORBIDDEN),
                "{method} {path} as mallory's {role}: {status}"
            );
        }
        let batch = json!({ "operations": [
            { "op": "reserve", "org": "acme", "idempotency_key": "b", "credits": "1" },
            { "op": "settle", "reservation": hold, "idempotency_key": "c", "credits": "1" },
        ]});
        let outcomes = stranger.post("/api/v1/batch", batch).await.expect(StatusCode::OK);
        assert_eq!(
            (&outcomes["outcomes"][0]["status"], &outcomes["outcomes"][1]["status"]),
            (&json!(404), &json!(404))
        );
    }

    assert_eq!(gateway.get("/api/v1/orgs/acme/balance").await.expect(StatusCode::OK), before);
    app.finish().await;
}

#[tokio::test]
async fn the_api_describes_itself_and_the_committed_description_is_current() {
    let app = TestApp::start().await;
    let served = app.operator().get("/openapi.json").await.expect(StatusCode::OK);
    let page = app.operator().get("/docs").await.expect(StatusCode::OK);

    crate::schemas::current("openapi.json", &served);
    assert!(served["openapi"].as_str().unwrap().starts_with("3.1"));
    let page = page.as_str().unwrap();
    assert!(page.contains("/api/v1/orgs/{org}/reservations") && page.contains("max_output_tokens"));
    for outside in ["src=\"http", "href=\"http", "@import", "url("] {
        assert!(!page.contains(outside), "the page must work offline: {outside}");
    }
    app.finish().await;
}

#[tokio::test]
async fn what_is_asked_wrongly_is_answered_as_a_problem() {
    let app = TestApp::start().await;
    let acme = app.funded("acme", "10").await;
    let http = reqwest::Client::new();
    let url = format!("{}/api/v1/orgs/acme/reservations", app.url);
    let keyed = || http.post(&url).header("idempotency-key", "k").bearer_auth(acme.secret());
    let large = format!("{{\"credits\":\"1\",\"end_user\":\"{}\"}}", "x".repeat(2 << 20));

    for (request, status, code) in [
        (keyed().header("content-type", "application/json").body("{\"credits\":"), 400, "malformed"),
        (keyed().header("content-type", "text/csv").body("credits"), 415, "unsupported_media_type"),
        (keyed().header("content-type", "application/json").body(large), 413, "body"),
        (http.delete(&url).bearer_auth(acme.secret()), 405, "method_not_allowed"),
        (http.get(format!("{}/api/v1/nothing", app.url)), 404, "not_found"),
        (http.get(format!("{}/api/v1/orgs/acme", app.url)), 401, "unauthorized"),
    ] {
        let answer = request.send().await.unwrap();
        let kind = answer.headers()["content-type"].to_str().unwrap().to_owned();
        let seen = (answer.status().as_u16(), kind.as_str());
        assert_eq!(seen, (status, "application/problem+json"), "{code}");
        let body: Value = answer.json().await.unwrap();
        assert_eq!(body["code"], code, "{body}");
        assert!(body["detail"].as_str().is_some_and(|detail| detail.len() > 10), "{body}");
    }
    app.finish().await;
}

#[tokio::test]
async fn metrics_count_what_happened() {
    let app = TestApp::start().await;
    let acme = app.funded("acme", "10").await;
    acme.post("/api/v1/orgs/acme/reservations", json!({ "credits": "1" })).await.expect(StatusCode::CREATED);
    acme.post("/api/v1/orgs/acme/reservations", json!({ "credits": "90" }))
        .await
        .expect(StatusCode::PAYMENT_REQUIRED);

    let metrics = acme.get("/metrics").await.expect(StatusCode::OK);

    let metrics = metrics.as_str().unwrap();
    for line in [
        "tollgate_events_total{kind=\"CreditsReserved\"}",
        "tollgate_refusals_total{reason=\"insufficient_credits\"}",
        "tollgate_commit_duration_seconds_bucket",
        "tollgate_http_request_duration_seconds_bucket{route=\"/api/v1/orgs/{org}/reservations\"",
    ] {
        assert!(metrics.contains(line), "{line} is missing:\n{metrics}");
    }
    app.finish().await;
}

/// Every route that `/openapi.json` describes, by method.
async fn documented(app: &TestApp) -> Vec<(String, String)> {
    let openapi = app.operator().get("/openapi.json").await.expect(StatusCode::OK);
    let paths = openapi["paths"].as_object().unwrap();
    let of = |(path, methods): (&String, &Value)| {
        let methods: Vec<String> = methods.as_object().unwrap().keys().cloned().collect();
        methods.into_iter().map(|method| (method, path.clone())).collect::<Vec<_>>()
    };
    paths.iter().flat_map(of).collect()
}

fn fill(path: &str, hold: &str) -> String {
    path.replace("{org}", "acme")
        .replace("{reservation}", hold)
        .replace("{key}", &format!("key_{}", "0".repeat(64)))
        .replace("{name}", "balances")
        .replace("{provider}", "openai")
        .replace("{model}", "gpt-4o-mini")
}

async fn ask(actor: &Actor, method: &str, path: &str, body: &str) -> StatusCode {
    let method: Method = method.to_uppercase().parse().unwrap();
    let body = (!body.is_empty()).then(|| serde_json::from_str(body).unwrap());
    match method {
        Method::POST => actor.post(path, body.unwrap_or(Value::Null)).await.status,
        method => actor.send(method, path, None, body).await.status,
    }
}
