//! The price list: cards in force, a model's history, and publication.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use crate::domain::account::refusal::Refusal;
use crate::domain::event::Event;
use crate::domain::ids::OrgId;
use crate::domain::pricing::book::MarkUp;
use crate::domain::pricing::rate::Rate;
use crate::domain::pricing::rate_card::{
    LongContext, Mode, RateCard, Rates, ServiceTier, TierRates, UnitRates, Uplift,
};
use crate::domain::purpose::Purpose;
use crate::domain::role::Role;
use crate::domain::system::SystemCommand;
use crate::domain::time::Timestamp;
use crate::http::authorise::{org_for, require_operator};
use crate::http::extract::{IdempotencyKey, Keyed, Path, Query};
use crate::http::page::{Page, PageQuery};
use crate::http::problem::{MoneyProblems, Problems};
use crate::http::validate::{check_text, parse_time};
use crate::http::{ApiState, Problem};
use crate::operations::authenticate::Actor;

const READERS: &[Role] = &[Role::Finance, Role::OrgAdmin, Role::Gateway, Role::Inference];

/// The prices of one model at one provider from a moment on. Rates are credits per million tokens, as decimal strings.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CardBody {
    provider: String,
    /// The provider's name of the model, or `*`: the ceiling price of models that have no card.
    model: String,
    /// chat, responses or embedding; chat when absent.
    #[serde(default)]
    mode: Mode,
    /// RFC 3339; at once when absent.
    effective_from: Option<String>,
    /// The one org that it is for. It counts for dated names of the model too, where the model was asked for without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    org: Option<OrgId>,
    /// By class: `input`, `output`, `cache_read`, `cache_write_5m`, `cache_write_1h`, `reasoning`, `audio_input`,
    /// `cached_audio`, `audio_output`, `image`, `video`. A class without one costs what it is a kind of.
    rates: Rates,
    /// `above_tokens` of input, `rates` replace the card's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    long_context: Vec<LongContext>,
    /// By service tier: batch, flex, priority, ultrafast or decisions.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    tiers: BTreeMap<ServiceTier, TierRates>,
    /// Factors on all token rates: fast, region_us, region_eu, regional_endpoint.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    uplifts: BTreeMap<Uplift, Rate>,
    /// Credits per `web_search`, `image`, `second` or `call`.
    #[serde(default, skip_serializing_if = "UnitRates::is_empty")]
    units: UnitRates,
    #[serde(skip_serializing_if = "Option::is_none")]
    context_window_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_tokens_max: Option<u64>,
    /// RFC 3339: when the provider means to switch the model off.
    #[serde(skip_serializing_if = "Option::is_none")]
    deprecated_at: Option<String>,
}

/// What is added to list prices from a moment on, for everybody or for one org.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct MarkUpBody {
    /// The one org that it is for, in place of the general one; everybody where null or absent.
    org: Option<OrgId>,
    /// A decimal string, 0 to 1000.
    percent: Rate,
    /// RFC 3339; at once when absent.
    effective_from: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub struct PriceList {
    /// The version of the price book.
    version: u64,
    /// What the org pays on top of every card, in percent; the general mark-up where no org is asked about.
    mark_up_percent: String,
    /// The mark-ups in force, the general one first; for keys of no org alone, on the first page.
    #[serde(skip_serializing_if = "Option::is_none")]
    mark_ups: Option<Vec<MarkUpBody>>,
    data: Vec<CardBody>,
    /// The cursor of the next page; null on the last one.
    next: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub struct History {
    data: Vec<Published>,
    /// The cursor of the next page; null on the last one.
    next: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub struct Published {
    /// The version of the price book that brought the card.
    version: u64,
    card: CardBody,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPrices {
    #[serde(default)]
    cards: Vec<CardBody>,
    #[serde(default)]
    mark_ups: Vec<MarkUpBody>,
}

#[derive(Serialize, ToSchema)]
pub struct PublishedVersion {
    version: u64,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PricesQuery {
    /// The `next` of the page before; absent for the first page.
    after: Option<String>,
    /// Rows of a page: 1 to 1000, 100 when absent.
    limit: Option<usize>,
    /// Slug or id of the org whose prices these are. The caller's own when absent; the general ones for a key of no org.
    org: Option<String>,
}

/// Where a page of the price list begins: after this model of this provider.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct CardCursor {
    provider: String,
    model: String,
}

impl CardCursor {
    /// In no name.
    const BETWEEN: char = '\0';
}

impl fmt::Display for CardCursor {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = format!("{}{}{}", self.provider, CardCursor::BETWEEN, self.model);
        out.write_str(&URL_SAFE_NO_PAD.encode(names))
    }
}

impl FromStr for CardCursor {
    type Err = ();

    fn from_str(text: &str) -> Result<CardCursor, ()> {
        let names = String::from_utf8(URL_SAFE_NO_PAD.decode(text).map_err(|_| ())?).map_err(|_| ())?;
        let (provider, model) = names.split_once(CardCursor::BETWEEN).ok_or(())?;
        Ok(CardCursor { provider: provider.to_owned(), model: model.to_owned() })
    }
}

/// The rate cards that price a request of an org made now, by provider and model.
#[utoipa::path(get, path = "/api/v1/prices", operation_id = "list_prices", tag = "prices",
    params(PricesQuery),
    security(("key" = ["operator", "finance", "org_admin", "gateway", "inference"])),
    responses((status = 200, description = "A page of the cards in force.", body = PriceList), Problems))]
