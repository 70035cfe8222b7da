//! Projects of one org: their keys are told apart.

use reqwest::{Method, StatusCode};
use serde_json::json;
use tollgate::config::{Config, ProviderConfig};
use tollgate::simulator::{SimulatorConfig, SimulatorHandle};

use crate::support::{TestApp, listen};

#[tokio::test]
async fn i4_a_projects_key_never_gets_the_hold_of_another_project_that_chose_the_same_idempotency_key() {
    let app = TestApp::start().await;
    app.funded("acme", "10").await;
    let web = app.project_key("acme", "web", "gateway").await;
    let search = app.project_key("acme", "search", "gateway").await;
    let path = "/api/v1/orgs/acme/reservations";
    let body = json!({ "credits": "0.5" });
    let batch = json!({ "operations": [
        { "op": "reserve", "org": "acme", "idempotency_key": "req-1", "credits": "0.5" }
    ]});

    let first = web.send(Method::POST, path, Some("req-1"), Some(body.clone())).await;
    let other = search.send(Method::POST, path, Some("req-1"), Some(body.clone())).await;
    let batched = search.post("/api/v1/batch", batch.clone()).await.expect(StatusCode::OK);
    let again = web.send(Method::POST, path, Some("req-1"), Some(body)).await;
    let again_batched = web.post("/api/v1/batch", batch).await.expect(StatusCode::OK);

    let first = first.expect(StatusCode::CREATED);
    assert_eq!(other.expect(StatusCode::CONFLICT)["code"], "idempotency_conflict");
    assert_eq!(batched["outcomes"][0]["status"], 409, "{batched}");
    assert_eq!(again.expect(StatusCode::CREATED), first);
    assert_eq!(again_batched["outcomes"][0]["body"], first);
    let balance = web.get("/api/v1/orgs/acme/balance").await.expect(StatusCode::OK);
    assert_eq!(balance["held"], "0.5");
    app.finish().await;
}

#[tokio::test]
async fn i4_on_v1_a_project_is_told_nothing_of_another_projects_request() {
    let provider = listen(SimulatorHandle::new(SimulatorConfig::default()).router()).await;
    let provider: ProviderConfig = serde_json::from_value(json!({
        "name": "openai", "kind": "openai", "base_url": provider, "api_key": "any",
    }))
    .unwrap();
    let app = TestApp::configured(&Config { providers: vec![provider], ..Config::default() }).await;
    app.funded("acme", "10").await;
    let web = app.project_key("acme", "web", "inference").await;
    let search = app.project_key("acme", "search", "inference").await;
    let path = "/v1/chat/completions";
    let chat = json!({ "model": "gpt-4o-mini", "messages": [{ "role": "user", "content": "Hello" }] });

    let first = web.send(Method::POST, path, Some("req-1"), Some(chat.clone())).await;
    let other = search.send(Method::POST, path, Some("req-1"), Some(chat.clone())).await;
    let again = web.send(Method::POST, path, Some("req-1"), Some(chat)).await;

    first.expect(StatusCode::OK);
    assert_eq!(other.expect(StatusCode::CONFLICT)["error"]["code"], "idempotency_conflict");
    assert_eq!(again.expect(StatusCode::CONFLICT)["error"]["code"], "duplicate_request");
    app.finish().await;
}

#[tokio::test]
async fn i12_a_projects_key_says_nothing_of_another_projects_request() {
    let provider = listen(SimulatorHandle::new(SimulatorConfig::default()).router()).await;
    let provider: ProviderConfig = serde_json::from_value(json!({
        "name": "openai", "kind": "openai", "base_url": provider, "api_key": "any",
    }))
    .unwrap();
    let app = TestApp::configured(&Config { providers: vec![provider], ..Config::default() }).await;
    app.funded("acme", "10").await;
    let web = app.project_key("acme", "web", "inference").await;
    let search = app.project_key("acme", "search", "inference").await;
    let gateway = app.project_key("acme", "gateway", "gateway").await;
    let (orgs, admin) = (app.key("acme", "inference").await, app.key("acme", "org_admin").await);
    let chat = json!({ "model": "gpt-4o-mini", "messages": [{ "role": "user", "content": "Hello" }] });
    let events = async || {
        let events = admin.get("/api/v1/orgs/acme/events?limit=1000").await.expect(StatusCode::OK);
        events["data"].as_array().unwrap().iter().filter(|event| event["kind"] == "FeedbackGiven").count()
    };

    let answer = web.post("/v1/chat/completions", chat).await;
    let request = answer.headers["x-request-id"].to_str().unwrap().to_owned();
    let feedback = |label: &str| json!({ "request_id": request, "label": label });

    for key in [&search, &gateway] {
        let refused = key.post("/api/v1/feedback", feedback("failure")).await.expect(StatusCode::NOT_FOUND);
        assert_eq!(refused["detail"], "there is no such request");
    }
    assert_eq!(events().await, 0);
    // Its own project's, the org's, and the org's administrator.
    for (nth, (key, label)) in
        [(&web, "success"), (&orgs, "failure"), (&admin, "success")].into_iter().enumerate()
    {
        key.post("/api/v1/feedback", feedback(label)).await.expect(StatusCode::NO_CONTENT);
        assert_eq!(events().await, nth + 1);
    }
    app.finish().await;
}
