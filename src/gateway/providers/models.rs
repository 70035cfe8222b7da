//! Lists of models, in the shape that each dialect's SDK reads.

use serde_json::{Value, json};

use super::super::dialects::Dialect;

/// A model that callers may name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelEntry {
    pub id: String,
    pub provider: String,
    /// Seconds since 1970.
    pub created_at_seconds: i64,
    /// The same moment as RFC 3339.
    pub created_at: String,
}

/// `GET /v1/models`: these of all, and whether there are more.
pub fn list(dialect: Dialect, models: &[ModelEntry], has_more: bool) -> Value {
    let data: Vec<Value> = models.iter().map(|model| entry(dialect, model)).collect();
    match dialect {
        Dialect::OpenaiChat | Dialect::OpenaiResponses => json!({"object": "list", "data": data}),
        Dialect::AnthropicMessages => json!({
            "data": data,
            "has_more": has_more,
            "first_id": models.first().map(|model| &model.id),
            "last_id": models.last().map(|model| &model.id),
        }),
    }
}

/// `GET /v1/models/{model}`.
pub fn entry(dialect: Dialect, model: &ModelEntry) -> Value {
    match dialect {
        Dialect::OpenaiChat | Dialect::OpenaiResponses => json!({
            "id": model.id,
            "object": "model",
            "created": model.created_at_seconds,
            "owned_by": model.provider,
        }),
        Dialect::AnthropicMessages => json!({
            "type": "model",
            "id": model.id,
            "display_name": model.id,
            "created_at": model.created_at,
        }),
    }
}
