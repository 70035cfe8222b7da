//! The plan: which targets may serve a request, in the order in which they are tried, and with how much patience.
//!
//! A model without a price never enters a plan (I10). The routing table is taken once: a reload changes no request
//! that is under way.

use std::sync::Arc;

use serde_json::Value;

use crate::domain::ids::OrgId;
use crate::domain::pricing::{Mode, RateCard};
use crate::domain::routing::complexity::{Judged, Level, Model, Prompt};
use crate::domain::routing::{Asked, Choice, Complexity, Policy, Routes, Seat, To};
use crate::domain::system::System;
use crate::domain::time::Timestamp;
use crate::gateway::dialects::Family;
use crate::gateway::edge::{Endpoint, Request};
use crate::gateway::failure::Failure;
use crate::gateway::providers;
use crate::gateway::warmth::{self, Conversation};
use crate::gateway::{State, Upstream};

/// The output limit of a model whose card knows no maximum.
const OUTPUT_TOKENS_UNKNOWN: u64 = 4_096;
/// From so many days before a model is switched off, its answers say so.
const NOTICE_DAYS: i64 = 60;
const DAY_SECONDS: i64 = 86_400;

/// One upstream with the model to ask there, and its price.
#[derive(Clone, Debug)]
pub struct Target {
    pub upstream: Arc<Upstream>,
    pub model: String,
    pub card: Arc<RateCard>,
    /// The route leaves it open which target of a group serves.
    pub group: usize,
    /// What the caller should know of the model: that its days are counted, or that it stands for another.
    pub notice: Option<String>,
}

/// Where a request may go.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The name of the route that was asked for, if it was one.
    pub route: Option<String>,
    pub policy: Policy,
    /// Never empty.
    pub targets: Vec<Target>,
    /// Where the request sits in an experiment.
    pub seat: Option<Seat>,
    /// Left out, so that the rest fits.
    pub trimmed_messages: usize,
    /// Where the conversation's beginning is cached, if it matters.
    pub warmth: Option<Conversation>,
    routes: Arc<Routes>,
    asked: Asked,
}

/// The price book under which a request is quoted and charged.
#[derive(Clone, Debug)]
pub struct Prices {
    pub system: Arc<System>,
    pub version: u64,
    pub at: Timestamp,
}

impl Prices {
    pub fn in_force(state: &State) -> Prices {
        let system = state.ledger.system();
        Prices { version: system.prices.version(), at: state.ledger.clock().now(), system }
    }

    pub fn card(&self, org: OrgId, upstream: &Upstream, model: &str) -> Option<&Arc<RateCard>> {
        self.system.prices.card(self.version, org, upstream.config.priced_as(), model, self.at)
    }
}

/// The chain of targets, and of those that stand for each other first the one that has the conversation cached.
pub fn plan(state: &State, prices: &Prices, request: &Request, seat: Option<Seat>) -> Result<Plan, Failure> {
    let mut plan = chained(state, prices, request, seat)?;
    plan.warmth = warmth::put_first(state, request, &plan.policy, &mut plan.targets);
    Ok(plan)
}

/// That of the experiment's arm; or the route's, or else every provider that has a card of that name.
fn chained(state: &State, prices: &Prices, request: &Request, seat: Option<Seat>) -> Result<Plan, Failure> {
    let routes = state.routes.load_full();
    let mut plan = match routes.get(&request.model) {
        Some(route) => {
            let policy = route.policy.clone();
            let asked = asked(&routes, prices, request);
            Plan {
                route: Some(route.name.clone()),
                policy,
                targets: Vec::new(),
                seat,
                trimmed_messages: 0,
                warmth: None,
                asked,
                routes,
            }
        }
        None => Plan {
            route: None,
            policy: Policy::default(),
            targets: Vec::new(),
            trimmed_messages: 0,
            warmth: None,
            asked: if seat.is_some() { asked(&routes, prices, request) } else { Asked::default() },
            seat,
            routes,
        },
    };
    let chain = plan.seat.as_ref().map(|seat| seat.chain.clone()).unwrap_or_default();
    if !chain.is_empty() {
        plan.targets = plan.targets_of_all(state, prices, request, &chain);
        if !plan.targets.is_empty() {
            return Ok(plan);
        }
        if plan.is_shadow() {
            return Err(plan.nobody_serves(state, prices, request));
        }
        tracing::warn!(arm = ?plan.seat, "nothing in the arm's chain can serve: the route's own answers");
        plan.seat = None;
    }
    plan.targets = match &plan.route {
        Some(name) => plan.targets_of(state, prices, request, &To::Route(name.clone())),
        None => {
            let targets = named(state, &plan.routes, prices, request.caller.org, &request.model);
            plan.in_order(state, prices, request, targets)
        }
    };
    if plan.targets.is_empty() { Err(plan.nobody_serves(state, prices, request)) } else { Ok(plan) }
}

