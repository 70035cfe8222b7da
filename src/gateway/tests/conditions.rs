//! What the conditions of a route look at.

use super::*;

/// A call with this key, these labels and this body.
struct Asked<'a> {
    secret: &'a str,
    labels: &'a str,
    body: Value,
}

impl Asked<'_> {
    async fn served_by(mut self, world: &World, route: &str) -> String {
        self.body["model"] = route.into();
        let call = world.call_by(self.secret, "/v1/chat/completions", &self.body);
        let response = call.header("x-tollgate-labels", self.labels).send().await.expect("answers");
        assert_eq!(response.status(), 200, "{route}");
        header(&response, "x-tollgate-provider")
    }
}

#[tokio::test]
async fn a_condition_on_anything_chooses_by_just_that() {
    let project = ProjectId(Uuid::from_u128(9));
    let key = KeyId { org: ACME, local: Uuid::from_u128(8) };
    let conditions = [
        ("org", json!({"org": ACME.to_string()})),
        ("project", json!({"project": project.to_string()})),
        ("key", json!({"key": key.to_string()})),
        ("labels", json!({"labels": {"env": "test"}})),
        ("tools", json!({"tools": true})),
        ("images", json!({"images": true})),
        ("input", json!({"input_tokens_max": 100})),
    ];
    let routes = conditions.map(|(name, when)| {
        json!({"name": name, "chain": [{"to": "spare/gpt-4o-mini", "when": when}, "openai/gpt-4o-mini"]})
    });
    let world = World::routed("5", "", json!(routes)).await;
    let create = OrgCommand::CreateProject { project, name: "Search".into() };
    world.ledger.submit(Submission::by_tollgate(ACME, create)).await.expect("creates");
    let of_project = create_key(&world.ledger, key, Some(project)).await;
    let stranger = open_org(&world.ledger, OrgId(Uuid::from_u128(0x0DD)), "odd", "5").await;
    let with = |field: &str, value: Value| {
        let mut body = chat("r");
        body[field] = value;
        body
    };
    let tool = json!({"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}});
    let picture = json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}});
    let says = |content: Value| with("messages", json!([{"role": "user", "content": content}]));
    let own = world.secret.as_str();
    let ask = |secret, labels, body| Asked { secret, labels, body };
    let plain = || ask(own, "team=search", chat("r"));
    for (route, chosen, other) in [
        ("org", plain(), ask(&stranger, "team=search", chat("r"))),
        ("project", ask(&of_project, "team=search", chat("r")), plain()),
        ("key", ask(&of_project, "team=search", chat("r")), plain()),
        ("labels", ask(own, "team=search, env = test", chat("r")), ask(own, "env=live", chat("r"))),
        ("tools", ask(own, "team=search", with("tools", json!([tool]))), plain()),
        ("images", ask(own, "team=search", says(json!([picture]))), plain()),
        ("input", plain(), ask(own, "team=search", says("word ".repeat(200).into()))),
    ] {
        assert_eq!(chosen.served_by(&world, route).await, "spare", "{route}");
        assert_eq!(other.served_by(&world, route).await, "openai", "{route}");
    }
}

#[tokio::test]
async fn labels_are_kept_with_what_they_cost_and_malformed_ones_are_refused() {
    let routes =
        json!([{"name": "r", "chain": [{"to": "openai/gpt-4o-mini", "when": {"input_tokens_max": 100}}]}]);
    let world = World::routed("5", "", routes).await;
    let call = async |labels: &str| {
        let call = world.call_by(&world.secret, "/v1/chat/completions", &chat("r"));
        call.header("x-tollgate-labels", labels).send().await.expect("answers").status().as_u16()
    };

    assert_eq!(call("team=search , env= test").await, 200);
    let (_, purpose) = world.last_settled().await;
    let kept = [("env", "test"), ("team", "search")].map(|(name, value)| (name.into(), value.into()));
    assert_eq!(purpose.labels, BTreeMap::from(kept));
    assert_eq!([call("team").await, call("team=search, team=ads").await], [400, 400]);

    let mut long = chat("r");
    long["messages"][0]["content"] = "word ".repeat(200).into();
    let long = world.post("/v1/chat/completions", long).await;
    assert_eq!(long.status().as_u16(), 404, "no target's condition holds");
    let body: Value = long.json().await.expect("json");
    assert!(body["error"]["message"].as_str().is_some_and(|text| text.contains("`when`")), "{body}");
}
