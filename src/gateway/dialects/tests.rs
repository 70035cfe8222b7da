use serde_json::{Value, json};

mod agents;
mod calls;
mod delivered;
mod dropped;
mod effort;
mod endings;
mod mixed;
mod model_rules;
mod pieces;
mod recorded;
mod refusals;
mod repeated;
mod schemas;

use super::conversation::{Answer, FinishReason, TokenCounts, ToolCall};
use super::*;
use crate::domain::usage::recordings;
use crate::gateway::providers;

const CLIENTS: [(Dialect, &str); 3] = [
    (Dialect::OpenaiChat, "openai.chat_completions.jsonl"),
    (Dialect::OpenaiResponses, "openai.responses.jsonl"),
    (Dialect::AnthropicMessages, "anthropic.messages.jsonl"),
];

const FAMILIES: [Family; 4] =
    [Family::OpenaiChat, Family::OpenaiResponses, Family::Anthropic, Family::Gemini];

/// Every upstream with every client that does not speak as it does.
fn across() -> impl Iterator<Item = (Family, Dialect)> {
    let pairs = FAMILIES.into_iter().flat_map(|family| CLIENTS.map(|(client, _)| (family, client)));
    pairs.filter(|(family, client)| *family != Family::from(*client))
}

fn exchanges(file: &str) -> Vec<Value> {
    recordings::exchanges(|name| name == file).into_iter().map(|exchange| exchange.line).collect()
}

/// Every recorded success of a dialect, whichever provider speaks it.
fn spoken(family: Family) -> Vec<Value> {
    let endpoints: &[&str] = match family {
        Family::OpenaiChat => &["chat_completions"],
        Family::OpenaiResponses => &["responses"],
        Family::Anthropic => &["messages"],
        Family::Gemini => &["generateContent", "streamGenerateContent"],
    };
    let all = recordings::exchanges(|name| name != "documented_errors.jsonl")
        .into_iter()
        .map(|exchange| exchange.line);
    let is_spoken = |line: &Value| line["endpoint"].as_str().is_some_and(|name| endpoints.contains(&name));
    all.filter(|line| is_spoken(line) && line["status"] == 200).collect()
}

fn parse(family: Family, body: &Value) -> Result<Answer, Malformed> {
    match family {
        Family::OpenaiChat => openai_chat::parse_answer(body),
        Family::OpenaiResponses => openai_responses::parse_answer(body),
        Family::Anthropic => anthropic::parse_answer(body),
        Family::Gemini => gemini::parse_answer(body),
    }
}

fn translated(upstream: Family, client: Dialect, body: &Value) -> Result<Value, Malformed> {
    translate_answer(AnswerEnds { upstream, client, request: &Value::Null, created_at_seconds: 0 }, body)
}

/// What a client of the dialect should have heard.
fn assert_same(client: Dialect, heard: &Answer, said: &Answer, id: &Value) {
    let json = |calls: &[ToolCall]| -> Vec<(String, String, Value)> {
        let arguments = |call: &ToolCall| match call.arguments.as_str() {
            "" => json!({}),
            text => serde_json::from_str(text).unwrap_or_else(|_| json!({"_unparsed": text})),
        };
        calls.iter().map(|call| (call.id.clone(), call.name.clone(), arguments(call))).collect()
    };
    let mut said = said.clone();
    if client == Dialect::AnthropicMessages && !said.refusal.is_empty() {
        said.text.push_str(&std::mem::take(&mut said.refusal));
        said.finish = said.finish.of_refused();
    }
    assert_eq!((&heard.text, &heard.refusal), (&said.text, &said.refusal), "{id}");
    assert_eq!(heard.thinking, said.thinking, "{id}");
    assert_eq!(json(&heard.tool_calls), json(&said.tool_calls), "{id}");
    let finish = match said.finish {
        // Only Anthropic says apart that an answer with calls in it goes no further.
        FinishReason::Stop if !said.tool_calls.is_empty() => FinishReason::ToolCalls,
        finish => finish,
    };
    assert_eq!(heard.finish, finish, "{id}");
    let known = |tokens: &TokenCounts| TokenCounts { reasoning: 0, ..*tokens };
    assert_eq!(known(&heard.tokens), known(&said.tokens), "{id}");
}

fn ends(upstream: impl Into<Family>, client: Dialect) -> StreamEnds {
    StreamEnds { upstream: upstream.into(), client, client_wants_usage: true, created_at_seconds: 0 }
}

/// Relays a stream in pieces whose sizes vary.
fn relayed(ends: StreamEnds, stream: &[u8], seed: usize) -> (StreamRelay, String) {
    let mut relay = StreamRelay::new(ends);
    let mut out = Vec::new();
    let (mut from, mut step) = (0, seed);
    while from < stream.len() {
        step = (step * 31 + 7) % 97 + 1;
        let to = (from + step).min(stream.len());
        out.extend_from_slice(&relay.push(&stream[from..to]).unwrap());
        from = to;
    }
    out.extend_from_slice(&relay.finish().unwrap());
    (relay, String::from_utf8(out).unwrap())
}