pub async fn in_force(
    State(api): State<ApiState>,
    actor: Actor,
    Query(PricesQuery { after, limit, org }): Query<PricesQuery>,
) -> Result<Json<PriceList>, Problem> {
    let org = whose(&api, &actor, org.as_deref()).await?;
    let query = PageQuery { after, limit };
    api.ledger.follow_system().await?;
    let (system, now) = (api.ledger.system(), api.ledger.clock().now());
    let (prices, version) = (&system.prices, system.prices.version());
    let cards = prices.in_force(org, now).into_iter().map(|card| (cursor(card), card));
    let page = query.of(cards)?;
    // What one org negotiated is not another's to read.
    let shows_mark_ups = actor.org.is_none() && query.after.is_none();
    Ok(Json(PriceList {
        version,
        mark_up_percent: prices.mark_up_percent(prices.latest(org, now)).to_string(),
        mark_ups: shows_mark_ups
            .then(|| prices.mark_ups_in_force(now).into_iter().map(mark_up_body).collect()),
        data: page.data.into_iter().map(card_body).collect(),
        next: page.next,
    }))
}

/// The org whose prices are requested.
async fn whose(api: &ApiState, actor: &Actor, named: Option<&str>) -> Result<OrgId, Problem> {
    let Some(named) = named else { return Ok(actor.org.unwrap_or(OrgId::SYSTEM)) };
    let org = org_for(api, actor, named, READERS).await?;
    // The general prices are not those of an org that was never opened.
    api.ledger.read_without_expiry(org, |_| ()).await?;
    Ok(org)
}

fn cursor(card: &RateCard) -> CardCursor {
    CardCursor { provider: card.provider.clone(), model: card.model.clone() }
}

/// Publishes cards and mark-ups: a new version of the price book. Cards are immutable; a later one takes their place.
#[utoipa::path(post, path = "/api/v1/prices", operation_id = "publish_prices", tag = "prices",
    params(IdempotencyKey),
    request_body(content = NewPrices,
        example = json!({"cards": [{
            "provider": "openai", "model": "gpt-4o-mini", "mode": "chat", "effective_from": "2026-11-01T00:00:00Z",
            "rates": {"input": "0.15", "output": "0.6"}}]})),
    security(("key" = ["operator"])),
    responses((status = 201, description = "The price book's new version.", body = PublishedVersion),
        Problems, MoneyProblems))]
pub async fn publish(
    State(api): State<ApiState>,
    actor: Actor,
    Keyed { body, idempotency }: Keyed<NewPrices>,
) -> Result<(StatusCode, Json<PublishedVersion>), Problem> {
    require_operator(&actor)?;
    if body.cards.is_empty() && body.mark_ups.is_empty() {
        return Err(Problem::malformed("nothing was sent to publish; send `cards`, `mark_ups`, or both"));
    }
    let now = api.ledger.clock().now();
    let cards: Vec<RateCard> =
        body.cards.into_iter().map(|body| card(body, now)).collect::<Result<_, _>>()?;
    check_distinct(&cards)?;
    let mark_ups: Vec<MarkUp> =
        body.mark_ups.into_iter().map(|body| mark_up(body, now)).collect::<Result<_, _>>()?;
    let whose = cards.iter().map(|card| card.org).chain(mark_ups.iter().map(|mark_up| mark_up.org));
    for org in whose.flatten().collect::<BTreeSet<_>>() {
        // Prices of an org that does not exist are a mistake.
        api.ledger.read_without_expiry(org, |_| ()).await?;
    }
    let publish = SystemCommand::PublishPrices { cards, mark_ups };
    let outcome = api.ledger.submit_system(publish, actor.key, Some(idempotency)).await?;
    let version = outcome.find(|event| match event {
        Event::PricesPublished { publication } => Some(publication.version),
        _ => None,
    });
    let version = version.ok_or(Refusal::IdempotencyConflict)?;
    Ok((StatusCode::CREATED, Json(PublishedVersion { version })))
}

/// Refuses two cards for the same calls: nobody could know which is meant.
fn check_distinct(cards: &[RateCard]) -> Result<(), Problem> {
    let mut seen = BTreeSet::new();
    for card in cards {
        if !seen.insert((card.org, &card.provider, &card.model, card.effective_from)) {
            let detail = format!(
                "{}/{} has two cards that take effect at the same moment; send only one",
                card.provider, card.model
            );
            return Err(Problem::unprocessable("card_twice", detail));
        }
    }
    Ok(())
}

