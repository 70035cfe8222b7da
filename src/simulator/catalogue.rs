//! The models on offer: an alias that clients ask for and the dated name that answers, as the providers have them.

/// The dialects that it speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    OpenAi,
    Anthropic,
    Gemini,
}

#[derive(Debug, PartialEq)]
pub struct Model {
    pub name: &'static str,
    pub answers_as: &'static str,
    pub dialect: Dialect,
    /// 0 for models that write.
    pub embedding_dimensions: u64,
}

const fn writer(dialect: Dialect, name: &'static str, answers_as: &'static str) -> Model {
    Model { name, answers_as, dialect, embedding_dimensions: 0 }
}

const fn embedder(dialect: Dialect, name: &'static str, embedding_dimensions: u64) -> Model {
    Model { name, answers_as: name, dialect, embedding_dimensions }
}

pub const MODELS: &[Model] = &[
    writer(Dialect::OpenAi, "gpt-4o-mini", "gpt-4o-mini-2024-07-18"),
    writer(Dialect::OpenAi, "gpt-4o", "gpt-4o-2024-08-06"),
    writer(Dialect::OpenAi, "gpt-4.1", "gpt-4.1-2025-04-14"),
    writer(Dialect::OpenAi, "gpt-4.1-mini", "gpt-4.1-mini-2025-04-14"),
    writer(Dialect::OpenAi, "gpt-4.1-nano", "gpt-4.1-nano-2025-04-14"),
    writer(Dialect::OpenAi, "gpt-5", "gpt-5-2025-08-07"),
    writer(Dialect::OpenAi, "gpt-5-mini", "gpt-5-mini-2025-08-07"),
    writer(Dialect::OpenAi, "gpt-5-nano", "gpt-5-nano-2025-08-07"),
    writer(Dialect::OpenAi, "o4-mini", "o4-mini-2025-04-16"),
    embedder(Dialect::OpenAi, "text-embedding-3-small", 1_536),
    embedder(Dialect::OpenAi, "text-embedding-3-large", 3_072),
    writer(Dialect::Anthropic, "claude-haiku-4-5", "claude-haiku-4-5-20251001"),
    writer(Dialect::Anthropic, "claude-sonnet-4-5", "claude-sonnet-4-5-20250929"),
    writer(Dialect::Anthropic, "claude-opus-4-5", "claude-opus-4-5-20251101"),
    writer(Dialect::Gemini, "gemini-2.5-flash", "gemini-2.5-flash"),
    writer(Dialect::Gemini, "gemini-2.5-flash-lite", "gemini-2.5-flash-lite"),
    writer(Dialect::Gemini, "gemini-2.5-pro", "gemini-2.5-pro"),
    embedder(Dialect::Gemini, "gemini-embedding-001", 3_072),
    embedder(Dialect::Gemini, "gemini-embedding-2", 3_072),
];

/// By its alias or its dated name.
pub fn find(name: &str, dialect: Dialect) -> Option<&'static Model> {
    MODELS.iter().find(|model| model.dialect == dialect && (model.name == name || model.answers_as == name))
}