impl Plan {
    /// Whether nobody waits for the answer.
    pub fn is_shadow(&self) -> bool {
        self.seat.as_ref().is_some_and(Seat::is_shadow)
    }

    /// How complex the request was taken to be, where that chose the target, and why.
    pub fn complexity(&self) -> Option<(Level, String)> {
        let by = self.routes.get(self.route.as_ref()?)?.complexity.as_ref()?;
        let level = self.asked.level(by.quality);
        let why = match self.asked.complexity.as_ref()? {
            Complexity::Told(_) => "as the caller said".to_owned(),
            Complexity::Judged(judged) => judged.why(by.quality),
        };
        Some((level, why))
    }

    /// Why the first target is not the one whose turn it was, where its cache decided.
    pub fn stays_warm(&self) -> Option<&str> {
        self.warmth.as_ref()?.why.as_deref()
    }

    /// The targets to which a chain, or one model, leads this request.
    pub fn targets_of(&self, state: &State, prices: &Prices, request: &Request, to: &To) -> Vec<Target> {
        self.targets_of_all(state, prices, request, std::slice::from_ref(to))
    }

    fn targets_of_all(&self, state: &State, prices: &Prices, request: &Request, chain: &[To]) -> Vec<Target> {
        self.in_order(state, prices, request, self.priced(state, prices, request, chain))
    }

    /// Those of a chain that have a price.
    fn priced(&self, state: &State, prices: &Prices, request: &Request, chain: &[To]) -> Vec<Target> {
        let targets = self.routes.targets(chain, &self.asked, request.chance());
        let org = request.caller.org;
        let found = |Choice { target, group }: &Choice| {
            let found = found(state, &self.routes, prices, org, &target.provider, &target.model)?;
            Some(Target { group: *group, ..found })
        };
        targets.iter().filter_map(found).collect()
    }

    /// Why there is no target: without a price nothing is offered, and not every model serves every endpoint.
    fn nobody_serves(&self, state: &State, prices: &Prices, request: &Request) -> Failure {
        let priced = match &self.route {
            Some(name) => self.priced(state, prices, request, &[To::Route(name.clone())]),
            None => named(state, &self.routes, prices, request.caller.org, &request.model),
        };
        match priced.first() {
            Some(target) => {
                Failure::model_elsewhere(&request.model, target.serves_elsewhere(request.endpoint))
            }
            None => Failure::model_unknown(&request.model),
        }
    }

    /// Those that serve the endpoint, as the weather puts them.
    fn in_order(
        &self,
        state: &State,
        prices: &Prices,
        request: &Request,
        targets: Vec<Target>,
    ) -> Vec<Target> {
        let serving = targets.into_iter().filter(|target| target.serves(request.endpoint)).collect();
        state.weather.order(serving, self.policy.prefer, prices.at, request.input_tokens())
    }
}

/// Every provider that sells a model of this name.
fn named(state: &State, routes: &Routes, prices: &Prices, org: OrgId, model: &str) -> Vec<Target> {
    let target = |upstream: &Arc<Upstream>| found(state, routes, prices, org, &upstream.config.name, model);
    let mut targets: Vec<Target> = state.upstreams.iter().filter_map(target).collect();
    // A ceiling price stands for a model that nobody is known to sell: real cards first.
    targets.sort_by_key(|target| target.card.model == RateCard::ANY);
    // The order of the file is meant.
    targets.iter_mut().enumerate().for_each(|(place, target)| target.group = place);
    targets
}

/// A model at a provider with its price; where it has been switched off, its successor.
fn found(
    state: &State,
    routes: &Routes,
    prices: &Prices,
    org: OrgId,
    provider: &str,
    model: &str,
) -> Option<Target> {
    let target = |provider: &str, model: &str| {
        let upstream = state.upstreams.iter().find(|upstream| upstream.config.name == provider)?.clone();
        let card = prices.card(org, &upstream, model)?.clone();
        Some(Target { upstream, model: model.to_owned(), card, group: 0, notice: None })
    };
    let mut asked = target(provider, model)?;
    let Some(ends_at) = asked.card.deprecated_at else { return Some(asked) };
    let day = ends_at.to_rfc3339()[..10].to_owned();
    if prices.at >= ends_at
        && let Some(successor) = routes.successor(provider, model)
        && let Some(found) = target(&successor.provider, &successor.model)
    {
        let notice = format!("{model} was switched off on {day}; {} answers in its place", found.model);
        return Some(Target { notice: Some(notice), ..found });
    }
    if prices.at.plus_seconds(NOTICE_DAYS * DAY_SECONDS) >= ends_at {
        asked.notice = Some(format!("the provider switches {model} off on {day}"));
    }
    Some(asked)
}

