//! What the API says of itself, and who may do what on every route of it.

use std::collections::BTreeSet;

use axum::Router;
use axum::routing::post;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tollgate::config::{Config, ProviderConfig};
use tollgate::simulator::{SimulatorConfig, SimulatorHandle};

use crate::schemas;
use crate::support::{Actor, Answer, TestApp, listen};

/// A route as `/openapi.json` describes it.
#[derive(Clone)]
struct Route {
    method: Method,
    path: String,
    /// Those whose keys may use it; everybody, with or without a key, where there is none.
    roles: Vec<String>,
    example: Value,
}

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
    let mut routes = documented(&app).await;
    // Those of a suspended org let nobody in, and closing revokes the org's keys.
    let order = ["/suspend", "/resume", "", "/close"];
    routes.sort_by_key(|route| {
        let last = order.iter().position(|end| !end.is_empty() && route.path.ends_with(end));
        last.unwrap_or(2)
    });

    for route in &routes {
        for (role, actor) in &actors {
            let status = ask(actor, route, &hold).await;
            let is_let_in = !matches!(status.as_u16(), 401 | 403);
            let may = route.roles.is_empty() || route.roles.iter().any(|allowed| allowed == role);
            assert_eq!(is_let_in, may, "{} {} as {role}: {status}", route.method, route.path);
            let is_understood = !matches!(status.as_u16(), 400 | 415 | 422 | 500..=599);
            assert!(!is_let_in || is_understood, "the example of {} {}: {status}", route.method, route.path);
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
        for route in documented(&app).await {
            if route.path.contains("{org}") || route.path.contains("{reservation}") {
                let status = ask(&stranger, &route, &hold).await;
                let is_refused = matches!(status, StatusCode::NOT_FOUND | StatusCode::FORBIDDEN);
                assert!(is_refused, "{} {} as mallory's {role}: {status}", route.method, route.path);
            }
        }
        let batch = json!({ "operations": [
            { "op": "reserve", "org": "acme", "idempotency_key": "b", "credits": "1" },
            { "op": "settle", "reservation": hold, "idempotency_key": "c", "credits": "1" },
        ]});
        let answer = stranger.post("/api/v1/batch", batch).await;
        match role {
            "gateway" => {
                let outcomes = answer.expect(StatusCode::OK)["outcomes"].clone();
                assert_eq!((&outcomes[0]["status"], &outcomes[1]["status"]), (&json!(404), &json!(404)));
            }
            _ => _ = answer.expect(StatusCode::FORBIDDEN),
        }
    }

    assert_eq!(gateway.get("/api/v1/orgs/acme/balance").await.expect(StatusCode::OK), before);
    app.finish().await;
}

#[tokio::test]
async fn the_api_describes_itself_and_the_committed_description_is_current() {
    let app = TestApp::start().await;
    let served = app.operator().get("/openapi.json").await.expect(StatusCode::OK);
    let page = app.operator().get("/docs").await.expect(StatusCode::OK);

    schemas::current("openapi.json", &served);
    let page = page.as_str().unwrap();
    for route in documented(&app).await {
        let method = route.method.as_str().to_lowercase();
        assert!(page.contains(&format!("<b class=\"{method}\">{method}</b> {}</h3>", route.path)));
    }
    assert!(page.contains("With a key of role operator, gateway.") && page.contains("max_output_tokens"));
    for outside in ["src=", "href=\"http", "@import", "url("] {
        assert!(!page.contains(outside), "the page must work offline: {outside}");
    }
    app.finish().await;
}

