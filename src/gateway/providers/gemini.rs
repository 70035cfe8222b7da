//! Gemini: the model and the way of answering stand in the path, the output limit in the generation config.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

/// What a name may hold as it is within a path.
const NAME: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_');

pub(super) fn path(model: &str, streamed: bool) -> String {
    let model = utf8_percent_encode(model, NAME);
    match streamed {
        true => format!("/v1beta/models/{model}:streamGenerateContent?alt=sse"),
        false => format!("/v1beta/models/{model}:generateContent"),
    }
}

/// The path of a call that embeds one text or many.
pub(super) fn embeddings_path(model: &str) -> String {
    format!("/v1beta/models/{}:batchEmbedContents", utf8_percent_encode(model, NAME))
}

pub(super) fn asked_output_tokens(body: &Value) -> Option<u64> {
    body["generationConfig"]["maxOutputTokens"].as_u64()
}

/// Thoughts are inside it.
pub(super) fn set_output_tokens(body: &mut Value, tokens: u64) -> &'static str {
    match body["generationConfig"].as_object_mut() {
        Some(config) => {
            config.insert("maxOutputTokens".into(), tokens.into());
        }
        None => body["generationConfig"] = json!({"maxOutputTokens": tokens}),
    }
    "maxOutputTokens"
}
