//! The price list: cards in force, a model's history, and publication.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::account::refusal::Refusal;
use crate::domain::event::Event;
use crate::domain::ids::OrgId;
use crate::domain::pricing::book::MarkUp;
use crate::domain::pricing::rate_card::RateCard;
use crate::domain::system::SystemCommand;
use crate::http::extract::{IdempotencyKey, Keyed, Path, operator};
use crate::http::problem::{MoneyProblems, Problems};
use crate::http::{ApiState, Problem};
use crate::operations::authenticate::Actor;

#[derive(Serialize, ToSchema)]
pub struct PriceList {
    /// Of the price book.
    version: u64,
    #[schema(value_type = Vec<Object>)]
    data: Vec<RateCard>,
}

#[derive(Serialize, ToSchema)]
pub struct History {
    data: Vec<Published>,
}

#[derive(Serialize, ToSchema)]
pub struct Published {
    /// The version of the price book that brought the card.
    version: u64,
    #[schema(value_type = Object)]
    card: RateCard,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPrices {
    #[serde(default)]
    #[schema(value_type = Vec<Object>)]
    cards: Vec<RateCard>,
    #[serde(default)]
    #[schema(value_type = Vec<Object>)]
    mark_ups: Vec<MarkUp>,
}

#[derive(Serialize, ToSchema)]
pub struct PublishedVersion {
    version: u64,
}

/// The rate cards that price a request of the caller's org made now.
#[utoipa::path(get, path = "/api/v1/prices", operation_id = "list_prices", tag = "prices",
    security(("key" = ["operator", "finance", "org_admin", "gateway", "inference"])),
    responses((status = 200, description = "The cards in force.", body = PriceList), Problems))]
pub async fn in_force(State(api): State<ApiState>, actor: Actor) -> Json<PriceList> {
    let system = api.ledger.system();
    let org = actor.org.unwrap_or(OrgId::SYSTEM);
    let cards = system.prices.in_force(org, api.ledger.clock().now());
    Json(PriceList { version: system.prices.version(), data: cards.into_iter().cloned().collect() })
}

/// Publishes cards and mark-ups: a new version of the price book. Cards are immutable; a later one takes their place.
#[utoipa::path(post, path = "/api/v1/prices", operation_id = "publish_prices", tag = "prices",
    params(IdempotencyKey),
    request_body(content = NewPrices,
        example = json!({"cards": [{
            "provider": "openai", "model": "gpt-4o-mini", "mode": "chat", "effective_from": 0,
            "rates": {"input": "0.15", "output": "0.6"}}]})),
    security(("key" = ["operator"])),
    responses((status = 201, description = "The price book's new version.", body = PublishedVersion),
        Problems, MoneyProblems))]
pub async fn publish(
    State(api): State<ApiState>,
    actor: Actor,
    Keyed { body, idempotency }: Keyed<NewPrices>,
) -> Result<(StatusCode, Json<PublishedVersion>), Problem> {
    operator(&actor)?;
    if body.cards.is_empty() && body.mark_ups.is_empty() {
        return Err(Problem::malformed("there is nothing to publish: send `cards`, `mark_ups` or both"));
    }
    let publish = SystemCommand::PublishPrices { cards: body.cards, mark_ups: body.mark_ups };
    let outcome = api.ledger.submit_system(publish, actor.key, Some(idempotency)).await?;
    let version = outcome.events.iter().find_map(|recorded| match &recorded.payload.event {
        Event::PricesPublished { publication } => Some(publication.version),
        _ => None,
    });
    let version = version.ok_or(Refusal::IdempotencyConflict)?;
    Ok((StatusCode::CREATED, Json(PublishedVersion { version })))
}

/// Every card that a model had at a provider.
#[utoipa::path(get, path = "/api/v1/prices/{provider}/{model}", operation_id = "list_price_history", tag = "prices",
    params(("provider", description = "As the price list names it."),
        ("model", description = "The provider's name of it.")),
    security(("key" = ["operator", "finance", "org_admin", "gateway", "inference"])),
    responses((status = 200, description = "The cards, oldest first.", body = History), Problems))]
pub async fn history(
    State(api): State<ApiState>,
    actor: Actor,
    Path((provider, model)): Path<(String, String)>,
) -> Result<Json<History>, Problem> {
    let system = api.ledger.system();
    // What one org negotiated is not another's to read.
    let may_see = |card: &RateCard| card.org.is_none() || actor.org.is_none() || card.org == actor.org;
    let data: Vec<Published> = system
        .prices
        .history(&provider, &model)
        .into_iter()
        .filter(|(_, card)| may_see(card))
        .map(|(version, card)| Published { version, card: card.clone() })
        .collect();
    if data.is_empty() { Err(Problem::not_found("price")) } else { Ok(Json(History { data })) }
}
