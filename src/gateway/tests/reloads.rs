//! Routes that are changed under traffic.

use tokio::sync::Notify;

use super::*;

/// The configuration with other routes.
fn routed(world: &World, routes: Value) -> Config {
    Config { routes: serde_json::from_value(routes).expect("routes"), ..world.config.clone() }
}

#[tokio::test]
async fn routes_change_between_requests_and_mistakes_leave_the_old_ones() {
    let world = World::new("5", "").await;

    let unknown = world.post("/v1/chat/completions", chat("r")).await;
    world.state.reload_routes(&routed(&world, chain(json!({})))).expect("sound");
    let known = world.post("/v1/chat/completions", chat("r")).await;
    let refused = world.state.reload_routes(&routed(&world, json!([{"name": "r", "chain": ["groq/x"]}])));
    let still = world.post("/v1/chat/completions", chat("r")).await;

    assert_eq!(unknown.status().as_u16(), 404);
    assert_eq!(header(&known, "x-tollgate-provider"), "anthropic");
    assert!(refused.expect_err("a mistake").to_string().contains("groq"));
    assert_eq!(still.status().as_u16(), 200);
}

#[tokio::test]
async fn a_request_that_is_under_way_keeps_the_routes_that_it_came_by() {
    let (asked, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let fails = {
        let (asked, go_on) = (asked.clone(), go_on.clone());
        async move || {
            asked.notify_one();
            go_on.notified().await;
            axum::http::StatusCode::SERVICE_UNAVAILABLE
        }
    };
    let odd = Router::new().route("/v1/chat/completions", axum::routing::post(fails));
    let routes = |rest: &str| {
        json!([{"name": "r", "chain": ["odd/gpt-4o-mini"], "retries": 0, "degrade": "rest"},
               {"name": "rest", "chain": [rest]}])
    };
    let world = World::with_odd("5", "", routes("spare/gpt-4o-mini"), odd).await;
    let reload = async {
        asked.notified().await;
        world.state.reload_routes(&routed(&world, routes("openai/gpt-4o-mini"))).expect("sound");
        go_on.notify_one();
    };

    let (under_way, ()) = tokio::join!(world.post("/v1/chat/completions", chat("r")), reload);
    go_on.notify_one();
    let after = world.post("/v1/chat/completions", chat("r")).await;

    let by = [&under_way, &after].map(|answer| header(answer, "x-tollgate-provider"));
    assert_eq!(by, ["spare", "openai"]);
}

#[tokio::test]
async fn a_new_provider_is_there_after_a_restart_only() {
    let route = |to: &str| json!([{"name": "r", "chain": [to]}]);
    let mut world = World::routed("5", "", route("spare/gpt-4o-mini")).await;
    let mut config = routed(&world, route("groq/gpt-4o-mini"));
    let spare = config.providers.iter().find(|provider| provider.name == "spare").expect("a provider");
    config.providers.push(ProviderConfig { name: "groq".into(), ..spare.clone() });

    let refused = world.state.reload_routes(&config);
    let before = world.post("/v1/chat/completions", chat("r")).await;
    world.config = config;
    world.restart().await;
    let after = world.post("/v1/chat/completions", chat("r")).await;

    assert!(refused.expect_err("no such provider here").to_string().contains("groq"));
    assert_eq!([&before, &after].map(|answer| header(answer, "x-tollgate-provider")), ["spare", "groq"]);
}

#[tokio::test]
async fn a_route_waits_for_a_connection_as_long_as_it_says_from_the_start_and_from_a_reload_on() {
    let (address, _full) = full_listener().await;
    let waiting = |name: &str, connect_seconds: u64| {
        let chain = ["odd/gpt-4o-mini", "spare/gpt-4o-mini"];
        json!([{"name": name, "chain": chain, "retries": 0, "connect_seconds": connect_seconds}])
    };
    let mut world = World::new("5", "").await;
    world.config = routed(&world, waiting("r", 1));
    let mut providers = world.config.providers.iter_mut();
    let odd = providers.find(|provider| provider.name == "odd").expect("a provider");
    odd.base_url = format!("http://{address}");
    odd.connect_timeout_seconds = 3_600;
    world.restart().await;

    for (name, reloaded) in [("r", None), ("other", Some(waiting("other", 2)))] {
        if let Some(routes) = reloaded {
            world.state.reload_routes(&routed(&world, routes)).expect("sound");
        }
        let answer = world.post("/v1/chat/completions", chat(name)).await;

        assert_eq!(header(&answer, "x-tollgate-provider"), "spare");
        let outcomes = world.last_settle().await.0.iter().map(|attempt| attempt.outcome).collect::<Vec<_>>();
        assert_eq!(outcomes, [AttemptOutcome::Refused, AttemptOutcome::Succeeded], "it was not connected");
    }
}
