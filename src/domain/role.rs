//! What a key may do.

use serde::{Deserialize, Serialize};

/// What a key may do.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    strum::IntoStaticStr,
    Serialize,
    Deserialize,
    schemars::JsonSchema,
    utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Role {
    Operator,
    Finance,
    OrgAdmin,
    Gateway,
    Inference,
}

impl Role {
    pub fn name(self) -> &'static str {
        self.into()
    }
}
