//! Which targets have the beginning of a conversation in their prompt cache, as far as this node's own calls show.
//!
//! A conversation is known by what it has said so far: a request that goes on where an earlier one ended is of the same
//! one. Only a hash of it is stored, for a while, and only where the route leaves a choice.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use moka::policy::EvictionPolicy;
use serde_json::Value;

use crate::domain::pricing::{Terms, cost};
use crate::domain::routing::Policy;
use crate::domain::routing::warmth::{Bid, Warm, cheaper, expected};
use crate::domain::time::Timestamp;
use crate::domain::usage::Usage;
use crate::gateway::State;
use crate::gateway::canonical_json;
use crate::gateway::edge::{Endpoint, Request};
use crate::gateway::target::Target;

/// About 10 MB.
const CONVERSATIONS_MAX: u64 = 100_000;
/// A turn adds a few messages; one that adds more counts as a new conversation.
const MESSAGES_MAX: usize = 32;
/// The fields before the first message, in any dialect.
const BEGINNING: [&str; 4] = ["tools", "system", "instructions", "response_format"];

/// By the hash of the conversation so far.
#[derive(Debug)]
pub struct Warmth(moka::sync::Cache<u64, Arc<Known>>);

/// What one target has of a conversation.
#[derive(Clone, Debug)]
struct Known {
    provider: String,
    model: String,
    warm: Warm,
}

/// A request's conversation, where the route leaves a choice between targets.
#[derive(Clone, Debug)]
pub struct Thread {
    said: u64,
    known: Vec<Arc<Known>>,
    /// Why another target than the one whose turn it was goes first.
    pub why: Option<String>,
}

impl Default for Warmth {
    fn default() -> Warmth {
        // The latest conversations, even if none of them goes on for long.
        let known = moka::sync::Cache::builder().eviction_policy(EvictionPolicy::lru());
        Warmth(known.max_capacity(CONVERSATIONS_MAX).build())
    }
}

impl Warmth {
    /// A target has answered.
    pub fn remember(&self, thread: &Thread, target: &Target, usage: &Usage, now: Timestamp) {
        let before = thread.of(target);
        let rates = &target.card.rates;
        let by_itself = rates.cache_read.is_some() && rates.cache_write_5m.is_none();
        if let Some(warm) = Warm::left_by(usage, before, by_itself, now) {
            let (provider, model) = (target.upstream.config.name.clone(), target.model.clone());
            self.0.insert(thread.said, Arc::new(Known { provider, model, warm }));
        }
    }

    fn thread(&self, request: &Request, now: Timestamp) -> Option<Thread> {
        let said = said(request);
        let known = said.iter().rev().filter_map(|said| self.0.get(said));
        let known = known.filter(|known| !known.warm.is_over(now)).collect();
        Some(Thread { said: *said.last()?, known, why: None })
    }
}

impl Thread {
    /// What the target has cached, by its latest answer.
    fn of(&self, target: &Target) -> Option<&Warm> {
        let is_it = |known: &&Arc<Known>| {
            known.provider == target.upstream.config.name && known.model == target.model
        };
        self.known.iter().find(is_it).map(|known| &known.warm)
    }

    fn bid(&self, place: usize, target: &Target, request: &Request, output_tokens: u64) -> Option<Bid> {
        let warm = self.of(target);
        let usage = expected(request.input_tokens, output_tokens, warm);
        let cost = cost(&target.card, &Terms::default(), &usage).ok()?;
        Some(Bid { place, is_warm: warm.is_some(), cost })
    }
}

/// Among targets that can stand in for each other, puts the one first where the conversation goes on at a lower price, if it is
/// well. None where there is nothing to choose.
pub fn put_first(
    state: &State,
    request: &Request,
    policy: &Policy,
    targets: &mut [Target],
) -> Option<Thread> {
    let first = targets.first()?;
    let is_equal = |target: &Target| policy.are_equal(first.group, target.group);
    let has_choice = targets[1..].iter().any(is_equal);
    if !has_choice || request.endpoint == Endpoint::Embed {
        return None;
    }
    let now = state.ledger.clock().now();
    let mut thread = state.warmth.thread(request, now)?;
    let Some(latest) = thread.known.first() else { return Some(thread) };
    let output_tokens = latest.warm.output_tokens;
    let tokens = request.input_tokens;
    let first_bid = thread.bid(0, first, request, output_tokens)?;
    let others = targets.iter().enumerate().skip(1).filter(|(_, target)| is_equal(target));
    let others = others.filter(|(_, target)| state.target_healths.is_ready(target, now, tokens));
    let bids = others.filter_map(|(place, target)| thread.bid(place, target, request, output_tokens));
    if let Some(chosen) = cheaper(first_bid.cost, bids) {
        let cached = thread.of(&targets[chosen.place]).map_or(0, |warm| warm.cached_tokens);
        let saved = first_bid.cost.saturating_sub(chosen.cost);
        let turn = &first.upstream.config.name;
        thread.why = Some(format!("{cached} tokens cached; about {saved} credits less than at {turn}"));
        targets[..=chosen.place].rotate_right(1);
    }
    Some(thread)
}

/// The hash of the conversation up to each of its last messages, oldest first.
fn said(request: &Request) -> Vec<u64> {
    let mut hasher = DefaultHasher::new();
    request.caller.org.hash(&mut hasher);
    let body = &request.body;
    for field in BEGINNING {
        add(&mut hasher, &body[field]);
    }
    let messages = canonical_json::turns(body);
    let messages = messages.as_array().map_or(std::slice::from_ref(messages), Vec::as_slice);
    let after_each = messages.iter().map(|message| {
        add(&mut hasher, message);
        hasher.finish()
    });
    let mut said: Vec<u64> = after_each.collect();
    said.drain(..said.len().saturating_sub(MESSAGES_MAX));
    said
}

fn add(hasher: &mut DefaultHasher, value: &Value) {
    canonical_json::write(value, &mut |bytes| hasher.write(bytes));
    // Between one value and the next.
    hasher.write_u8(0);
}
