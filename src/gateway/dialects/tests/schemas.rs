//! What a model is held to: as its family can, and told where it can't.

use super::*;

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
        assert_eq!(claude.body["output_config"]["format"]["schema"], described("A place."));
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
