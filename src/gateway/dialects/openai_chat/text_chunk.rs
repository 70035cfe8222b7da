//! A chunk that brings text and nothing else, read without a tree of its JSON: most of a stream is of these.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::IgnoredAny;

#[derive(Debug, Deserialize)]
pub struct TextChunk<'a> {
    #[serde(borrow)]
    choices: Vec<Choice<'a>>,
    #[serde(borrow, default)]
    model: Option<Text<'a>>,
    #[serde(borrow, default)]
    service_tier: Option<Text<'a>>,
    // What means more than text.
    error: Option<IgnoredAny>,
    usage: Option<IgnoredAny>,
    message: Option<IgnoredAny>,
    response: Option<IgnoredAny>,
    #[serde(rename = "modelVersion")]
    model_version: Option<IgnoredAny>,
    #[serde(rename = "usageMetadata")]
    usage_metadata: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
struct Choice<'a> {
    #[serde(borrow)]
    delta: Delta<'a>,
    finish_reason: Option<IgnoredAny>,
    usage: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Delta<'a> {
    #[serde(borrow, default)]
    content: Option<Text<'a>>,
    #[serde(rename = "role")]
    _role: Option<IgnoredAny>,
    refusal: Option<IgnoredAny>,
    tool_calls: Option<IgnoredAny>,
    function_call: Option<IgnoredAny>,
}

/// Borrowed where nothing in it is escaped.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'a> TextChunk<'a> {
    /// None where it isn't surely one: it is then read in full.
    pub fn read(data: &'a str) -> Option<TextChunk<'a>> {
        let chunk: TextChunk<'_> = serde_json::from_str(data).ok()?;
        let others = [
            &chunk.error,
            &chunk.usage,
            &chunk.message,
            &chunk.response,
            &chunk.model_version,
            &chunk.usage_metadata,
        ];
        let is_text = others.iter().all(|other| other.is_none()) && chunk.choices.iter().all(Choice::is_text);
        is_text.then_some(chunk)
    }

    pub fn model(&self) -> Option<&str> {
        self.model.as_ref().map(|Text(model)| &**model).filter(|model| !model.is_empty())
    }

    pub fn service_tier(&self) -> Option<&str> {
        self.service_tier.as_ref().map(|Text(tier)| &**tier)
    }

    /// What each choice says, where it says something.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        let texts = self.choices.iter().filter_map(|choice| choice.delta.content.as_ref());
        texts.map(|Text(text)| &**text).filter(|text| !text.is_empty())
    }
}

impl Choice<'_> {
    fn is_text(&self) -> bool {
        let delta = &self.delta;
        let others =
            [&self.finish_reason, &self.usage, &delta.refusal, &delta.tool_calls, &delta.function_call];
        others.iter().all(|other| other.is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_of_text_is_read_and_whatever_means_more_is_not() {
        let chunk = |delta: &str, more: &str| {
            format!(r#"{{"model":"m","choices":[{{"index":0,"delta":{delta}}}]{more}}}"#)
        };
        for (claim, data, expected) in [
            ("text", chunk(r#"{"content":"a"}"#, ""), Some(vec!["a"])),
            ("escaped text", chunk(r#"{"content":"\n\u00e9"}"#, ""), Some(vec!["\né"])),
            ("a role", chunk(r#"{"role":"assistant","content":""}"#, ""), Some(vec![])),
            ("nulls", chunk(r#"{"content":null,"refusal":null}"#, r#","usage":null"#), Some(vec![])),
            (
                "fields that say nothing",
                chunk(r#"{"content":"a"}"#, r#","obfuscation":"x""#),
                Some(vec!["a"]),
            ),
            ("no choice", r#"{"choices":[]}"#.into(), Some(vec![])),
            (
                "two choices",
                r#"{"choices":[{"delta":{"content":"a"}},{"delta":{"content":"b"}}]}"#.into(),
                Some(vec!["a", "b"]),
            ),
            ("usage", chunk("{}", r#","usage":{"prompt_tokens":1}"#), None),
            (
                "usage of a choice",
                r#"{"choices":[{"delta":{"content":""},"usage":{"prompt_tokens":1}}]}"#.into(),
                None,
            ),
            ("an error", chunk("{}", r#","error":{"message":"no"}"#), None),
            ("a tool call", chunk(r#"{"tool_calls":[{"index":0}]}"#, ""), None),
            ("reasoning", chunk(r#"{"reasoning_content":"hm"}"#, ""), None),
            ("content in parts", chunk(r#"{"content":[{"text":"a"}]}"#, ""), None),
            ("an end", r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#.into(), None),
            ("another object", r#"{"model":"m"}"#.into(), None),
            ("half of one", r#"{"choices":[{"delta":{"#.into(), None),
        ] {
            let read = TextChunk::read(&data);

            let texts = read.as_ref().map(|chunk| chunk.texts().collect::<Vec<_>>());
            assert_eq!(texts, expected, "{claim}");
        }
    }
}
