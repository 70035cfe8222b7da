//! An experiment from its start to its winner, over HTTP: what its report says is what the ledger charged.

use reqwest::StatusCode;
use serde_json::{Value, json};
use tollgate::config::{Config, ProviderConfig};
use tollgate::domain::credits::Credits;
use tollgate::operations::find_org::known_org;
use tollgate::simulator::{SimulatorConfig, SimulatorHandle};

use crate::support::{Actor, TestApp, listen};

const USERS: usize = 90;

async fn app() -> TestApp {
    let simulator = listen(SimulatorHandle::new(SimulatorConfig::default()).router()).await;
    let provider = |name: &str| -> ProviderConfig {
        let provider = json!({"name": name, "kind": name, "base_url": simulator, "api_key": "any"});
        serde_json::from_value(provider).unwrap()
    };
    let providers = vec![provider("openai"), provider("anthropic")];
    TestApp::configured(&Config { providers, ..Config::default() }).await
}

fn smaller() -> Value {
    json!({"name": "smaller", "route": "gpt-4o", "sticky_by": "end_user", "orgs": ["acme", "globex"], "arms": [
        {"name": "control", "percent": 50},
        {"name": "mini", "percent": 50, "chain": ["openai/gpt-4o-mini"], "credits_per_org": "50"}]})
}

/// Asks, and says how the answer was: the request's id.
async fn ask(key: &Actor, user: usize) -> String {
    let body = json!({"model": "gpt-4o", "user": format!("user {user}"), "max_tokens": 40,
        "messages": [{"role": "user", "content": "Say something."}]});
    let answer = key.post("/v1/chat/completions", body).await;
    assert_eq!(answer.status, StatusCode::OK);
    answer.headers["x-request-id"].to_str().unwrap().to_owned()
}