/// What a client's SDK would gather from a stream.
fn gathered(family: impl Into<Family>, stream: &str) -> Answer {
    let family = family.into();
    let mut parser = frames::FrameParser::default();
    let mut chunks = openai_chat::ChunkReader::default();
    let mut items = openai_responses::ItemReader::default();
    let mut events = anthropic::EventReader::default();
    let mut candidates = gemini::CandidateReader::default();
    let mut answer = Answer {
        id: String::new(),
        model: String::new(),
        thinking: String::new(),
        text: String::new(),
        refusal: String::new(),
        tool_calls: Vec::new(),
        finish: FinishReason::Stop,
        tokens: TokenCounts::default(),
    };
    let mut indexes = Vec::new();
    for frame in parser.push(stream.as_bytes()).unwrap() {
        let Ok(event) = serde_json::from_str::<Value>(frame.data.as_deref().unwrap_or("")) else { continue };
        let deltas = match family {
            Family::OpenaiChat => chunks.read(&event),
            Family::OpenaiResponses => items.read(&event),
            Family::Anthropic => events.read(&event),
            Family::Gemini => candidates.read(&event),
        };
        for delta in deltas {
            use super::conversation::Delta;
            match delta {
                Delta::Start { id, model } => (answer.id, answer.model) = (id, model),
                Delta::Thinking(text) => answer.thinking.push_str(&text),
                Delta::Text(text) => answer.text.push_str(&text),
                Delta::Refusal(text) => answer.refusal.push_str(&text),
                Delta::ToolCall { index, id, name } => {
                    indexes.push(index);
                    answer.tool_calls.push(ToolCall { id, name, arguments: String::new() });
                }
                Delta::ToolArguments { index, fragment } => {
                    let nth = indexes.iter().position(|at| *at == index).unwrap();
                    answer.tool_calls[nth].arguments.push_str(&fragment);
                }
                Delta::Finish(finish) => answer.finish = finish,
                Delta::Usage(tokens) => answer.tokens = tokens,
                Delta::Sound(_) | Delta::End => {}
                Delta::Failed(error) => panic!("{error}"),
            }
        }
    }
    answer
}

#[test]
fn reasoning_beside_the_completion_is_output_for_every_client() {
    for (completion, reasoning, total, output) in [(5, 100, 115, 105), (50, 20, 60, 50), (9, 61, 19, 70)] {
        let usage = json!({"prompt_tokens": 10, "completion_tokens": completion, "total_tokens": total,
                           "completion_tokens_details": {"reasoning_tokens": reasoning}});
        let body = json!({"id": "c", "model": "grok", "usage": usage,
                          "choices": [{"message": {"content": "Yes."}, "finish_reason": "stop"}]});

        let heard = translated(Family::OpenaiChat, Dialect::AnthropicMessages, &body).unwrap();

        assert_eq!(heard["usage"]["output_tokens"], output, "{usage}");
    }
}

#[test]
fn a_chat_request_becomes_a_messages_request() {
    let chat = json!({
        "model": "smart", "max_tokens": 99, "temperature": 0.2, "seed": 7, "user": "u1", "stop": "END",
        "parallel_tool_calls": false,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [
                {"type": "text", "text": "What is it?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
            ]},
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "t1", "type": "function", "function": {"name": "look", "arguments": "{\"at\":1}"}},
                {"id": "t2", "type": "function", "function": {"name": "look", "arguments": ""}},
            ]},
            {"role": "tool", "tool_call_id": "t1", "content": "a cat"},
            {"role": "tool", "tool_call_id": "t2", "content": "a dog"},
        ],
        "tools": [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}],
    });

    let request = upstream_request(Dialect::OpenaiChat, Family::Anthropic, &chat, "claude").unwrap();

    assert_eq!(request.dropped, ["seed"]);
    assert_eq!(
        request.body,
        json!({
            "model": "claude", "max_tokens": 99, "system": "Be brief.",
            "messages": [
                {"role": "user", "content": [
                    {"type": "text", "text": "What is it?"},
                    {"type": "image",
                     "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
                ]},
                {"role": "assistant", "content": [
                    {"type": "tool_use", "id": "t1", "name": "look", "input": {"at": 1}},
                    {"type": "tool_use", "id": "t2", "name": "look", "input": {}},
                ]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "t1",
                     "content": [{"type": "text", "text": "a cat"}]},
                    {"type": "tool_result", "tool_use_id": "t2",
                     "content": [{"type": "text", "text": "a dog"}]},
                ]},
            ],
            "tools": [{"name": "look", "input_schema": {"type": "object"}}],
            "tool_choice": {"type": "auto", "disable_parallel_tool_use": true},
            "temperature": 0.2, "stop_sequences": ["END"], "metadata": {"user_id": "u1"},
        })
    );

    // And back, to the same conversation.
    let back =
        upstream_request(Dialect::AnthropicMessages, Family::OpenaiChat, &request.body, "gpt-4o").unwrap();
    assert_eq!(back.body["messages"][0], json!({"role": "system", "content": "Be brief."}));
    assert_eq!(back.body["messages"][1], chat["messages"][1]);
    assert_eq!(back.body["messages"][3], chat["messages"][3]);
    assert_eq!(back.body["parallel_tool_calls"], false);
    assert_eq!(back.body["stop"], json!(["END"]));
}

#[test]
fn text_that_a_server_gives_in_parts_is_not_lost() {
    let parts = json!([{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]);
    let body = json!({"id": "c", "model": "m", "choices": [{"message": {"content": parts}}]});

    let answer = translated(Family::OpenaiChat, Dialect::AnthropicMessages, &body).unwrap();

    assert_eq!(answer["content"], json!([{"type": "text", "text": "Hello"}]));
}

#[test]
fn an_empty_end_user_is_none() {
    for (dialect, body) in [
        (Dialect::OpenaiChat, json!({"user": ""})),
        (Dialect::OpenaiResponses, json!({"user": "", "safety_identifier": ""})),
        (Dialect::AnthropicMessages, json!({"metadata": {"user_id": ""}})),
    ] {
        assert_eq!(end_user(dialect, &body), None);
    }
    let second = json!({"user": "", "safety_identifier": "ann"});
    assert_eq!(end_user(Dialect::OpenaiChat, &second), Some("ann"));
}
