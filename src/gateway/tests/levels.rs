//! How complex a request is: it goes to a model that is strong enough, and that this had a say is known wherever it had one.

use super::*;
use crate::domain::routing::{Arm, Experiment, StickyBy};

#[tokio::test]
async fn a_request_goes_to_a_model_that_is_strong_enough_and_the_record_says_why() {
    let by = json!({"simple": "openai/gpt-4o-mini", "hard": "openai/gpt-4o", "quality": 90});
    let world = World::routed("5", "", json!([{"name": "smart", "complexity": by}])).await;
    let ask = async |text: &str, told: Option<&str>| {
        let mut body = chat("smart");
        body["messages"][0]["content"] = text.into();
        let mut call =
            world.http.post(format!("{}/v1/chat/completions", world.url)).bearer_auth(&world.secret);
        if let Some(told) = told {
            call = call.header("x-tollgate-complexity", told);
        }
        call.json(&body).send().await.expect("answers")
    };
    let easy = "What is the capital of France?";
    let hard = "Each of 37 teams then plays 4980 games, and twice as many after the first 1250 days. If every team \
                wins half of the remaining games, how many more games than days are left in total?";

    for (text, told, model, level) in [
        (easy, None, "gpt-4o-mini", "simple"),
        (hard, None, "gpt-4o", "hard"),
        (easy, Some("hard"), "gpt-4o", "hard"),
        (easy, Some("off"), "gpt-4o", "hard"),
        (hard, Some("simple"), "gpt-4o-mini", "simple"),
    ] {
        let response = ask(text, told).await;
        assert_eq!(header(&response, "x-tollgate-model"), model, "{text} {told:?}");
        let why = header(&response, "x-tollgate-complexity");
        assert!(why.starts_with(level), "{why}");
        assert_eq!(why.contains("score"), told.is_none(), "{why}");
        let stored = list_events(&world.ledger, ACME, 0, 1_000).await.expect("reads");
        let settled = stored.into_iter().rev().find_map(|stored| match stored.payload.event {
            Event::ReservationSettled { purpose, .. } => Some(purpose),
            _ => None,
        });
        assert_eq!(
            settled.and_then(|purpose| purpose.decision),
            Some(format!("complexity {}", why.replacen("; ", ": ", 1)))
        );
    }
    assert_eq!(ask(easy, Some("trivial")).await.status(), 400);
    let mut agreed = chat("smart");
    agreed["messages"] = json!([{"role": "user", "content": hard},
        {"role": "assistant", "content": "Shall I reckon that out?"}, {"role": "user", "content": "Yes, please"}]);
    let response = world.post("/v1/chat/completions", agreed).await;
    assert_eq!(header(&response, "x-tollgate-model"), "gpt-4o");
    let why = header(&response, "x-tollgate-complexity");
    assert!(why.starts_with("hard; score") && why.contains("of message 1 in the user's last 2"), "{why}");
}

#[tokio::test]
async fn a_level_that_chose_the_target_is_told_and_recorded_and_no_other_is() {
    let by = json!({"simple": "openai/gpt-4o-mini", "hard": "openai/gpt-4o"});
    let hard = json!({"to": "openai/gpt-4o", "when": {"complexity": "hard"}});
    let routes = json!([
        {"name": "when", "chain": [hard, "openai/gpt-4o-mini"]},
        {"name": "table", "complexity": by},
        {"name": "nested", "chain": ["table"]},
        {"name": "tried", "complexity": by},
        {"name": "long", "complexity": by, "context_fit": "refuse", "on_context_length": "spare/gpt-4.1-nano"},
        {"name": "longer", "chain": ["openai/gpt-4o-mini"], "context_fit": "refuse", "on_context_length": "large"},
        {"name": "large", "complexity": {"simple": "spare/gpt-4.1-nano", "hard": "spare/gpt-4.1"}},
    ]);
    let world = World::routed("5", "", routes).await;
    let arm = Arm {
        name: "own".into(),
        percent: 100,
        chain: ["openai/gpt-4.1-nano".to_owned()].into(),
        credits_per_org: None,
        shadow_paid_by: None,
    };
    let (route, sticky_by) = ("tried".into(), StickyBy::Org);
    let experiment = Experiment { name: "e".into(), route, sticky_by, orgs: [].into(), arms: vec![arm] };
    let start = SystemCommand::StartExperiment { experiment };
    world.ledger.submit_system(start, None, None).await.expect("starts");

    for (route, model, level) in [
        ("when", "gpt-4o-mini", "simple; as the caller said"),
        ("nested", "gpt-4o-mini", "simple; as the caller said"),
        ("tried", "gpt-4.1-nano", ""),
        ("long", "gpt-4.1-nano", ""),
        ("longer", "gpt-4.1-nano", "simple; as the caller said"),
    ] {
        let mut body = chat(route);
        if route.starts_with("long") {
            body["messages"][0]["content"] = "alpha beta ".repeat(65_000).into();
        }
        let call = world.http.post(format!("{}/v1/chat/completions", world.url)).bearer_auth(&world.secret);
        let call = call.header("x-tollgate-complexity", "simple").json(&body);
        let response = call.send().await.expect("answers");

        assert_eq!(header(&response, "x-tollgate-model"), model, "{route}");
        assert_eq!(header(&response, "x-tollgate-complexity"), level, "{route}");
        let decision = (!level.is_empty()).then(|| format!("complexity {}", level.replace("; ", ": ")));
        assert_eq!(world.last_decision().await, decision, "{route}");
    }
}

#[tokio::test]
async fn a_level_has_no_say_in_what_stands_in_for_the_chain() {
    let by = json!({"simple": "openai/gpt-4o-mini", "hard": "openai/gpt-4o"});
    let routes = json!([{"name": "r", "complexity": by, "retries": 0, "degrade": "spare/gpt-4o-mini"}]);
    let world = World::routed("5", "503=1", routes).await;

    let response = world.post("/v1/chat/completions", chat("r")).await;

    assert_eq!(header(&response, "x-tollgate-provider"), "spare");
    assert_eq!(header(&response, "x-tollgate-degraded"), "true");
    assert_eq!(header(&response, "x-tollgate-complexity"), "");
}
