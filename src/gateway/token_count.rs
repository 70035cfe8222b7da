//! The count of the tokens in a request's texts: made at most once, and without holding up other requests.
//!
//! It is made with OpenAI's public tokenizer; other providers keep theirs to themselves, so that a quarter is added for them.

use std::sync::{Arc, OnceLock};

use bpe_openai::o200k_base;
use serde_json::Value;
use tokio::runtime::{Handle, RuntimeFlavor};

use crate::gateway::dialects::Family;
use crate::gateway::token_estimate::PICTURE_TOKENS;

/// Bytes that take some milliseconds to count.
const LONG_BYTES: usize = 256 << 10;
/// Around each message, by OpenAI's own account of its chat format.
const MESSAGE_TOKENS: u64 = 4;

/// Shared by copies of a request with the same body.
#[derive(Clone, Debug, Default)]
pub struct TokenCount(Arc<OnceLock<u64>>);

impl TokenCount {
    pub fn known(tokens: u64) -> TokenCount {
        TokenCount(Arc::new(tokens.into()))
    }

    pub fn is_known(&self) -> bool {
        self.0.get().is_some()
    }

    /// Counts by OpenAI's public tokenizer; the body has about this many bytes.
    pub fn of(&self, body: &Value, bytes: usize) -> u64 {
        *self.0.get_or_init(|| aside(bytes, || tokens(body)))
    }
}

/// Counts in about this many bytes without blocking the other tasks of this worker thread for long, on a runtime with several.
pub fn aside<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    if bytes < LONG_BYTES {
        return work();
    }
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        Ok(_) | Err(_) => work(),
    }
}

/// How many tokens the texts of a request have, about.
fn tokens(body: &Value) -> u64 {
    let said = ["messages", "input", "contents"].into_iter().map(|field| &body[field]);
    let messages: u64 = said
        .map(|said| match said.as_array() {
            Some(messages) => messages.iter().map(message_tokens).sum(),
            None => texts(said),
        })
        .sum();
    let others = ["system", "instructions", "tools", "response_format", "text"];
    let others: u64 = others.into_iter().map(|field| texts(&body[field])).sum();
    messages.saturating_add(others)
}

/// The tokens of one message.
pub fn message_tokens(message: &Value) -> u64 {
    texts(message).saturating_add(MESSAGE_TOKENS)
}

/// Pictures and files are not read, nor are thoughts that are sealed: they are no text, and only their own maker takes them back.
fn texts(value: &Value) -> u64 {
    match value {
        Value::String(text) => o200k_base().count(text) as u64,
        Value::Array(items) => items.iter().map(texts).sum(),
        Value::Object(fields) => {
            let kind = fields.get("type").and_then(Value::as_str).unwrap_or_default();
            if kind.contains("image") || fields.contains_key("inlineData") {
                return PICTURE_TOKENS;
            }
            let is_sealed = matches!(kind, "base64" | "redacted_thinking");
            let has_kind = ["format", "mimeType", "mime_type"].iter().any(|name| fields.contains_key(*name));
            let is_read = |name: &str| match name {
                "file_data" | "encrypted_content" => false,
                // A document may stand there as text, and a tool may have a parameter of that name.
                "data" => !is_sealed && !has_kind,
                // A tool may have a parameter of that name.
                "signature" => kind != "thinking",
                _ => true,
            };
            let told = fields.iter().filter(|(name, _)| is_read(name));
            // Names are part of what a model reads of tools and schemas.
            told.map(|(name, value)| texts(value) + u64::from(name.len() > 2)).sum()
        }
        Value::Number(_) | Value::Bool(_) => 1,
        Value::Null => 0,
    }
}

/// By a provider's own tokenizer, about.
pub fn of_family(family: Family, tokens: u64) -> u64 {
    match family {
        Family::OpenaiChat | Family::OpenaiResponses => tokens,
        Family::Anthropic | Family::Gemini => tokens.saturating_add(tokens / 4),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn what_is_long_is_counted_once_and_beside_the_worker() {
        let count = TokenCount::default();

        let once = count.of(&json!({"input": "one two"}), LONG_BYTES);
        let again = count.clone().of(&json!({"input": "one two three four"}), LONG_BYTES);

        assert_eq!((once, again), (2, 2));
    }

    #[test]
    fn sealed_thoughts_are_no_text_and_a_tools_parameter_is() {
        let thinking = |signature: Option<&str>| {
            let mut block = json!({"type": "thinking", "thinking": "Hm."});
            signature.into_iter().for_each(|signature| block["signature"] = signature.into());
            tokens(&json!({"messages": [{"role": "assistant", "content": [block]}]}))
        };
        let signed = |name: &str| {
            let input = json!({name: "one two three four"});
            tokens(
                &json!({"messages": [{"role": "assistant", "content": [{"type": "tool_use", "input": input}]}]}),
            )
        };

        assert_eq!(thinking(Some("ErUBCkYIBxgCIkBVbU6")), thinking(None));
        assert_eq!(signed("signature"), signed("signatory"));
        assert_eq!(signed("data"), signed("date"));
    }

    #[test]
    fn a_document_of_text_is_counted_and_one_in_base64_is_not() {
        let of = |part: Value| tokens(&json!({"messages": [{"role": "user", "content": [part]}]}));
        let data = "one two three four ".repeat(1_000);
        let source = |kind: &str| of(json!({"type": "document", "source": {"type": kind, "data": data}}));
        let sound = json!({"type": "input_audio", "input_audio": {"data": data, "format": "wav"}});
        let sealed = json!({"type": "redacted_thinking", "data": data});

        assert!(source("text") > 4_000, "{}", source("text"));
        for (tokens, what) in
            [(source("base64"), "a document"), (of(sound), "sound"), (of(sealed), "a sealed thought")]
        {
            assert!(tokens < 30, "{what}: {tokens}");
        }
    }

    #[test]
    fn texts_are_counted_and_pictures_are_not_read() {
        let text = "The quick brown fox jumps over the lazy dog.";
        assert_eq!(o200k_base().count(text), 10);
        assert_eq!(tokens(&json!({"messages": [{"role": "user", "content": text}]})), 10 + 1 + 2 + 4);
        assert_eq!(tokens(&json!({"input": text})), 10);
        let picture = json!({"type": "image_url", "image_url": {"url": "A".repeat(100_000)}});
        let seen = tokens(&json!({"messages": [{"role": "user", "content": [picture]}]}));
        assert!((PICTURE_TOKENS..PICTURE_TOKENS + 20).contains(&seen), "{seen}");
    }
}