/// Whether a provider of this family generates with a model of this mode.
pub fn generates(mode: Mode, family: Family) -> bool {
    match mode {
        Mode::Chat => true,
        Mode::Responses => family == Family::OpenaiResponses,
        Mode::Embedding => false,
    }
}

/// Whether a provider of this family makes embeddings with it.
pub fn embeds(mode: Mode, family: Family, model: &str) -> bool {
    mode == Mode::Embedding && providers::embeddings_path(family, model).is_some()
}

impl Target {
    fn serves(&self, endpoint: Endpoint) -> bool {
        match endpoint {
            Endpoint::Generate(_) => generates(self.card.mode, self.upstream.family),
            Endpoint::Embed => embeds(self.card.mode, self.upstream.family, &self.model),
        }
    }

    /// The most that the model says in one answer.
    pub fn output_tokens_max(&self) -> u64 {
        self.card.output_tokens_max.unwrap_or(OUTPUT_TOKENS_UNKNOWN)
    }

    /// The context window, where an output limit counts against it.
    pub fn window_of_both(&self) -> Option<u64> {
        let counts = providers::counts_output_limit(self.upstream.family, &self.model);
        self.card.context_window_tokens.filter(|_| counts)
    }

    /// Where it does not: what there is instead.
    fn serves_elsewhere(&self, endpoint: Endpoint) -> &'static str {
        match (endpoint, self.card.mode) {
            (Endpoint::Generate(_), Mode::Embedding) => "it makes embeddings; ask for them at /v1/embeddings",
            (Endpoint::Generate(_), Mode::Chat | Mode::Responses) => {
                "OpenAI serves it by its responses alone, which takes a provider of kind `openai_responses`"
            }
            (Endpoint::Embed, Mode::Chat | Mode::Responses) => {
                "it generates text; ask for it at /v1/chat/completions, /v1/responses or /v1/messages"
            }
            (Endpoint::Embed, Mode::Embedding) => {
                "its provider's embeddings can't be asked for by this gateway"
            }
        }
    }
}

/// What the conditions of a route look at.
fn asked(routes: &Routes, prices: &Prices, request: &Request) -> Asked {
    let org = request.caller.org;
    let slugs = routes.orgs().filter(|name| prices.system.org_of_slug(name) == Some(org)).map(str::to_owned);
    Asked {
        org: slugs.chain([org.to_string()]).collect(),
        project: request.caller.project.map(|project| project.to_string()),
        key: request.caller.key.to_string(),
        labels: request.purpose.labels.clone(),
        has_tools: request.body["tools"].as_array().is_some_and(|tools| !tools.is_empty()),
        has_images: has_images(&request.body),
        input_tokens: request.input_tokens(),
        complexity: routes.ask_complexity().then(|| complexity(routes.weights(), request)),
    }
}

/// What the caller says, or else what the text tells.
fn complexity(weights: &Arc<Model>, request: &Request) -> Complexity {
    match request.complexity {
        Some(level) => Complexity::Told(level),
        None => {
            let brought = request.prompt.as_ref().map_or(0, |prompt| prompt.messages);
            Complexity::Judged(Judged::new(weights, &prompts(&request.body, brought)))
        }
    }
}

/// What the user said, in any dialect, each message with how much stood before it. `brought` messages are an operator's
/// prompt. Where the user has said nothing, the last of what was said counts.
fn prompts(body: &Value, brought: usize) -> Vec<Prompt> {
    let has_more_than_text =
        body["tools"].as_array().is_some_and(|tools| !tools.is_empty()) || has_images(body);
    let said = if body["messages"].is_array() { &body["messages"] } else { &body["input"] };
    let items = said.as_array().map_or(std::slice::from_ref(said), Vec::as_slice);
    let mut context_characters =
        ["system", "instructions"].map(|field| characters(&body[field])).iter().sum();
    let (mut of_user, mut last) = (Vec::new(), Prompt::default());
    for (place, item) in items.iter().enumerate() {
        let is_of_user = place >= brought && (item.is_string() || item["role"] == "user");
        let is_last = place + 1 == items.len();
        if is_of_user || is_last {
            let mut text = String::new();
            words(item, &mut text);
            text.truncate(text.trim_end().len());
            let prompt = Prompt { text, context_characters, has_more_than_text };
            match is_of_user && !prompt.text.is_empty() {
                true => of_user.push(prompt),
                false => last = prompt,
            }
        }
        context_characters += characters(item);
    }
    if of_user.is_empty() { vec![last] } else { of_user }
}