/// Every card that a model had at a provider.
#[utoipa::path(get, path = "/api/v1/prices/{provider}/{model}", operation_id = "list_price_history", tag = "prices",
    params(("provider", description = "As the price list names it."),
        ("model", description = "The provider's name of it."), PageQuery),
    security(("key" = ["operator", "finance", "org_admin", "gateway", "inference"])),
    responses((status = 200, description = "A page of the cards, oldest first.", body = History), Problems))]
pub async fn history(
    State(api): State<ApiState>,
    actor: Actor,
    Path((provider, model)): Path<(String, String)>,
    Query(query): Query<PageQuery>,
) -> Result<Json<History>, Problem> {
    api.ledger.follow_system().await?;
    let system = api.ledger.system();
    // What one org negotiated is not another's to read.
    let may_see = |card: &RateCard| card.org.is_none() || actor.org.is_none() || card.org == actor.org;
    // A card's index in the unfiltered history is the same for every reader.
    let cards = (1_usize..).zip(system.prices.history(&provider, &model));
    let mut cards = cards.filter(|(_, (_, card))| may_see(card)).peekable();
    if cards.peek().is_none() {
        return Err(Problem::not_found("price"));
    }
    let Page { data, next } = query.of(cards)?;
    let published = |(version, card)| Published { version, card: card_body(card) };
    Ok(Json(History { data: data.into_iter().map(published).collect(), next }))
}

fn card(body: CardBody, now: Timestamp) -> Result<RateCard, Problem> {
    check_text("provider", &body.provider, Purpose::NAME_BYTES_MAX)?;
    check_text("model", &body.model, Purpose::NAME_BYTES_MAX)?;
    let named = format!("{}/{}", body.provider, body.model);
    let card = RateCard {
        provider: body.provider,
        model: body.model,
        mode: body.mode,
        effective_from: body.effective_from.as_deref().map_or(Ok(now), parse_time)?,
        org: body.org,
        rates: body.rates,
        long_context: body.long_context,
        tiers: body.tiers,
        uplifts: body.uplifts,
        units: body.units,
        context_window_tokens: body.context_window_tokens,
        output_tokens_max: body.output_tokens_max,
        deprecated_at: body.deprecated_at.as_deref().map(parse_time).transpose()?,
    };
    if !card.is_complete() {
        let detail =
            format!("the card of {named} needs a rate for `input`, and one for `output` unless it embeds");
        return Err(Problem::unprocessable("incomplete_card", detail));
    }
    // An uplift of ten percent is 1.1: one of 0.1 would charge a tenth.
    if card.uplifts.values().any(|factor| factor.decimal() < Decimal::ONE) {
        let detail = format!(
            "an uplift must be a factor of at least 1, such as \"1.1\" for ten percent more; the card of {named} has a lower one"
        );
        return Err(Problem::unprocessable("uplift_below_one", detail));
    }
    if card.tiers.contains_key(&ServiceTier::Standard) {
        let detail = format!(
            "the standard tier's rates must be given as `rates` and `long_context` only; the card of {named} has them under `tiers` too"
        );
        return Err(Problem::unprocessable("standard_tier_twice", detail));
    }
    Ok(card)
}

fn mark_up(body: MarkUpBody, now: Timestamp) -> Result<MarkUp, Problem> {
    if body.percent.decimal() > Decimal::ONE_THOUSAND {
        return Err(Problem::malformed("`percent` must be between 0 and 1000"));
    }
    let effective_from = body.effective_from.as_deref().map_or(Ok(now), parse_time)?;
    Ok(MarkUp { org: body.org, percent: body.percent, effective_from })
}

fn mark_up_body(mark_up: &MarkUp) -> MarkUpBody {
    let MarkUp { org, percent, effective_from } = mark_up.clone();
    MarkUpBody { org, percent, effective_from: Some(effective_from.to_rfc3339()) }
}

/// A card in the words of the API, for clients of it.
pub fn card_as_published(card: &RateCard) -> Value {
    serde_json::to_value(card_body(card)).unwrap_or_default()
}

fn card_body(card: &RateCard) -> CardBody {
    let card = card.clone();
    CardBody {
        provider: card.provider,
        model: card.model,
        mode: card.mode,
        effective_from: Some(card.effective_from.to_rfc3339()),
        org: card.org,
        rates: card.rates,
        long_context: card.long_context,
        tiers: card.tiers,
        uplifts: card.uplifts,
        units: card.units,
        context_window_tokens: card.context_window_tokens,
        output_tokens_max: card.output_tokens_max,
        deprecated_at: card.deprecated_at.map(Timestamp::to_rfc3339),
    }
}
