//! What the bodies of these routes may say, and what it means.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::domain::credits::Credits;
use crate::domain::ids::ProjectId;
use crate::domain::purpose::Purpose;
use crate::domain::reservation::ExpiryPolicy;
use crate::domain::usage::Usage;
use crate::http::Problem;
use crate::http::validate::{check_text, check_text_if_given};
use crate::operations::authenticate::Actor;
use crate::operations::price_usage::Call;
use crate::operations::price_usage::Planned;
use crate::operations::reserve::{Amount, ReserveRequest};
use crate::operations::settle::Charge;

const TTL_SECONDS_DEFAULT: i64 = 600;

/// Exactly one of `credits` and `quote` says how much.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewReservation {
    credits: Option<Credits>,
    quote: Option<QuoteIn>,
    /// How long the hold lives; 600 when absent, a week at most.
    ttl_seconds: Option<i64>,
    /// What it charges where it is not ended in that time.
    #[serde(default)]
    on_expiry: OnExpiry,
    project: Option<ProjectId>,
    /// A pseudonym.
    end_user: Option<String>,
    /// At most 16, 768 bytes in total; a name must not contain a comma.
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnExpiry {
    /// Nothing.
    #[default]
    Release,
    /// All of it.
    ChargeBound,
}

/// A plain text request by its numbers: the hold is the most that it can cost.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct QuoteIn {
    model: String,
    /// The dearest provider that sells the model, when absent.
    provider: Option<String>,
    input_tokens: u64,
    max_output_tokens: u64,
}

/// Either `credits`, or the usage of one call and who served it.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Cost {
    credits: Option<Credits>,
    provider: Option<String>,
    model: Option<String>,
    usage: Option<Usage>,
    /// The provider's id of that call; only with `usage`.
    provider_request_id: Option<String>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Extension {
    /// From now on.
    pub(super) ttl_seconds: i64,
}

/// The hold that a body requests, for the actor's project.
pub(super) fn reserve_request(actor: &Actor, body: NewReservation) -> Result<ReserveRequest, Problem> {
    let project = project_of(actor, body.project)?;
    let tokens = body.quote.as_ref().map_or(0, |quote| quote.input_tokens.max(quote.max_output_tokens));
    if tokens > Usage::COUNT_MAX {
        return Err(Problem::malformed(format!(
            "`input_tokens` and `max_output_tokens` of a quote must each be at most {}",
            Usage::COUNT_MAX
        )));
    }
    if let Some(quote) = &body.quote {
        check_text("quote.model", &quote.model, Purpose::NAME_BYTES_MAX)?;
        check_text_if_given("quote.provider", quote.provider.as_ref(), Purpose::NAME_BYTES_MAX)?;
    }
    Purpose::check_asked(body.end_user.as_deref(), &body.labels).map_err(Problem::malformed)?;
    let amount = match (body.credits, body.quote) {
        (Some(credits), None) => Amount::Credits(credits),
        (None, Some(quote)) => Amount::Quote(Planned {
            model: quote.model,
            provider: quote.provider,
            input_tokens: quote.input_tokens,
            output_tokens_max: quote.max_output_tokens,
        }),
        (Some(_), Some(_)) | (None, None) => {
            return Err(Problem::malformed("send either `credits` or `quote`"));
        }
    };
    let expiry = match body.on_expiry {
        OnExpiry::Release => ExpiryPolicy::Release,
        OnExpiry::ChargeBound => ExpiryPolicy::ChargeBound,
    };
    let ttl_seconds = body.ttl_seconds.unwrap_or(TTL_SECONDS_DEFAULT);
    let NewReservation { end_user, labels, .. } = body;
    Ok(ReserveRequest { amount, ttl_seconds, expiry, project, end_user, labels })
}

/// A key of a project spends for that project alone.
fn project_of(actor: &Actor, asked: Option<ProjectId>) -> Result<Option<ProjectId>, Problem> {
    match (actor.project, asked) {
        (Some(own), Some(other)) if own != other => Err(Problem::new(
            StatusCode::FORBIDDEN,
            "forbidden",
            format!("this key spends for project {own} alone; leave `project` out, or use a key of {other}"),
        )),
        (own, asked) => Ok(asked.or(own)),
    }
}

pub(super) fn charge(body: Cost) -> Result<Charge, Problem> {
    let Cost { credits, provider, model, usage, provider_request_id } = body;
    match (credits, provider, model, usage) {
        (Some(_), None, None, None) if provider_request_id.is_some() => {
            let detail =
                "`provider_request_id` names the call that a `usage` is from; leave it out beside `credits`";
            Err(Problem::malformed(detail))
        }
        (Some(credits), None, None, None) => Ok(Charge::Credits(credits)),
        (None, Some(provider), Some(model), Some(usage)) => {
            check_text("provider", &provider, Purpose::NAME_BYTES_MAX)?;
            check_text("model", &model, Purpose::NAME_BYTES_MAX)?;
            check_text_if_given(
                "provider_request_id",
                provider_request_id.as_ref(),
                Purpose::NAME_BYTES_MAX,
            )?;
            if usage.clamped() != usage {
                let most = Usage::COUNT_MAX;
                return Err(Problem::malformed(format!("each count in `usage` must be at most {most}")));
            }
            Ok(Charge::Call(Call { provider, model, provider_request_id, usage }))
        }
        _ => Err(Problem::malformed("send `credits`, or `provider`, `model` and `usage`")),
    }
}
