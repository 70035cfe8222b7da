//! Pictures, documents and sound that stand in a request: what a provider makes of them, whatever their bytes are.

use serde_json::Value;

use super::dimensions::dimensions;
use super::{Dialect, text};
use crate::domain::pricing::rate_card::RateCard;

impl Dialect {
    /// The most that one picture costs, in full detail. OpenAI scales it to at most 8 tiles or 10,000 patches, which its
    /// models weigh differently: 1,445 tokens at `gpt-4o`, 24,600 at the small ones that count patches, and 48,169 at
    /// `gpt-4o-mini`, which any other name may stand for. Anthropic scales it to at most 4,784 tokens.
    pub(super) fn picture_tokens(self, card: &RateCard) -> u64 {
        match self {
            Dialect::Anthropic if last_name(card).starts_with("claude") => 5_000,
            Dialect::OpenAiChat | Dialect::OpenAiResponses if is_openais(card) => 25_000,
            Dialect::Anthropic | Dialect::OpenAiChat | Dialect::OpenAiResponses => 50_000,
            // Gemini cuts a picture into as many tiles as it has: see `gemini_picture_tokens`.
            Dialect::Gemini | Dialect::Embeddings => 0,
        }
    }

    /// How often a document's pages may count that are read as pictures: as a picture does at `gpt-4o-mini`, 48,169 tokens
    /// where `gpt-4o` takes 1,445, and at OpenAI's other small models, where a patch is up to 2.46 tokens.
    pub(super) fn page_weight(self, card: &RateCard) -> u64 {
        match self {
            Dialect::OpenAiChat | Dialect::OpenAiResponses if !is_openais(card) => 34,
            Dialect::OpenAiChat | Dialect::OpenAiResponses if is_small(card) => 3,
            Dialect::Anthropic
            | Dialect::OpenAiChat
            | Dialect::OpenAiResponses
            | Dialect::Gemini
            | Dialect::Embeddings => 1,
        }
    }
}

/// The most that Gemini counts for a picture that stands in the request; `None` where its size can't be told, or it may be
/// something else.
///
/// By Google's pages one of up to 384 pixels a side is a tile of 258 tokens, and a larger one is cut into tiles of two thirds of
/// its shorter side, which some bring to at least 256 pixels and at most 768: the smallest that any allows make the most tiles.
/// The whole may be read beside them. Generation 3 counts up to 2,240 for a picture of any size.
pub(super) fn gemini_picture_tokens(held: &Value) -> Option<u64> {
    const TILE_TOKENS: u64 = 258;
    let media_type = held["mimeType"].as_str().or(held["mime_type"].as_str())?;
    if !media_type.starts_with("image/") {
        return None;
    }
    let (width, height) = dimensions(text(held, "data"))?;
    let tiles = if width.max(height) <= 384 {
        1
    } else {
        let side = (width.min(height) * 2 / 3).clamp(1, 256);
        width.div_ceil(side).saturating_mul(height.div_ceil(side))
    };
    Some(tiles.saturating_add(1).saturating_mul(TILE_TOKENS).max(2_240))
}

/// Whether it is one of OpenAI's own models, and not the one whose pictures are dearest. Elsewhere a name may be anybody's, as
/// that of a deployment is.
fn is_openais(card: &RateCard) -> bool {
    let is_theirs = card.provider == "openai" || card.model.starts_with("openai/");
    let name = last_name(card);
    let is_known = ["gpt-", "chatgpt-", "o1", "o3", "o4"].iter().any(|prefix| name.starts_with(prefix));
    is_theirs && is_known && !name.contains("4o-mini")
}

fn is_small(card: &RateCard) -> bool {
    ["-mini", "-nano"].iter().any(|size| last_name(card).contains(size))
}

fn last_name(card: &RateCard) -> &str {
    card.model.rsplit('/').next().unwrap_or(&card.model)
}

/// The bytes of a picture in the request: OpenAI's `data:` address or Anthropic's source.
pub(super) fn picture_bytes(part: &Value) -> u64 {
    if is_other_than_picture(part) {
        return 0;
    }
    let inline = picture_address(part).strip_prefix("data:").and_then(|data| data.split_once(";base64,"));
    inline.map_or(0, |(_, data)| data.len() as u64).saturating_add(source_bytes(part))
}

fn picture_address(part: &Value) -> &str {
    part["image_url"].as_str().unwrap_or_else(|| text(&part["image_url"], "url"))
}

/// Whether what stands in a picture's place says that it is something else.
pub(super) fn is_other_than_picture(part: &Value) -> bool {
    let named = picture_address(part).strip_prefix("data:");
    let media_type = part["source"]["media_type"].as_str();
    named.or(media_type).is_some_and(|kind| !kind.starts_with("image/"))
}

/// The bytes of a document in any of the three dialects.
pub(super) fn document_bytes(part: &Value) -> u64 {
    let files = [text(&part["file"], "file_data"), text(part, "file_data")];
    let bytes = files.into_iter().map(|data| data.len() as u64).sum::<u64>();
    bytes.saturating_add(source_bytes(part))
}

/// The bytes of sound in OpenAI's dialects.
pub(super) fn audio_bytes(part: &Value) -> u64 {
    text(&part["input_audio"], "data").len() as u64
}

/// Some servers, such as DashScope, take an address in place of the bytes. Base64 has no colon.
pub(super) fn is_sound_elsewhere(part: &Value) -> bool {
    let data = text(&part["input_audio"], "data");
    data.contains(':') && !data.starts_with("data:")
}

fn source_bytes(part: &Value) -> u64 {
    let source = &part["source"];
    if text(source, "type") == "base64" { text(source, "data").len() as u64 } else { 0 }
}

/// What stands in base64 in the messages of any of the three dialects, within the results of tools too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Media {
    pub pictures: u64,
    pub picture_bytes: u64,
    pub document_bytes: u64,
    pub audio_bytes: u64,
}

impl Media {
    pub fn within(parts: &Value) -> Media {
        parts.as_array().into_iter().flatten().fold(Media::default(), |sum, part| {
            let held = [Media::of(part), Media::within(&part["content"]), Media::within(&part["output"])];
            held.into_iter().fold(sum, Media::plus)
        })
    }

    pub fn plus(self, other: Media) -> Media {
        Media {
            pictures: self.pictures + other.pictures,
            picture_bytes: self.picture_bytes + other.picture_bytes,
            document_bytes: self.document_bytes + other.document_bytes,
            audio_bytes: self.audio_bytes + other.audio_bytes,
        }
    }

    pub fn bytes(self) -> u64 {
        self.picture_bytes + self.document_bytes + self.audio_bytes
    }

    fn of(part: &Value) -> Media {
        match text(part, "type") {
            "image" | "image_url" | "input_image" if is_other_than_picture(part) => {
                let address = picture_address(part).len() as u64;
                Media { document_bytes: address + source_bytes(part), ..Media::default() }
            }
            "image" | "image_url" | "input_image" => {
                Media { pictures: 1, picture_bytes: picture_bytes(part), ..Media::default() }
            }
            "document" | "file" | "input_file" => {
                Media { document_bytes: document_bytes(part), ..Media::default() }
            }
            "input_audio" => Media { audio_bytes: audio_bytes(part), ..Media::default() },
            _ => Media::default(),
        }
    }
}
