//! What a model is held to: as its family can, and told where it can't.

use super::*;

fn to_claude(body: &Value) -> Result<UpstreamRequest, Refused> {
    upstream_request(Dialect::OpenaiChat, Family::Anthropic, body, "claude-haiku-4-5")
}

fn answering(schema: Value) -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": "Where?"}],
           "response_format": {"type": "json_schema", "json_schema": {"name": "place", "schema": schema}}})
}

#[test]
fn a_schema_reaches_claude_as_it_takes_one_and_its_bounds_as_words() {
    let age = json!({"type": "integer", "description": "In years.", "minimum": 0, "maximum": 150});
    let schema = json!({
        "type": "object", "required": ["age"],
        "properties": {
            "age": age,
            "minimum": {"type": "string", "minLength": 1, "format": "iri"},
            "when": {"type": "string", "format": "date-time", "pattern": "^2"},
            "tags": {"type": "array", "minItems": 1, "maxItems": 3, "items": {"$ref": "#/$defs/tag"}},
            "pairs": {"type": "array", "minItems": 2, "items": {"type": ["object", "null"], "properties": {}}},
            "of": {"oneOf": [{"type": "object", "properties": {}, "additionalProperties": true}, {"type": "null"}]},
        },
        "$defs": {"tag": {"type": "object", "properties": {"name": {"type": "number", "multipleOf": 2}}}},
    });

    let sent = to_claude(&answering(schema)).unwrap();

    assert_eq!(
        sent.body["output_config"]["format"]["schema"],
        json!({
            "type": "object", "required": ["age"], "additionalProperties": false,
            "properties": {
                "age": {"type": "integer", "description": "In years.\n\n{minimum: 0, maximum: 150}"},
                "minimum": {"type": "string", "description": "{minLength: 1, format: \"iri\"}"},
                "when": {"type": "string", "format": "date-time", "pattern": "^2"},
                "tags": {"type": "array", "minItems": 1, "description": "{maxItems: 3}",
                         "items": {"$ref": "#/$defs/tag"}},
                "pairs": {"type": "array", "description": "{minItems: 2}",
                          "items": {"type": ["object", "null"], "properties": {}, "additionalProperties": false}},
                "of": {"anyOf": [{"type": "object", "properties": {}, "additionalProperties": false},
                                 {"type": "null"}]},
            },
            "$defs": {"tag": {"type": "object", "additionalProperties": false,
                              "properties": {"name": {"type": "number", "description": "{multipleOf: 2}"}}}},
        })
    );
    let told = [
        "additionalProperties",
        "format",
        "maxItems",
        "maximum",
        "minItems",
        "minLength",
        "minimum",
        "multipleOf",
        "oneOf",
    ];
    assert_eq!(sent.dropped, told.map(|name| format!("schema.{name}")));
}

