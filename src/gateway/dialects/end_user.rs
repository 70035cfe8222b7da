//! Whom a request is for: each provider takes other names for them.

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::dropped::Dropped;

/// Whom the request is for, as a pseudonym.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndUser {
    pub id: String,
    /// The field in which the caller named them.
    pub field: String,
}

impl EndUser {
    /// OpenAI's own limit; Claude Code's ids are more than twice as long.
    const OPENAI_CHARACTERS_MAX: usize = 64;
    const ANTHROPIC_CHARACTERS_MAX: usize = 256;

    /// An empty name counts as none.
    pub fn named(field: &str, id: &Value) -> Option<EndUser> {
        let id = id.as_str().filter(|id| !id.is_empty())?;
        Some(EndUser { id: id.to_owned(), field: field.to_owned() })
    }

    /// One that is too long for OpenAI goes as its hash, by which users are told apart all the same; its field is named.
    pub fn for_openai(self, dropped: &mut Dropped) -> String {
        if self.id.chars().count() <= Self::OPENAI_CHARACTERS_MAX {
            return self.id;
        }
        self.hashed(dropped)
    }

    /// One that is too long for Claude, or that it would take for a mail address or a telephone number, likewise.
    /// Source: <https://platform.claude.com/docs/en/api/messages/create>, `metadata.user_id`.
    pub fn for_anthropic(self, dropped: &mut Dropped) -> String {
        let is_short = self.id.chars().count() <= Self::ANTHROPIC_CHARACTERS_MAX;
        if is_short && !self.id.contains('@') && !self.is_like_a_telephone_number() {
            return self.id;
        }
        self.hashed(dropped)
    }

    fn is_like_a_telephone_number(&self) -> bool {
        let digits = self.id.chars().filter(char::is_ascii_digit).count();
        digits >= 7 && self.id.chars().all(|c| c.is_ascii_digit() || "+-(). ".contains(c))
    }

    fn hashed(self, dropped: &mut Dropped) -> String {
        dropped.add(&self.field);
        hex::encode(Sha256::digest(&self.id))
    }
}