/// The fields of a message or part that hold words.
const WORDS: [&str; 4] = ["content", "text", "parts", "output"];

/// The words of a message. What a tool has answered is nobody's, though it comes as the user's.
fn words(value: &Value, out: &mut String) {
    match value {
        Value::String(text) => {
            out.push_str(text);
            out.push('\n');
        }
        Value::Array(items) => items.iter().for_each(|item| words(item, out)),
        Value::Object(part) if part.get("type").is_some_and(|kind| kind == "tool_result") => {}
        Value::Object(part) => {
            WORDS.into_iter().filter_map(|field| part.get(field)).for_each(|value| words(value, out));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn characters(value: &Value) -> u64 {
    match value {
        Value::String(text) => text.chars().count() as u64,
        Value::Array(items) => items.iter().map(characters).sum(),
        Value::Object(part) => WORDS.into_iter().filter_map(|field| part.get(field)).map(characters).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}

/// Whether a picture is among the parts of any message, in any dialect.
fn has_images(body: &Value) -> bool {
    fn is_in(value: &Value) -> bool {
        match value {
            Value::Array(items) => items.iter().any(is_in),
            Value::Object(part) => {
                let kind = part.get("type").and_then(Value::as_str);
                matches!(kind, Some("image" | "image_url" | "input_image"))
                    || part.contains_key("inlineData")
                    || part.contains_key("inline_data")
                    || ["content", "parts"].into_iter().filter_map(|field| part.get(field)).any(is_in)
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
        }
    }
    ["messages", "input", "contents"].into_iter().any(|field| is_in(&body[field]))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_user_said_is_found_in_every_dialect_with_what_stood_before_it() {
        let said = |body: Value, brought: usize| {
            let prompts = prompts(&body, brought).into_iter();
            prompts.map(|prompt| (prompt.text, prompt.context_characters)).collect::<Vec<_>>()
        };
        let is = |texts: &[(&str, u64)]| -> Vec<(String, u64)> {
            texts.iter().map(|(text, before)| ((*text).to_owned(), *before)).collect()
        };
        let user = |content: Value| json!({"role": "user", "content": content});
        let assistant = json!({"role": "assistant", "content": "Shall I?"});

        for (body, brought, expected) in [
            (
                json!({"messages": [{"role": "system", "content": "Be brief."}, user("Why?".into()), assistant,
                user("Yes".into())]}),
                0,
                is(&[("Why?", 9), ("Yes", 21)]),
            ),
            (
                json!({"system": [{"type": "text", "text": "Be brief."}], "messages": [
                user(json!([{"type": "text", "text": "One"}, {"type": "text", "text": "two"}])), assistant,
                user(json!([{"type": "tool_result", "content": "12 345"}]))]}),
                0,
                is(&[("One\ntwo", 9)]),
            ),
            (json!({"instructions": "Be brief.", "input": "Why?"}), 0, is(&[("Why?", 9)])),
            (
                json!({"input": [user(json!([{"type": "input_text", "text": "Why?"}]))]}),
                0,
                is(&[("Why?", 0)]),
            ),
            (json!({"messages": [user("An example".into()), user("Mine".into())]}), 1, is(&[("Mine", 10)])),
            (json!({"messages": [user("Hello Ann".into())]}), 1, is(&[("Hello Ann", 0)])),
            (json!({"messages": [{"role": "system", "content": "Greet."}]}), 0, is(&[("Greet.", 0)])),
        ] {
            assert_eq!(said(body.clone(), brought), expected, "{body}");
        }
    }

    #[test]
    fn pictures_are_found_in_every_dialect_and_words_about_them_are_not() {
        for (body, expected) in [
            (json!({"messages": [{"role": "user", "content": "an image"}]}), false),
            (json!({"messages": [{"content": [{"type": "text", "text": "image_url"}]}]}), false),
            (json!({"messages": [{"content": [{"type": "image_url", "image_url": {"url": "u"}}]}]}), true),
            (json!({"messages": [{"content": [{"type": "image", "source": {}}]}]}), true),
            (
                json!({"messages": [{"content": [{"type": "tool_result", "content": [{"type": "image"}]}]}]}),
                true,
            ),
            (json!({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}), true),
            (json!({"contents": [{"parts": [{"inlineData": {}}]}]}), true),
        ] {
            assert_eq!(has_images(&body), expected, "{body}");
        }
    }
}