#[test]
fn of_tools_only_the_strict_are_brought_into_claudes_form() {
    let schema = json!({"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}});
    let asking = |strict: bool| {
        let function = json!({"name": "count", "parameters": schema, "strict": strict});
        json!({"model": "m", "messages": [{"role": "user", "content": "Count."}],
               "tools": [{"type": "function", "function": function}]})
    };

    let (strict, free) = (to_claude(&asking(true)).unwrap(), to_claude(&asking(false)).unwrap());

    assert_eq!(strict.body["tools"][0]["input_schema"]["additionalProperties"], false);
    assert_eq!(strict.dropped, ["schema.minimum"]);
    assert_eq!((&free.body["tools"][0]["input_schema"], free.dropped.len()), (&schema, 0));
}

#[test]
fn what_claude_would_refuse_is_refused_before_it_is_sent() {
    let named = json!({"type": "object", "additionalProperties": {"type": "string"}});
    let free = json!({"type": "object"});
    let one = |name: &str| json!({"type": "object", "properties": {name: {"type": "string"}}});
    let stopping =
        |stop: Value| json!({"model": "m", "messages": [{"role": "user", "content": "Go."}], "stop": stop});
    for (body, field) in [
        (answering(json!({"type": "object", "properties": {"any": named}})), "schema.additionalProperties"),
        (answering(json!({"type": "object", "properties": {"any": free}})), "schema.additionalProperties"),
        (answering(json!({"type": "object", "additionalProperties": true})), "schema.additionalProperties"),
        (answering(json!({"allOf": [one("a"), one("b")]})), "schema.allOf"),
        (answering(json!({"allOf": [one("a")], "type": "object", "properties": {}})), "schema.allOf"),
        (stopping(json!(["END", "\n\n"])), "stop"),
        (stopping(json!(" ")), "stop"),
    ] {
        let refused = to_claude(&body).unwrap_err();

        assert!(matches!(&refused, Refused::Unsupported(no) if no.field == field), "{body}: {refused}");
        assert!(upstream_request(Dialect::OpenaiChat, Family::Gemini, &body, "g").is_ok(), "{body}");
    }
}

#[test]
fn a_slip_in_the_name_of_a_pictures_type_is_mended() {
    let url = "data:image/jpg;base64,AAAA";
    let chat = json!({"model": "m", "messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": url}}]}]});

    let claude = to_claude(&chat).unwrap().body;
    let gemini = upstream_request(Dialect::OpenaiChat, Family::Gemini, &chat, "g").unwrap().body;

    assert_eq!(claude["messages"][0]["content"][0]["source"]["media_type"], "image/jpeg");
    assert_eq!(gemini["contents"][0]["parts"][0]["inlineData"]["mimeType"], "image/jpeg");
}

#[test]
fn structured_output_is_as_strict_as_its_caller_asked_and_keeps_its_description() {
    let schema = json!({"type": "object", "properties": {"city": {"type": "string"}}});
    let described = |text: &str| {
        let mut schema = schema.clone();
        schema["description"] = text.into();
        schema
    };
    let user = json!([{"role": "user", "content": "Where?"}]);
    for (strict, sent) in [(None, false), (Some(false), false), (Some(true), true)] {
        let mut wanted = json!({"name": "place", "description": "A place.", "schema": schema});
        if let Some(strict) = strict {
            wanted["strict"] = strict.into();
        }
        let chat = json!({"model": "m", "messages": user,
                          "response_format": {"type": "json_schema", "json_schema": wanted}});
        let to = |family| upstream_request(Dialect::OpenaiChat, family, &chat, "m").unwrap();

        let responses = to(Family::OpenaiResponses).body;

        let format = &responses["text"]["format"];
        assert_eq!(
            (&format["name"], &format["description"], &format["strict"], &format["schema"]),
            (&json!("place"), &json!("A place."), &json!(sent), &schema),
            "{strict:?}"
        );
        let back = upstream_request(Dialect::OpenaiResponses, Family::OpenaiChat, &responses, "m").unwrap();
        wanted["strict"] = sent.into();
        assert_eq!(back.body["response_format"], json!({"type": "json_schema", "json_schema": wanted}));
        let claude = to(Family::Anthropic);
        let gemini = to(Family::Gemini);
        let mut closed = described("A place.");
        closed["additionalProperties"] = false.into();
        assert_eq!(claude.body["output_config"]["format"]["schema"], closed);
        assert_eq!(gemini.body["generationConfig"]["responseJsonSchema"], described("A place."));
        assert_eq!((claude.dropped, gemini.dropped), (Vec::new(), Vec::new()));
    }

    let messages = json!({"model": "m", "max_tokens": 9, "messages": user,
                          "output_config": {"format": {"type": "json_schema", "schema": schema}}});
    let to = |family| upstream_request(Dialect::AnthropicMessages, family, &messages, "m").unwrap().body;
    assert_eq!(
        to(Family::OpenaiChat)["response_format"],
        json!({"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}})
    );
    assert_eq!(to(Family::OpenaiResponses)["text"]["format"]["strict"], false);
}
