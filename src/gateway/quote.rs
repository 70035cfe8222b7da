//! The quote: what one attempt can cost at most, and the request as it will be sent for that price.

use bytes::Bytes;
use serde_json::Value;

use crate::domain::account::refusal::Refusal;
use crate::domain::credits::Credits;
use crate::domain::pricing::{Dialect as Priced, PricedDemand, RequestBound, Terms, input_bound};
use crate::domain::routing::ClampPolicy;
use crate::gateway::betas::{self, Betas};
use crate::gateway::dialects::{self, Family, UpstreamRequest, embeddings};
use crate::gateway::edge::{Endpoint, Request};
use crate::gateway::failure::{Failure, FailureCode};
use crate::gateway::plan::Prices;
use crate::gateway::providers;
use crate::gateway::target::Target;
use crate::gateway::token_count;

/// By how much a request is about longer as it is sent, for the model's name there and the output limit.
const CHANGED_BYTES: usize = 256;
/// By how much a count of tokens may fall short: a sixteenth, since each maker's tokenizer cuts a little differently, and
/// what stands around the messages.
const MARGIN_PART: u64 = 16;
const MARGIN_TOKENS: u64 = 64;
/// The least that an answer is left: where even that does not fit, the provider's own error says best that the request is too long.
const ANSWER_TOKENS_MIN: u64 = 1_024;

/// If an estimate is this many times the window, no exact count can bring the input within it.
const HOPELESS_FACTOR: u64 = 8;

/// One attempt, priced.
#[derive(Clone, Debug)]
pub struct Quote {
    pub target: Target,
    /// What is sent.
    pub body: Bytes,
    /// The most that it can cost.
    pub credits: Credits,
    /// The part of it that is the input's.
    pub input_credits: Credits,
    pub input_tokens_max: u64,
    pub output_tokens_max: u64,
    pub terms: Terms,
    /// It may write to a cache that lives long, at a price of its own.
    pub long_cache_writes: bool,
    /// The output limit that was set, where it is not the caller's own.
    pub clamp_tokens: Option<u64>,
    /// It is less than the model's maximum, since the means afford no more.
    pub is_cut: bool,
    /// Features that are switched on by name.
    pub betas: Vec<String>,
    /// Fields and features that the upstream can't carry.
    pub dropped: Vec<String>,
}

/// How much a quote may come to.
#[derive(Clone, Copy, Debug)]
pub enum Funds<'a> {
    /// Not known yet: the ledger decides on the whole bound.
    Unknown,
    /// What the ledger said is left, and whether a caller that named no limit gets what that affords.
    Available { credits: Credits, clamp: ClampPolicy, refusal: Option<&'a Refusal> },
}

/// Prices one attempt. A caller that named a maximum keeps it or learns the largest affordable one; a caller that named
/// none gets what the means afford, up to the provider's default or the model's maximum.
pub fn quote(
    request: &Request,
    target: &Target,
    prices: &Prices,
    funds: Funds<'_>,
) -> Result<Quote, Failure> {
    match request.endpoint {
        Endpoint::Embed => quote_embedding(request, target, prices, funds),
        Endpoint::Generate(_) => quote_generation(request, target, prices, funds),
    }
}

fn quote_generation(
    request: &Request,
    target: &Target,
    prices: &Prices,
    funds: Funds<'_>,
) -> Result<Quote, Failure> {
    let mut draft = Draft::of(request, target)?;
    let WantedOutput { asked, tokens, least, beyond } = wanted_output(request, target, &draft.body)?;
    let mut sent = draft.limit(tokens)?;
    let mut bytes = draft.written();
    let length = bytes.len() as u64;
    let limits = input_bound(&draft.body, length, priced(target.upstream.family), &target.card)?;
    let terms = terms(request, prices, &limits, target);
    let demand = PricedDemand::of(&target.card, &terms, &limits.demand)?;
    let tokens = if asked.is_some() { tokens } else { tokens.min(left_for_output(request, target, length)) };
    let limit = limit_within(funds, &WantedOutput { asked, tokens, least, beyond }, &demand)?;
    if limit < sent {
        // No longer than it was.
        sent = draft.limit(limit)?;
        bytes = draft.written();
    }
    let betas = betas(request, target, &mut draft.dropped);
    let billed = sent.saturating_add(beyond);
    Ok(Quote {
        credits: at_least_one(demand.bound(billed)),
        input_credits: demand.bound(0),
        input_tokens_max: limits.demand.input_tokens_max,
        long_cache_writes: limits.demand.long_cache_writes,
        output_tokens_max: billed.saturating_mul(limits.demand.n),
        is_cut: limit < tokens,
        clamp_tokens: (asked != Some(sent)).then_some(sent),
        target: target.clone(),
        body: bytes,
        terms,
        betas,
        dropped: draft.dropped,
    })
}