/// What OpenAPI 3.1 asks of a document beyond being JSON, and that every example is what its route takes.
#[tokio::test]
async fn the_description_is_valid_openapi() {
    let app = TestApp::start().await;
    let openapi = app.operator().get("/openapi.json").await.expect(StatusCode::OK);
    assert!(openapi["openapi"].as_str().unwrap().starts_with("3.1."));
    for pointer in references(&openapi) {
        assert!(openapi.pointer(&pointer[1..]).is_some(), "{pointer} leads nowhere");
    }
    for (name, schema) in openapi["components"]["schemas"].as_object().unwrap() {
        assert!(jsonschema::meta::is_valid(schema), "{name} is not a JSON Schema");
        assert!(!joins_a_closed_one(schema, &openapi), "nothing is a {name}: one of its parts is closed");
    }

    let mut ids = BTreeSet::new();
    for (path, method, operation) in operations(&openapi) {
        let id = operation["operationId"].as_str().unwrap();
        assert!(ids.insert(id.to_owned()), "two operations are called {id}");
        assert!(operation["summary"].is_string(), "{method} {path} does not say what it does");
        let named: BTreeSet<&str> =
            path.split('{').skip(1).filter_map(|rest| rest.split('}').next()).collect();
        let parameters = operation["parameters"].as_array().into_iter().flatten();
        let in_path = parameters.filter(|parameter| parameter["in"] == "path");
        let described: BTreeSet<&str> =
            in_path.filter(|one| one["required"] == true).filter_map(|one| one["name"].as_str()).collect();
        assert_eq!(named, described, "{method} {path}");
        let responses = operation["responses"].as_object().unwrap();
        assert!(responses.keys().any(|status| status.starts_with('2')), "{method} {path} never succeeds");
        assert!(responses.values().all(|response| response["description"].is_string()), "{method} {path}");
        let body = &operation["requestBody"]["content"]["application/json"];
        if !body.is_null() {
            let mut schema = body["schema"].clone();
            schema["components"] = openapi["components"].clone();
            let validator = jsonschema::validator_for(&schema).unwrap();
            assert!(validator.is_valid(&body["example"]), "the example of {method} {path}");
        }
    }
    app.finish().await;
}

