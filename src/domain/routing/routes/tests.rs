use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::*;
use crate::domain::routing::{Complexity, Prefer, StayWarm};
use crate::domain::splitmix::mixed;

const PROVIDERS: [&str; 3] = ["anthropic", "openai", "gemini"];

fn read(routes: Value, successors: Value) -> Result<Routes, Vec<Mistake>> {
    let routes: Vec<Route> = serde_json::from_value(routes).expect("routes");
    Routes::new(routes, serde_json::from_value(successors).expect("successors"), &PROVIDERS)
}

fn order(routes: &Value, context: &RouteContext, chance: u64) -> Vec<String> {
    let routes = read(routes.clone(), json!({})).expect("sound");
    let targets = routes.targets(&[To::Route("r".into())], context, chance);
    let name = |choice: Choice| format!("{}/{}", choice.target.provider, choice.target.model);
    targets.choices.into_iter().map(name).collect()
}

#[test]
fn a_chain_is_tried_as_it_is_written_and_other_routes_stand_in_place() {
    let routes = json!([
        {"name": "r", "chain": ["anthropic/c", "cheap", "gemini/g", "openai/mini"]},
        {"name": "cheap", "chain": ["openai/mini", "openai/org/nano"]},
    ]);

    assert_eq!(
        order(&routes, &RouteContext::default(), 0),
        ["anthropic/c", "openai/mini", "openai/org/nano", "gemini/g"]
    );
}

#[test]
fn a_level_leads_to_its_target_with_the_stronger_ones_behind() {
    let by = json!({"simple": "openai/mini", "standard": "gemini/g", "hard": "anthropic/c"});
    let routes = json!([{"name": "r", "complexity": by, "chain": ["openai/last"]}]);
    for (complexity, expected) in [
        (Some(Level::Simple), vec!["openai/mini", "gemini/g", "anthropic/c", "openai/last"]),
        (Some(Level::Standard), vec!["gemini/g", "anthropic/c", "openai/last"]),
        (Some(Level::Hard), vec!["anthropic/c", "openai/last"]),
        (None, vec!["anthropic/c", "openai/last"]),
    ] {
        let context =
            RouteContext { complexity: complexity.map(Complexity::Told), ..RouteContext::default() };
        assert_eq!(order(&routes, &context, 0), expected, "{complexity:?}");
    }
    assert!(read(routes, json!({})).expect("sound").ask_complexity());
}

#[test]
fn a_level_that_had_a_say_is_known_with_its_quality() {
    let by = json!({"simple": "openai/mini", "hard": "anthropic/c", "quality": 90});
    let step = |when: Value| json!({"to": "openai/a", "when": when});
    let routes = json!([
        {"name": "table", "complexity": by},
        {"name": "nested", "chain": ["table"]},
        {"name": "when", "chain": [step(json!({"complexity": "hard"})), "openai/b"]},
        {"name": "unmet", "chain": [step(json!({"complexity": "hard", "tools": true})), "openai/b"]},
        {"name": "plain", "chain": ["openai/b"]},
    ]);
    let routes = read(routes, json!({})).expect("sound");
    let to = |name: &str| To::Route(name.into());
    for (chain, expected) in [
        ("table", Some(90)),
        ("nested", Some(90)),
        ("when", Some(complexity::QUALITY)),
        ("unmet", None),
        ("plain", None),
    ] {
        let expanded = routes.targets(&[to(chain)], &RouteContext::default(), 0);
        assert_eq!(expanded.quality, expected, "{chain}");
    }
}

