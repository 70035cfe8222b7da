//! An experiment from its start to its winner, over HTTP: what its report says is what the ledger charged.

use reqwest::StatusCode;
use serde_json::{Value, json};
use tollgate::config::{Config, ProviderConfig};
use tollgate::domain::account::budget::BudgetScope;
use tollgate::domain::credits::Credits;
use tollgate::domain::routing::{Arm, Experiment, StickyBy};
use tollgate::domain::system::SystemCommand;
use tollgate::operations::find_org::known_org;
use tollgate::simulator::{SimulatorConfig, SimulatorHandle};

use crate::support::{Actor, TestApp, listen};

const USERS: usize = 90;

pub async fn app() -> TestApp {
    let simulator = listen(SimulatorHandle::new(SimulatorConfig::default()).router()).await;
    let provider = |name: &str| -> ProviderConfig {
        let provider = json!({"name": name, "kind": name, "base_url": simulator, "api_key": "any"});
        serde_json::from_value(provider).unwrap()
    };
    let providers = vec![provider("openai"), provider("anthropic")];
    TestApp::configured(&Config { providers, ..Config::default() }).await
}

pub fn smaller() -> Value {
    json!({"name": "smaller", "route": "gpt-4o", "sticky_by": "end_user", "orgs": ["acme", "globex"], "arms": [
        {"name": "control", "percent": 50},
        {"name": "mini", "percent": 50, "chain": ["openai/gpt-4o-mini"], "credits_per_org": "50"}]})
}

/// Asks, and says how the answer was: the request's id.
pub async fn ask(key: &Actor, user: usize) -> String {
    let body = json!({"model": "gpt-4o", "user": format!("user {user}"), "max_tokens": 40,
        "messages": [{"role": "user", "content": "Say something."}]});
    let answer = key.post("/v1/chat/completions", body).await;
    assert_eq!(answer.status, StatusCode::OK);
    answer.headers["x-request-id"].to_str().unwrap().to_owned()
}

fn credits(value: &Value) -> Credits {
    value.as_str().unwrap().parse().unwrap()
}

/// What an org allots to arms, by their names.
async fn caps(app: &TestApp, slug: &str) -> Vec<(String, Credits)> {
    let org = known_org(app.ledger(), slug).unwrap();
    let caps = app.ledger().read(org, |account| {
        let budgets = account.budgets.iter().map(|state| &state.budget);
        budgets
            .filter_map(|budget| match &budget.key.scope {
                BudgetScope::Arm { arm } => Some((arm.clone(), budget.cap)),
                _ => None,
            })
            .collect()
    });
    caps.await.unwrap()
}

fn cap(arm: &str, credits: i64) -> (String, Credits) {
    (arm.to_owned(), Credits::from_whole(credits))
}

#[tokio::test]
async fn i1_caps_outlast_their_experiment_and_go_when_its_orgs_meet_the_next() {
    let app = app().await;
    let operator = app.operator();
    for org in ["acme", "globex"] {
        app.funded(org, "100").await;
    }
    let start = async |name: &str, orgs: Value| {
        let mut experiment = smaller();
        (experiment["name"], experiment["orgs"]) = (name.into(), orgs);
        operator.post("/api/v1/experiments", experiment).await
    };
    let end = async |name: &str, how: &str, body: Value| {
        let path = format!("/api/v1/experiments/{name}/{how}");
        operator.post(&path, body).await.expect(StatusCode::OK);
    };

    start("smaller", json!(["acme", "globex"])).await.expect(StatusCode::CREATED);
    end("smaller", "promote", json!({"arm": "mini"})).await;
    assert_eq!(caps(&app, "acme").await, [cap("smaller/mini", 50)], "other nodes may not know yet");
    end("smaller", "stop", json!({})).await;
    start("second", json!(["acme"])).await.expect(StatusCode::CREATED);
    assert_eq!(caps(&app, "acme").await, [cap("smaller/mini", 50), cap("second/mini", 50)]);
    end("second", "stop", json!({})).await;
    app.clock().advance_seconds(3_600);
    operator.post("/api/v1/orgs/globex/close", json!({})).await.expect(StatusCode::OK);
    start("third", json!(["acme"])).await.expect(StatusCode::CREATED);

    assert_eq!(caps(&app, "acme").await, [cap("third/mini", 50)]);
    app.finish().await;
}