#[tokio::test]
async fn every_refusal_every_header_and_every_operation_is_described() {
    let app = TestApp::start().await;
    let openapi = app.operator().get("/openapi.json").await.expect(StatusCode::OK);
    let described = operations(&openapi);
    let of = |method: &str, path: &str| {
        described
            .iter()
            .find(|one| (one.0, one.1) == (path, method))
            .unwrap_or_else(|| panic!("{method} {path}"))
            .2
    };
    let headers = |operation: &Value| -> BTreeSet<String> {
        let parameters = operation["parameters"].as_array().into_iter().flatten();
        let in_headers = parameters.filter(|parameter| parameter["in"] == "header");
        in_headers.map(|parameter| parameter["name"].as_str().unwrap().to_owned()).collect()
    };

    for (path, method, operation) in &described {
        for (status, response) in operation["responses"].as_object().unwrap() {
            let content = response["content"].as_object().into_iter().flatten();
            let is_described =
                content.clone().count() > 0 && content.clone().all(|(_, one)| !one["schema"].is_null());
            let may_be_bare = !status.starts_with(['4', '5']) || path.starts_with("/readyz");
            assert!(is_described || may_be_bare, "{method} {path}: {status} has no schema");
        }
        for (status, name) in [("401", "www-authenticate"), ("503", "retry-after")] {
            let response = &operation["responses"][status];
            let is_ours = path.starts_with("/api/v1") && !response.is_null();
            assert!(!is_ours || response["headers"][name].is_object(), "{method} {path} {status}: {name}");
        }
        if !operation["requestBody"].is_null() {
            assert!(operation["responses"].get("413").is_some(), "{method} {path} takes a body of any size");
        }
    }
    for path in ["/v1/chat/completions", "/v1/responses", "/v1/messages"] {
        let content = &of("post", path)["responses"]["200"]["content"];
        assert!(content.get("text/event-stream").is_some(), "{path} streams");
        let read = headers(of("post", path));
        for name in ["Idempotency-Key", "x-request-timeout", "x-tollgate-labels", "x-tollgate-complexity"] {
            assert!(read.contains(name), "{path} reads {name}: {read:?}");
        }
    }
    assert!(of("get", "/api/v1/orgs/{org}/spend")["responses"]["200"]["content"].get("text/csv").is_some());

    // An operation of a batch takes what the route of its name takes.
    let schemas = &openapi["components"]["schemas"];
    let fields = |schema: &Value| -> BTreeSet<String> {
        schema["properties"].as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect()
    };
    let kinds = schemas["Operation"]["oneOf"].as_array().unwrap();
    for (kind, body) in kinds.iter().zip(["NewReservation", "Cost", "Nothing", "Extension"]) {
        let beside = ["op", "org", "reservation", "idempotency_key"];
        let own: BTreeSet<String> =
            fields(kind).into_iter().filter(|name| !beside.contains(&name.as_str())).collect();
        assert_eq!(own, fields(&schemas[body]), "{body}");
    }
    for field in ["rates", "tiers", "uplifts", "units", "long_context"] {
        let described = schemas["CardBody"]["properties"][field].to_string();
        assert!(described.contains("$ref"), "a card's {field}: {described}");
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
    let heavy = format!("{{\"credits\":\"1\",\"more\":[{}{{}}]}}", "{},".repeat(40_000));
    let large = format!("{{\"credits\":\"1\",\"end_user\":\"{}\"}}", "x".repeat(2 << 20));

    for (request, status, code) in [
        (keyed().header("content-type", "application/json").body("{\"credits\":"), 400, "malformed"),
        (keyed().header("content-type", "text/csv").body("credits"), 415, "unsupported_media_type"),
        (keyed().header("content-encoding", "gzip").body(vec![0x1f, 0x8b]), 415, "unsupported_media_type"),
        (
            keyed().header("content-type", "application/json; charset=utf-16").body("{}"),
            415,
            "unsupported_media_type",
        ),
        (keyed().header("content-type", "application/json").body(large), 413, "body"),
        (keyed().header("content-type", "application/json").body(heavy), 413, "body"),
        (http.delete(&url).bearer_auth(acme.secret()), 405, "method_not_allowed"),
        (http.get(format!("{}/api/v1/nothing", app.url)), 404, "not_found"),
        (http.get(format!("{}/nothing", app.url)), 404, "not_found"),
        (http.get(format!("{}/api/v1/orgs/acme", app.url)), 401, "unauthorized"),
    ] {
        let answer = request.send().await.unwrap();
        let asks_for_a_key = answer.headers().get("www-authenticate").map(|value| value.to_str().unwrap());
        assert_eq!(asks_for_a_key, (status == 401).then_some("Bearer"), "{code}");
        let kind = answer.headers()["content-type"].to_str().unwrap().to_owned();
        let seen = (answer.status().as_u16(), kind.as_str());
        assert_eq!(seen, (status, "application/problem+json"), "{code}");
        let body: Value = answer.json().await.unwrap();
        assert_eq!(body["code"], code, "{body}");
        assert!(body["detail"].as_str().is_some_and(|detail| detail.len() > 10), "{body}");
    }
    let json =
        keyed().header("content-type", "Application/JSON; Charset=\"UTF-8\"").body("{\"credits\":\"1\"}");
    assert_eq!(json.send().await.unwrap().status(), 201);
    app.finish().await;
}

#[tokio::test]
async fn a_list_in_an_objects_place_is_refused_wherever_one_stands() {
    let app = TestApp::start().await;
    let acme = app.funded("acme", "10").await;
    let operator = app.operator();
    let hold = acme.post("/api/v1/orgs/acme/reservations", json!({ "credits": "1" })).await;
    let hold = hold.expect(StatusCode::CREATED)["id"].as_str().unwrap().to_owned();
    let before = operator.get("/api/v1/orgs/acme/events").await.expect(StatusCode::OK);
    // What no example has.
    let rates = json!({ "input": "1", "output": "1" });
    let card = json!({
        "provider": "p", "model": "m", "rates": rates, "units": { "call": "1" }, "uplifts": { "fast": "2" },
        "long_context": [{ "above_tokens": 9, "rates": rates }], "tiers": { "batch": { "rates": rates } },
    });
    let more = [
        ("/api/v1/prices", json!({ "cards": [card], "mark_ups": [{ "percent": "5" }] })),
        ("/api/v1/orgs/{org}/reservations", json!({ "credits": "1", "labels": { "team": "search" } })),
    ];
    let more = more.map(|(path, example)| Route {
        method: Method::POST,
        path: path.to_owned(),
        roles: vec![],
        example,
    });
    let routes: Vec<Route> = documented(&app).await.into_iter().chain(more).collect();
    let takes_a_body = |route: &&Route| route.path.starts_with("/api/v1") && route.example.is_object();

    let mut bodies = 0;
    for route in routes.iter().filter(takes_a_body) {
        for example in with_a_list(&route.example) {
            let said = format!("{} {} {example}", route.method, route.path);
            let Answer { status, body, .. } =
                answer(&operator, &Route { example, ..route.clone() }, &hold).await;
            // An operation of a batch fails alone.
            let status = body["outcomes"][0]["status"].as_u64().unwrap_or(status.as_u16().into());
            assert_eq!(status, 400, "{said}: {body}");
            bodies += 1;
        }
    }

    assert!(bodies > 40, "{bodies}");
    assert_eq!(operator.get("/api/v1/orgs/acme/events").await.expect(StatusCode::OK), before);
    app.finish().await;
}

/// The same with one object as the list of its values, for each that it has.
fn with_a_list(value: &Value) -> Vec<Value> {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(members) => members.iter().map(|(name, value)| (name.clone(), value)).collect(),
        Value::Array(items) => items.iter().enumerate().map(|(at, item)| (at.to_string(), item)).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => vec![],
    };
    let own = value.as_object().map(|members| members.values().cloned().collect());
    let within = children.into_iter().flat_map(|(place, child)| {
        with_a_list(child).into_iter().map(move |list| {
            let mut whole = value.clone();
            *whole.pointer_mut(&format!("/{place}")).unwrap() = list;
            whole
        })
    });
    own.into_iter().chain(within).collect()
}