#[test]
fn conditions_say_which_steps_count() {
    let context = RouteContext {
        complexity: Some(Complexity::Told(Level::Standard)),
        org: vec!["org_1".into(), "acme".into()],
        project: Some("p".into()),
        key: "k".into(),
        labels: BTreeMap::from([("team".into(), "search".into())]),
        has_tools: true,
        has_images: false,
        input_tokens: 1_000,
    };
    for (when, holds) in [
        (json!({}), true),
        (json!({"org": "acme"}), true),
        (json!({"org": "org_1"}), true),
        (json!({"org": "globex"}), false),
        (json!({"complexity": "standard"}), true),
        (json!({"complexity": "simple"}), false),
        (json!({"project": "p"}), true),
        (json!({"project": "q"}), false),
        (json!({"key": "k", "tools": true}), true),
        (json!({"key": "k", "tools": false}), false),
        (json!({"images": true}), false),
        (json!({"images": false}), true),
        (json!({"labels": {"team": "search"}}), true),
        (json!({"labels": {"team": "ads"}}), false),
        (json!({"labels": {"env": "test"}}), false),
        (json!({"input_tokens_min": 1_000, "input_tokens_max": 1_000}), true),
        (json!({"input_tokens_min": 1_001}), false),
        (json!({"input_tokens_max": 999}), false),
    ] {
        let routes = json!([{"name": "r", "chain": [{"to": "openai/a", "when": when}, "openai/b"]}]);
        let expected: &[&str] = if holds { &["openai/a", "openai/b"] } else { &["openai/b"] };

        assert_eq!(order(&routes, &context, 0), expected, "{when}");
    }
}

#[test]
fn weights_share_the_requests_and_the_others_stand_in() {
    let routes = json!([{"name": "r", "chain": [
        {"to": "openai/most", "weight": 90}, {"to": "gemini/few", "weight": 10}, "anthropic/last"
    ]}]);
    let mut chance = 7;
    let mut few = 0;
    for _ in 0..10_000 {
        chance = mixed(chance);
        let order = order_of_one(&routes, chance);
        assert_eq!(order[2], "anthropic/last");
        assert_ne!(order[0], order[1]);
        few += i32::from(order[0] == "gemini/few");
    }

    assert!((900..1_100).contains(&few), "{few} of 10000");
}

#[test]
fn a_step_whose_condition_fails_makes_no_neighbours_of_those_around_it() {
    let routes = json!([{"name": "r", "chain": [
        {"to": "openai/first", "weight": 1}, {"to": "gemini/tools", "when": {"tools": true}},
        {"to": "anthropic/third", "weight": 1}
    ]}]);

    for chance in 0..20 {
        assert_eq!(order_of_one(&routes, mixed(chance)), ["openai/first", "anthropic/third"]);
    }
}

#[test]
fn targets_that_share_requests_are_one_group_and_no_others_are() {
    let routes = json!([
        {"name": "r", "chain": [
            {"to": "openai/a", "weight": 1}, {"to": "gemini/b", "weight": 1}, "openai/c", {"to": "inner", "weight": 1}
        ]},
        {"name": "inner", "chain": ["openai/d", {"to": "openai/e", "weight": 1}, {"to": "openai/f", "weight": 1}]},
    ]);
    let routes = read(routes, json!({})).expect("sound");

    let Expanded { choices, .. } = routes.targets(&[To::Route("r".into())], &RouteContext::default(), 0);

    let group =
        |model: &str| choices.iter().find(|choice| choice.target.model == model).expect("a choice").group;
    assert_eq!(group("a"), group("b"));
    assert_eq!(group("e"), group("f"));
    let groups: BTreeSet<usize> = ["a", "c", "d", "e"].map(group).into();
    assert_eq!(groups.len(), 4, "{choices:?}");
    let policy = |stay_warm, prefer| Policy { stay_warm, prefer, ..Policy::default() };
    for (policy, among, across) in [
        (policy(StayWarm::AmongEquals, Prefer::AsWritten), true, false),
        (policy(StayWarm::AmongEquals, Prefer::Fastest), true, true),
        (policy(StayWarm::WholeChain, Prefer::AsWritten), true, true),
        (policy(StayWarm::Never, Prefer::Fastest), false, false),
    ] {
        let equal = |one, other| policy.are_equal(group(one), group(other));
        assert_eq!((equal("a", "b"), equal("a", "c")), (among, across), "{policy:?}");
    }
}

