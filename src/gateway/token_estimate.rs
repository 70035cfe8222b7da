//! Estimates of tokens from sizes alone: for conditions and limits; for money only where nobody counted.

use serde_json::Value;

use crate::domain::pricing::Media;

/// Text is about this many bytes a token.
pub const BYTES_PER_TOKEN: u64 = 4;
/// About what a picture takes.
pub const PICTURE_TOKENS: u64 = 1_000;
/// In base64: a page of about 80 kB takes about 2,000 tokens.
const DOCUMENT_BYTES_PER_TOKEN: u64 = 40;
/// In base64: a second takes 10 to 32 tokens, and 11 kB as MP3 or 64 kB as plain samples.
const AUDIO_BYTES_PER_TOKEN: u64 = 1_000;

/// Pictures, documents and sound count as the tokens that a model makes of them: their bytes are not text.
pub fn input_tokens(body: &Value, bytes: usize) -> u64 {
    let media = Media::within(&body["messages"]).plus(Media::within(&body["input"]));
    let text_bytes = (bytes as u64).saturating_sub(media.bytes());
    text_bytes
        .div_ceil(BYTES_PER_TOKEN)
        .saturating_add(media.pictures.saturating_mul(PICTURE_TOKENS))
        .saturating_add(media.document_bytes / DOCUMENT_BYTES_PER_TOKEN)
        .saturating_add(media.audio_bytes / AUDIO_BYTES_PER_TOKEN)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn documents_and_sound_count_by_what_a_model_makes_of_them() {
        let data = "A".repeat(1_000_000);
        let address = format!("data:application/pdf;base64,{data}");
        let document = json!({"type": "document",
                              "source": {"type": "base64", "media_type": "application/pdf", "data": data}});
        for (part, tokens) in [
            (document.clone(), 25_000),
            (json!({"type": "tool_result", "tool_use_id": "t", "content": [document]}), 25_000),
            (json!({"type": "file", "file": {"filename": "a.pdf", "file_data": address}}), 25_000),
            (json!({"type": "input_file", "filename": "a.pdf", "file_data": address}), 25_000),
            (json!({"type": "image_url", "image_url": {"url": address}}), 25_000),
            (json!({"type": "input_audio", "input_audio": {"format": "wav", "data": data}}), 1_000),
            (json!({"type": "document", "source": {"type": "text", "data": data}}), 250_000),
        ] {
            for field in ["messages", "input"] {
                let body = json!({"model": "m", field: [{"role": "user", "content": [part]}]});

                let estimate = input_tokens(&body, body.to_string().len());

                assert!((tokens..tokens + 60).contains(&estimate), "{}: {estimate}", part["type"]);
            }
        }
    }
}