/// Whatever stands beside an answer of the gateway is described.
#[tokio::test]
async fn every_header_of_an_answer_is_described() {
    let unread = post(async || StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let silent = post(std::future::pending::<StatusCode>);
    let provider = async |name: &str, router: Router| -> ProviderConfig {
        let api = json!({
            "name": name, "kind": "openai", "base_url": listen(router).await, "prices_of": "openai", "api_key": "any",
        });
        serde_json::from_value(api).unwrap()
    };
    let providers = vec![
        provider("openai", SimulatorHandle::new(SimulatorConfig::default()).router()).await,
        provider("unread", Router::new().route("/v1/chat/completions", unread)).await,
        provider("silent", Router::new().route("/v1/chat/completions", silent)).await,
    ];
    let routes = json!([
        { "name": "unread", "chain": ["unread/gpt-4o-mini"] },
        { "name": "silent", "chain": ["silent/gpt-4o-mini"], "total_seconds": 1 },
    ]);
    let routes = serde_json::from_value(routes).unwrap();
    let app = TestApp::configured(&Config { providers, routes, ..Config::default() }).await;
    app.funded("acme", "10").await;
    app.funded("poor", "0.000000001").await;
    let (inference, poor) = (app.key("acme", "inference").await, app.key("poor", "inference").await);
    let nobody = app.with_key("tg_nonsense");
    let openapi = inference.get("/openapi.json").await.expect(StatusCode::OK);

    let mut seen = BTreeSet::new();
    for (actor, path, model, status) in [
        (&inference, "/v1/chat/completions", "gpt-4o-mini", "200"),
        (&inference, "/v1/messages", "gpt-4o-mini", "200"),
        (&inference, "/v1/messages/count_tokens", "gpt-4o-mini", "200"),
        (&poor, "/v1/chat/completions", "gpt-4o-mini", "402"),
        (&nobody, "/v1/chat/completions", "gpt-4o-mini", "401"),
        (&inference, "/v1/chat/completions", "unread", "400"),
        (&inference, "/v1/chat/completions", "silent", "503"),
    ] {
        let messages = json!([{ "role": "user", "content": "Hello" }]);
        let answer = actor.post(path, json!({ "model": model, "messages": messages, "max_tokens": 9 })).await;
        assert_eq!(answer.status.as_str(), status, "{}", answer.body);
        let described = &openapi["paths"][path]["post"]["responses"][status]["headers"];
        let ours = |name: &&str| {
            let others = ["x-should-retry", "www-authenticate", "retry-after"];
            name.starts_with("x-tollgate-") || name.ends_with("request-id") || others.contains(name)
        };
        for name in answer.headers.keys().map(|name| name.as_str()).filter(ours) {
            assert_eq!(described[name]["schema"]["type"], "string", "{path} {status}: {name}");
            seen.insert(name.to_owned());
        }
    }

    for name in [
        "x-request-id",
        "request-id",
        "x-tollgate-cost",
        "x-tollgate-balance",
        "x-tollgate-count",
        "x-should-retry",
        "www-authenticate",
    ] {
        assert!(seen.contains(name), "{name} is on no answer");
    }
    app.finish().await;
}

async fn documented(app: &TestApp) -> Vec<Route> {
    let openapi = app.operator().get("/openapi.json").await.expect(StatusCode::OK);
    let routes = operations(&openapi).into_iter().map(|(path, method, operation)| {
        let schemes = operation["security"].as_array();
        let schemes = schemes.unwrap_or_else(|| panic!("{method} {path}: say who may use it"));
        let roles = schemes.iter().flat_map(|scheme| scheme["key"].as_array().into_iter().flatten());
        Route {
            method: method.to_uppercase().parse().unwrap(),
            path: path.to_owned(),
            roles: roles.map(|role| role.as_str().unwrap().to_owned()).collect(),
            example: operation["requestBody"]["content"]["application/json"]["example"].clone(),
        }
    });
    routes.collect()
}

fn operations(openapi: &Value) -> Vec<(&str, &str, &Value)> {
    let mut operations = Vec::new();
    for (path, methods) in openapi["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            operations.push((path.as_str(), method.as_str(), operation));
        }
    }
    operations
}