fn order_of_one(routes: &Value, chance: u64) -> Vec<String> {
    order(routes, &RouteContext::default(), chance)
}

#[test]
fn every_mistake_is_told_at_once_with_its_place() {
    let mistakes = read(
        json!([
            {"name": "a", "chain": ["b", "openai/m"], "retires": 2},
            {"name": "b", "chain": [{"to": "c", "wieght": 1}]},
            {"name": "c", "chain": ["a", {"to": "groq/m", "weight": 0, "when": {"tols": true}}]},
            {"name": "a", "chain": []},
            {"chain": ["nowhere", "openai/"], "total_seconds": 0, "degrade": "groq/x", "retries": 11},
            {"name": "d", "chain": [{"to": "d", "when": {"input_tokens_min": 2, "input_tokens_max": 1}}]},
        ]),
        json!({"openai/w": "openai/x", "openai/x": "openai/y", "openai/y": "openai/x", "openai/z": "groq/z",
               "openai/q": "b", "gpt-4": "gemini/x", "groq/old": "gemini/x"}),
    )
    .expect_err("mistakes");
    let told: Vec<String> =
        mistakes.iter().map(|mistake| format!("{}: {}", mistake.path.join("."), mistake.why)).collect();

    for expected in [
        "routes.0.retires: nothing is called \"retires\" here",
        "routes.0.chain.0: a loop: \"b\" leads back to \"a\"",
        "routes.1.chain.0.wieght: nothing is called",
        "routes.1.chain.0: a loop",
        "routes.2.chain.0: a loop",
        "routes.2.chain.1: groq/m: there is no provider \"groq\"",
        "routes.2.chain.1: a weight must be at least 1",
        "routes.2.chain.1.when.tols: nothing is called",
        "routes.3.name: two routes are called \"a\"",
        "routes.3: a: its chain is empty",
        "routes.4: a route must have a name",
        "routes.4.chain.0: there is no route \"nowhere\"",
        "routes.4.chain.1: openai/: which model?",
        "routes.4.total_seconds: total_seconds must be at least 1",
        "routes.4.degrade: groq/x: there is no provider",
        "routes.4.retries: retries must be at most 10",
        "routes.5.chain.0: input_tokens_min must not be above",
        "routes.5.chain.0: a loop: \"d\" leads back to \"d\"",
        "successors.openai/w: a loop",
        "successors.openai/x: a loop",
        "successors.openai/y: a loop",
        "successors.openai/z: groq/z: there is no provider",
        "successors.openai/q: \"b\": a successor must be written as",
        "successors.gpt-4: \"gpt-4\": the retired model must be written as",
        "successors.groq/old: groq/old: there is no provider",
    ] {
        assert!(told.iter().any(|told| told.starts_with(expected)), "{expected}\n{told:#?}");
    }
    assert_eq!(told.len(), 25, "{told:#?}");
}

#[test]
fn a_model_that_is_no_more_has_its_last_successor() {
    let routes = read(json!([]), json!({"openai/a": "openai/b", "openai/b": "gemini/c"})).expect("sound");

    let successor = routes.successor("openai", "a").expect("one");

    assert_eq!((successor.provider.as_str(), successor.model.as_str()), ("gemini", "c"));
    assert_eq!(routes.successor("gemini", "c"), None);
}

#[test]
fn routes_that_name_each_other_widely_are_expanded_once_each() {
    let mut routes = vec![json!({"name": "r0", "chain": ["openai/a", "openai/b"]})];
    for nth in 1..60 {
        let below = format!("r{}", nth - 1);
        routes.push(json!({"name": format!("r{nth}"), "chain": [below.clone(), below]}));
    }
    routes.push(json!({"name": "r", "chain": ["r59", "r59"]}));

    assert_eq!(order(&Value::from(routes), &RouteContext::default(), 0), ["openai/a", "openai/b"]);
}
