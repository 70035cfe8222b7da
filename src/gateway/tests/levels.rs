//! How complex a request is: that it had a say is known wherever it had one, and nowhere else.

use super::*;
use crate::domain::routing::{Arm, Experiment, StickyBy};

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