/// A request as the target reads it, before and after its output limit is set.
struct Draft<'a> {
    request: &'a Request,
    target: &'a Target,
    body: Value,
    dropped: Vec<String>,
}

impl Draft<'_> {
    fn of<'a>(request: &'a Request, target: &'a Target) -> Result<Draft<'a>, Failure> {
        let (client, upstream) = (request.endpoint.dialect(), target.upstream.family);
        let UpstreamRequest { mut body, mut dropped } =
            dialects::upstream_request(client, upstream, &request.body, &target.model)?;
        // First of all: what is not sent is neither priced nor bounds anything.
        dropped.extend(left_out(request, target, &mut body));
        Ok(Draft { request, target, body, dropped })
    }

    /// Lowers the output limit to this many tokens, unless it is lower already; returns it.
    fn limit(&mut self, tokens: u64) -> Result<u64, Failure> {
        let (client, upstream) = (self.request.endpoint.dialect(), &self.target.upstream);
        if Family::from(client) != upstream.family {
            self.dropped.extend(dialects::fit_thinking(client, &self.request.body, &mut self.body, tokens));
        }
        let rules = self.target.limit_rules(&self.request.betas);
        let clamp = providers::clamp(rules, &mut self.body, tokens)
            .map_err(|below| Failure::new(400, FailureCode::InvalidRequest, below.to_string()))?;
        Ok(clamp.sent_tokens)
    }

    fn written(&self) -> Bytes {
        written(&self.body, self.request.bytes)
    }
}

/// How long an answer is to be able to get.
struct WantedOutput {
    /// By the caller, where it said so.
    asked: Option<u64>,
    tokens: u64,
    /// The upstream takes no limit below this.
    least: u64,
    /// What may be billed besides, whatever the limit.
    beyond: u64,
}

/// Before it is known how long the input is.
fn wanted_output(request: &Request, target: &Target, body: &Value) -> Result<WantedOutput, Failure> {
    let (client, upstream) = (Family::from(request.endpoint.dialect()), target.upstream.family);
    // A caller's own budget is kept or refused; one that a translation chose yields.
    let budgeted = if client == upstream { body } else { &Value::Null };
    let least = providers::minimum_output_tokens(upstream, &request.betas, budgeted);
    let asked = providers::asked_output_tokens(upstream, body);
    // A caller's own limit counts only where the caller gave it: a translation may have to make one up.
    let asked = asked.filter(|_| providers::asked_output_tokens(client, &request.body).is_some());
    let default = target.upstream.config.default_output_tokens.map(|default| default.max(least));
    let tokens = asked.or(default).unwrap_or(u64::MAX).min(target.output_tokens_max());
    Ok(WantedOutput { asked, tokens, least, beyond: target.tokens_beyond_limit(body)? })
}

/// The output limit that is wanted, or as much of it as the means afford.
fn limit_within(funds: Funds<'_>, wanted: &WantedOutput, demand: &PricedDemand) -> Result<u64, Failure> {
    let Funds::Available { credits: available, clamp, refusal } = funds else { return Ok(wanted.tokens) };
    let affordable = demand.affordable_output(available.or_zero()).unwrap_or(0).saturating_sub(wanted.beyond);
    let at_least = match (wanted.asked, clamp) {
        (None, ClampPolicy::Strict) => 1,
        (Some(_), ClampPolicy::Strict) | (_, ClampPolicy::Refuse) => wanted.tokens,
    };
    let enough = wanted.least.max(at_least);
    if affordable < enough {
        return Err(unaffordable(
            refusal,
            available,
            demand.bound(enough.saturating_add(wanted.beyond)),
            affordable,
        ));
    }
    Ok(wanted.tokens.min(affordable))
}

fn quote_embedding(
    request: &Request,
    target: &Target,
    prices: &Prices,
    funds: Funds<'_>,
) -> Result<Quote, Failure> {
    let UpstreamRequest { mut body, mut dropped } =
        embeddings::upstream_request(target.upstream.family, &request.body, &target.model)?;
    dropped.extend(left_out(request, target, &mut body));
    let betas = betas(request, target, &mut dropped);
    let bytes = written(&body, request.bytes);
    let limits = input_bound(&body, bytes.len() as u64, Priced::Embeddings, &target.card)?;
    let terms = terms(request, prices, &limits, target);
    let demand = limits.demand;
    let credits = at_least_one(PricedDemand::of(&target.card, &terms, &demand)?.bound(0));
    match funds {
        Funds::Available { credits: available, refusal, .. } if available < credits => {
            Err(unaffordable(refusal, available, credits, 0))
        }
        Funds::Available { .. } | Funds::Unknown => Ok(Quote {
            credits,
            input_credits: credits,
            input_tokens_max: demand.input_tokens_max,
            long_cache_writes: demand.long_cache_writes,
            output_tokens_max: 0,
            clamp_tokens: None,
            is_cut: false,
            target: target.clone(),
            body: bytes,
            terms,
            betas,
            dropped,
        }),
    }
}