#[tokio::test]
async fn an_experiment_that_is_refused_leaves_no_caps() {
    let app = app().await;
    let operator = app.operator();
    for org in ["acme", "globex"] {
        app.funded(org, "100").await;
    }
    let start = async |experiment: Value, key: &str| {
        operator.send(reqwest::Method::POST, "/api/v1/experiments", Some(key), Some(experiment)).await
    };
    let on = |name: &str, route: &str, credits: Value| {
        let mut experiment = smaller();
        (experiment["name"], experiment["route"]) = (name.into(), route.into());
        experiment["arms"][1]["credits_per_org"] = credits;
        experiment
    };
    start(on("first", "gpt-4.1", "1".into()), "one").await.expect(StatusCode::CREATED);
    let first = [cap("first/mini", 1)];

    start(on("second", "gpt-4o", "2".into()), "one").await.expect(StatusCode::CONFLICT);
    assert_eq!(caps(&app, "acme").await, first, "a key of before");
    start(on("first", "gpt-4o", "3".into()), "two").await.expect(StatusCode::CONFLICT);
    assert_eq!(caps(&app, "acme").await, first, "a name of before");
    let both = ["4", "5"].map(|credits| on("same", "gpt-4o", credits.into()));
    let [one, other] = both.each_ref().map(|experiment| {
        start(experiment.clone(), experiment["arms"][1]["credits_per_org"].as_str().unwrap_or_default())
    });
    let (one, other) = tokio::join!(one, other);
    let stands = match (one.status, other.status) {
        (StatusCode::CREATED, StatusCode::CONFLICT) => 4,
        (StatusCode::CONFLICT, StatusCode::CREATED) => 5,
        both => panic!("{both:?}"),
    };
    for org in ["acme", "globex"] {
        assert_eq!(caps(&app, org).await[1..], [cap("same/mini", stands)], "one name at once: {org}");
    }
    // The one that is asked last.
    let last = ["acme", "globex"].into_iter().max_by_key(|slug| known_org(app.ledger(), slug)).unwrap();
    let open = if last == "acme" { "globex" } else { "acme" };
    operator.post(&format!("/api/v1/orgs/{last}/close"), json!({})).await.expect(StatusCode::OK);
    let late = start(on("late", "gpt-4o-mini", "6".into()), "late").await;
    late.expect(StatusCode::FORBIDDEN);
    assert_eq!(caps(&app, open).await, [cap("first/mini", 1), cap("same/mini", stands)], "a closed org");
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
    assert_eq!(after["arms"][0], report["arms"][0], "its figures stay");
    let (before, after) = (&report["arms"][1], &after["arms"][1]);
    let one_more = before["requests"].as_i64().unwrap() + 1;
    assert_eq!((&after["requests"], &after["units"]), (&json!(one_more), &before["units"]), "no sample");
    assert_eq!(after["figures"], before["figures"]);
    let mut charged = Credits::ZERO;
    for org in ["acme", "globex"] {
        let spend = operator.get(&format!("/api/v1/orgs/{org}/spend?group_by=arm")).await;
        let spend = spend.expect(StatusCode::OK);
        let rows = spend["data"].as_array().unwrap().iter().filter(|row| row["arm"] == "smaller/mini");
        charged = rows.map(|row| credits(&row["credits"])).fold(charged, Credits::saturating_add);
    }
    assert_eq!(credits(&after["charged"]), charged, "a winner's requests too");
    let listed = operator.get("/api/v1/experiments").await.expect(StatusCode::OK);
    assert_eq!(listed["data"][0]["status"], "stopped");
    app.finish().await;
}

fn leading_to(to: &str) -> Value {
    json!([{"name": "a", "percent": 10}, {"name": "b", "percent": 10, "chain": ["openai/gpt-4o-mini", to]}])
}

#[tokio::test]
async fn what_leads_nowhere_is_not_promoted() {
    let app = app().await;
    let operator = app.operator();
    let arm = |name: &str, chain: Value| -> Arm {
        serde_json::from_value(json!({"name": name, "percent": 10, "chain": chain})).unwrap()
    };
    let experiment = Experiment {
        name: "old".into(),
        route: "gpt-4o".into(),
        sticky_by: StickyBy::Org,
        orgs: [].into(),
        arms: vec![arm("control", json!([])), arm("lost", json!(["nope/none"]))],
    };
    let start = SystemCommand::StartExperiment { experiment };
    app.ledger().submit_system(start, None, None).await.unwrap();
    let promote =
        async |arm: &str| operator.post("/api/v1/experiments/old/promote", json!({"arm": arm})).await;

    let refused = promote("lost").await.expect(StatusCode::UNPROCESSABLE_ENTITY);
    assert!(refused["detail"].as_str().unwrap().contains("there is no provider"), "{refused}");
    promote("control").await.expect(StatusCode::OK);
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
        (changed("arms", json!([])), 422, "`arms` must have 1 to 20"),
        (changed("arms", json!([{"name": "a", "percent": 101}])), 422, "exceed 100"),
        (changed("orgs", json!(["nobody"])), 422, "there is no org \"nobody\""),
        (changed("sticky_by", "mood".into()), 400, "sticky"),
        (changed("seed", 1.into()), 400, "seed"),
        (changed("arms", leading_to("nope/none")), 422, "there is no provider \"nope\""),
        (changed("arms", leading_to("openai/none")), 422, "openai/none has no price"),
        (changed("arms", leading_to("nowhere")), 422, "there is no route \"nowhere\""),
        (changed("route", json!("nowhere")), 422, "there is no route \"nowhere\", and no model"),
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