fn credits(value: &Value) -> Credits {
    value.as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn an_org_that_has_closed_keeps_no_winner_from_the_others() {
    let app = app().await;
    let operator = app.operator();
    for org in ["acme", "globex"] {
        app.funded(org, "100").await;
    }
    operator.post("/api/v1/experiments", smaller()).await.expect(StatusCode::CREATED);
    operator.post("/api/v1/orgs/acme/close", json!({})).await.expect(StatusCode::OK);

    for end in [("promote", json!({"arm": "mini"})), ("stop", json!({}))] {
        operator.post(&format!("/api/v1/experiments/smaller/{}", end.0), end.1).await.expect(StatusCode::OK);
    }

    let globex = known_org(app.ledger(), "globex").unwrap();
    let capped = app.ledger().read(globex, |account| account.budgets.len()).await.unwrap();
    assert_eq!(capped, 0, "its arm's cap has gone");
    app.finish().await;
}

#[tokio::test]
async fn an_experiment_runs_is_judged_by_the_ledger_and_its_winner_promoted() {
    let app = app().await;
    let operator = app.operator();
    let mut keys = Vec::new();
    for org in ["acme", "globex"] {
        app.funded(org, "100").await;
        keys.push(app.key(org, "inference").await);
    }
    let key = Some("start-1");
    let start = || operator.send(reqwest::Method::POST, "/api/v1/experiments", key, Some(smaller()));
    let started = start().await.expect(StatusCode::CREATED);
    assert_eq!(start().await.expect(StatusCode::CREATED), started, "one key, one effect");
    let early = operator.get("/api/v1/experiments/smaller").await.expect(StatusCode::OK);
    assert_eq!(early["arms"][1]["verdict"], "not enough data: 0 of at least 30 units in each arm");

    for user in 0..USERS {
        for key in &keys {
            let id = ask(key, user).await;
            let score = json!({"request_id": id, "score": 0.2});
            let label = json!({"request_id": id, "score": 0.75, "label": "success"});
            key.post("/api/v1/feedback", score).await.expect(StatusCode::NO_CONTENT);
            key.post("/api/v1/feedback", label.clone()).await.expect(StatusCode::NO_CONTENT);
            key.post("/api/v1/feedback", label).await.expect(StatusCode::NO_CONTENT);
        }
    }

    let report = operator.get("/api/v1/experiments/smaller").await.expect(StatusCode::OK);
    let arms = report["arms"].as_array().unwrap();
    let mut requests = 0;
    for arm in arms {
        let name = format!("smaller/{}", arm["arm"].as_str().unwrap());
        let mut charged = Credits::ZERO;
        for org in ["acme", "globex"] {
            let spend = operator.get(&format!("/api/v1/orgs/{org}/spend?group_by=arm")).await;
            let spend = spend.expect(StatusCode::OK);
            let rows = spend["data"].as_array().unwrap().iter();
            charged = rows
                .filter(|row| row["arm"] == name.as_str())
                .map(|row| credits(&row["credits"]))
                .fold(charged, Credits::saturating_add);
        }
        assert_eq!(credits(&arm["charged"]), charged, "{name}: the report and the ledger");
        assert_eq!((&arm["judged"], &arm["successes"]), (&arm["requests"], &arm["requests"]), "{arm}");
        assert_eq!(arm["failed"], 0);
        assert_eq!(arm["units"], arm["requests"], "each org's user is a unit");
        requests += arm["requests"].as_u64().unwrap();
        let score = arm["figures"].as_array().unwrap().iter().find(|it| it["metric"] == "score").unwrap();
        assert_eq!(score["value"], 0.75, "the last word counts");
    }
    assert_eq!(requests, 2 * USERS as u64);
    let mini = &arms[1];
    let cost =
        mini["against_control"].as_array().unwrap().iter().find(|it| it["metric"] == "cost_per_request");
    assert_eq!(cost.unwrap()["verdict"], "lower", "{mini}");
    assert!(mini["verdict"].as_str().unwrap().contains("credits per request lower by"), "{mini}");
    let budgets = operator.get("/api/v1/orgs/acme/budgets").await.expect(StatusCode::OK);
    assert_eq!(budgets["budgets"], json!([]), "an arm's cap is its experiment's");

    let promoted = operator.post("/api/v1/experiments/smaller/promote", json!({"arm": "mini"})).await;
    let promoted = promoted.expect(StatusCode::OK);
    assert_eq!((&promoted["status"], &promoted["promoted"]), (&json!("promoted"), &json!("mini")));
    let chat =
        || json!({"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 40});
    let served =
        |answer: &crate::support::Answer| answer.headers["x-tollgate-model"].to_str().unwrap().to_owned();
    let won = keys[0].post("/v1/chat/completions", chat()).await;
    assert_eq!(served(&won), "gpt-4o-mini");
    operator.post("/api/v1/experiments/smaller/stop", json!({})).await.expect(StatusCode::OK);
    let over = keys[0].post("/v1/chat/completions", chat()).await;
    assert_eq!(served(&over), "gpt-4o");
    let after = operator.get("/api/v1/experiments/smaller").await.expect(StatusCode::OK);
    assert_eq!(after["arms"], report["arms"], "its figures stay");
    let listed = operator.get("/api/v1/experiments").await.expect(StatusCode::OK);
    assert_eq!(listed["data"][0]["status"], "stopped");
    app.finish().await;
}

#[tokio::test]
async fn what_is_wrong_with_an_experiment_or_a_feedback_is_said() {
    let app = app().await;
    let operator = app.operator();
    app.funded("acme", "10").await;
    app.funded("globex", "10").await;
    let (acme, globex) = (app.key("acme", "inference").await, app.key("globex", "inference").await);
    operator.post("/api/v1/experiments", smaller()).await.expect(StatusCode::CREATED);
    let changed = |name: &str, value: Value| {
        let mut experiment = smaller();
        experiment["name"] = "other".into();
        experiment["route"] = "gpt-4o-mini".into();
        experiment[name] = value;
        experiment
    };

    for (experiment, status, says) in [
        (smaller(), 409, "exists already"),
        (changed("route", "gpt-4o".into()), 409, "\"smaller\" is under way"),
        (changed("arms", json!([])), 422, "`arms` has 1 to 20"),
        (changed("arms", json!([{"name": "a", "percent": 101}])), 422, "more than 100"),
        (changed("orgs", json!(["nobody"])), 422, "there is no org \"nobody\""),
        (changed("sticky_by", "mood".into()), 400, "sticky"),
        (changed("seed", 1.into()), 400, "seed"),
    ] {
        let answer = operator.post("/api/v1/experiments", experiment).await;
        let seen = (answer.status.as_u16(), answer.body["detail"].as_str().unwrap_or_default().to_owned());
        let names_it = seen.1.contains(says) || says == "sticky" && seen.1.contains("mood");
        assert!(seen.0 == status && names_it, "{seen:?} is not {status} {says:?}");
    }
    let id = ask(&acme, 1).await;
    for (key, feedback, status) in [
        (&globex, json!({"request_id": id, "label": "success"}), 404),
        (&acme, json!({"request_id": id}), 400),
        (&acme, json!({"request_id": id, "score": 1.1}), 400),
        (&acme, json!({"request_id": id, "score": -0.1}), 400),
        (&acme, json!({"request_id": id, "score": 1, "org": "globex"}), 404),
        (&acme, json!({"request_id": "rsv_1", "score": 1}), 400),
        (&operator, json!({"request_id": id, "score": 1}), 400),
        (&operator, json!({"request_id": id, "score": 1, "org": "acme"}), 204),
    ] {
        let answer = key.post("/api/v1/feedback", feedback.clone()).await;
        assert_eq!(answer.status.as_u16(), status, "{feedback}: {}", answer.body);
    }
    let nowhere = operator.post("/api/v1/experiments/nowhere/stop", json!({})).await;
    nowhere.expect(StatusCode::NOT_FOUND);
    let arm = operator.post("/api/v1/experiments/smaller/promote", json!({"arm": "none"})).await;
    arm.expect(StatusCode::UNPROCESSABLE_ENTITY);
    app.finish().await;
}