/// The limit where nobody named one: the model's maximum; at a provider that counts it against the window, what the
/// input leaves, since a request that fits must not fail for a limit of our own.
fn left_for_output(request: &Request, target: &Target, bytes: u64) -> u64 {
    let model_max = target.output_tokens_max();
    // A token has a byte or more: most requests need no counting.
    let is_tight = |window: &u64| bytes.saturating_add(model_max) > *window;
    let Some(window) = target.window_of_both().filter(is_tight) else { return model_max };
    let is_hopeless = request.input_tokens > window.saturating_mul(HOPELESS_FACTOR);
    let input = if is_hopeless && !request.token_count.is_known() {
        request.input_tokens
    } else {
        token_count::of_family(target.upstream.family, request.tokens())
    };
    let margin = (input / MARGIN_PART).saturating_add(MARGIN_TOKENS);
    window.saturating_sub(input.saturating_add(margin)).max(ANSWER_TOKENS_MIN).min(model_max)
}

/// Removes what the server refuses; returns what of it the caller wrote, to be named as dropped.
fn left_out(request: &Request, target: &Target, body: &mut Value) -> Vec<String> {
    let mut lost = providers::leave_out(target.upstream.config.left_out(), body);
    let is_the_callers = |field: &str| field == providers::THOUGHT || request.body.get(field).is_some();
    lost.retain(|field| is_the_callers(field));
    lost
}

/// The features that are sent; the others are added to the dropped ones.
fn betas(request: &Request, target: &Target, all_dropped: &mut Vec<String>) -> Vec<String> {
    let Betas { sent, dropped } = betas::at(&request.betas, target.upstream.family, &target.card);
    all_dropped.extend(dropped);
    sent
}

/// The length of a request as it is sent, which came with this many bytes.
fn written(body: &Value, came_with: usize) -> Bytes {
    let mut bytes = Vec::with_capacity(came_with.saturating_add(CHANGED_BYTES));
    // A value has no key that is no text, and memory refuses no bytes: it can't fail.
    let _ = serde_json::to_writer(&mut bytes, body);
    Bytes::from(bytes)
}

fn priced(family: Family) -> Priced {
    match family {
        Family::OpenaiChat => Priced::OpenAiChat,
        Family::OpenaiResponses => Priced::OpenAiResponses,
        Family::Anthropic => Priced::Anthropic,
        Family::Gemini => Priced::Gemini,
    }
}

/// As the request asks for it, and where the upstream serves.
fn terms(request: &Request, prices: &Prices, limits: &RequestBound, target: &Target) -> Terms {
    let mark_up = prices.system.prices.mark_up_percent(prices.pinned(request.caller.org));
    let mut terms = limits.terms(mark_up);
    terms.uplifts.extend(&target.upstream.config.uplifts);
    terms
}

/// A hold is of something, even where the model is free.
fn at_least_one(credits: Credits) -> Credits {
    credits.max(Credits::from_nanos(1))
}

/// What refuses it, in its own words, and what helps.
fn unaffordable(
    refusal: Option<&Refusal>,
    available: Credits,
    asked: Credits,
    output_tokens: u64,
) -> Failure {
    let cost = format!("This request can cost up to {asked} credits");
    let (code, why, remedy) = match refusal {
        Some(Refusal::BudgetExceeded { budget, .. }) => (
            FailureCode::BudgetExceeded,
            format!("{cost} and {available} are left in {budget}."),
            "Raise the budget",
        ),
        Some(Refusal::RequestTooLarge { limit, .. }) => (
            FailureCode::RequestTooLarge,
            format!("{cost} and one request may hold at most {limit}."),
            "Raise the limit `credits_per_request`",
        ),
        _ => (
            FailureCode::InsufficientCredits,
            format!("{cost} and {available} are available."),
            "Buy credits",
        ),
    };
    let advice = match output_tokens {
        0 => format!("{remedy}, or send a shorter request."),
        tokens => format!("The largest output limit that is affordable is {tokens} tokens."),
    };
    Failure::new(402, code, format!("{why} {advice}"))
}
