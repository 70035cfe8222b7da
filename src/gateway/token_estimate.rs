//! About how many tokens something has that nobody has counted: for conditions and limits, never for money.

use serde_json::Value;

use crate::domain::pricing::pictures_within;

/// Text is about this many bytes a token.
pub const BYTES_PER_TOKEN: u64 = 4;
/// About what a picture takes.
pub const PICTURE_TOKENS: u64 = 1_000;

/// Of a picture, what is made of it, whatever its bytes.
pub fn input_tokens(body: &Value, bytes: usize) -> u64 {
    let found = ["messages", "input"].map(|field| pictures_within(&body[field]));
    let (pictures, picture_bytes) =
        found.into_iter().fold((0, 0), |sum, found| (sum.0 + found.0, sum.1 + found.1));
    let text_bytes = (bytes as u64).saturating_sub(picture_bytes);
    (text_bytes / BYTES_PER_TOKEN).saturating_add(pictures * PICTURE_TOKENS)
}
