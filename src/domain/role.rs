//! What a key may do.

use serde::{Deserialize, Serialize};

/// What a key may do.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Operator,
    Finance,
    OrgAdmin,
    Gateway,
    Inference,
}

impl Role {
    pub fn name(self) -> &'static str {
        match self {
            Role::Operator => "operator",
            Role::Finance => "finance",
            Role::OrgAdmin => "org_admin",
            Role::Gateway => "gateway",
            Role::Inference => "inference",
        }
    }
}
