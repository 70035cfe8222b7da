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
fn a_tool_that_is_strict_for_claude_is_not_held_to_where_openai_would_refuse_it() {
    let closed = |required: Value, n: Value| json!({"type": "object", "properties": {"n": n}, "required": required, "additionalProperties": false});
    let number = json!({"type": "integer"});
    let whole = closed(json!(["n"]), number.clone());
    let open = json!({"type": "object", "properties": {"n": number}, "required": ["n"]});
    for (schema, strict) in [
        (whole.clone(), true),
        (closed(json!(["n"]), json!({"type": "array", "items": whole})), true),
        (json!({"type": "object", "additionalProperties": false}), true),
        (closed(json!([]), number.clone()), false),
        (open.clone(), false),
        (closed(json!(["n"]), open.clone()), false),
        (closed(json!(["n"]), json!({"type": "array", "items": open})), false),
        (closed(json!(["n"]), json!({"anyOf": [{"type": "null"}, open]})), false),
        (closed(json!(["n"]), json!({"type": ["object", "null"]})), false),
        (closed(json!(["n"]), json!({"allOf": [number]})), false),
    ] {
        let tool = json!({"name": "count", "input_schema": schema, "strict": true});
        let body = json!({"model": "m", "max_tokens": 9, "tools": [tool],
                          "messages": [{"role": "user", "content": "Count."}]});
        for (family, place) in
            [(Family::OpenaiChat, "/tools/0/function/strict"), (Family::OpenaiResponses, "/tools/0/strict")]
        {
            let sent = upstream_request(Dialect::AnthropicMessages, family, &body, "gpt-5.1").unwrap();

            assert_eq!(sent.body.pointer(place), Some(&strict.into()), "{family:?} {schema}");
            let named: &[&str] = if strict { &[] } else { &["tools[].strict"] };
            assert_eq!(sent.dropped, named, "{family:?} {schema}");
        }
    }
}

#[test]
fn a_chats_own_strict_tools_are_openais_to_judge() {
    let function = json!({"name": "count", "parameters": {"type": "object"}, "strict": true});
    let chat = json!({"model": "m", "messages": [{"role": "user", "content": "Count."}],
                      "tools": [{"type": "function", "function": function}]});

    let sent = upstream_request(Dialect::OpenaiChat, Family::OpenaiResponses, &chat, "gpt-5.1").unwrap();

    assert_eq!((&sent.body["tools"][0]["strict"], sent.dropped), (&true.into(), vec![]));
}

#[test]
fn a_responses_tool_that_is_strict_by_default_is_named_where_it_no_longer_is() {
    for (strict, named) in [(Value::Null, &["tools[].strict"][..]), (json!(false), &[])] {
        let tool =
            json!({"type": "function", "name": "count", "parameters": {"type": "object"}, "strict": strict});
        let body = json!({"model": "m", "max_output_tokens": 9, "input": "Count.", "tools": [tool]});
        for family in [Family::OpenaiChat, Family::Anthropic, Family::Gemini] {
            let sent = upstream_request(Dialect::OpenaiResponses, family, &body, "m").unwrap();

            assert_eq!(sent.dropped, named, "{family:?} {strict}");
        }
    }
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