/// Every `$ref` of a document.
/// Whether an `allOf` in it has an object among several parts that permits no other fields, and so none of the others'.
fn joins_a_closed_one(schema: &Value, openapi: &Value) -> bool {
    let is_closed = |part: &Value| {
        let named = part["$ref"].as_str().and_then(|pointer| openapi.pointer(&pointer[1..]));
        let part = named.unwrap_or(part);
        let forms = ["oneOf", "anyOf"].into_iter().filter_map(|form| part[form].as_array()).flatten();
        forms.chain([part]).any(|form| form["additionalProperties"] == false)
    };
    let joins = |parts: &Vec<Value>| parts.len() > 1 && parts.iter().any(is_closed);
    let inner: Vec<&Value> = match schema {
        Value::Object(fields) => fields.values().collect(),
        Value::Array(items) => items.iter().collect(),
        _ => Vec::new(),
    };
    schema["allOf"].as_array().is_some_and(joins)
        || inner.into_iter().any(|inner| joins_a_closed_one(inner, openapi))
}

fn references(value: &Value) -> Vec<&str> {
    match value {
        Value::Object(fields) => {
            let own = fields.get("$ref").and_then(Value::as_str);
            own.into_iter().chain(fields.values().flat_map(references)).collect()
        }
        Value::Array(items) => items.iter().flat_map(references).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => vec![],
    }
}

async fn ask(actor: &Actor, route: &Route, hold: &str) -> StatusCode {
    answer(actor, route, hold).await.status
}

async fn answer(actor: &Actor, route: &Route, hold: &str) -> Answer {
    let path = route
        .path
        .replace("{org}", "acme")
        .replace("{reservation}", hold)
        .replace("{key}", &format!("key_{}", "0".repeat(64)))
        .replace("{name}", "balances")
        .replace("{provider}", "openai")
        .replace("{model}", "gpt-4o-mini")
        .replace("{experiment}", "smaller-chat-2026-11");
    match route.method {
        Method::POST => actor.post(&path, route.example.clone()).await,
        _ => {
            let body = (!route.example.is_null()).then(|| route.example.clone());
            actor.send(route.method.clone(), &path, None, body).await
        }
    }
}
