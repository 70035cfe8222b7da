//! The answer cache: a request that equals an earlier one in everything that matters is served the same answer.
//!
//! A hit passes the edge and is settled like any request, at the route's price for it; what the answer had cost is reported
//! as saved. Identical requests that come together are one call: the others wait for the first, and go themselves if it
//! brings nothing. Only whole answers are cached, as good as the route gives them: never a failure, nor what a last resort or
//! a small balance made less of. Per org unless the route says otherwise, in memory.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use moka::Expiry;
use moka::policy::EvictionPolicy;
use parking_lot::Mutex;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::sync::OwnedMutexGuard;
use tokio::time::timeout;

use crate::domain::credits::Credits;
use crate::domain::routing::CachePolicy;
use crate::domain::time::Timestamp;
use crate::gateway::State;
use crate::gateway::dialects::Dialect;
use crate::gateway::edge::{Endpoint, Request};
use crate::gateway::failure::{Failure, FailureCode};
use crate::gateway::headers::Notices;
use crate::gateway::plan::Plan;
use crate::gateway::target::Target;
use crate::gateway::timeouts::left;

/// All cached answers together; the least recently used go first.
const BYTES_MAX: u64 = 32 << 20;
/// The memory that an entry takes in addition to the answer's bytes: key, names, notices, the cache's own records.
const ENTRY_BYTES: usize = 1 << 10;
/// Longer answers are not cached.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// How long a request waits for another's answer when its route sets no time for the first part. The other may belong to
/// another org, ask for a long answer, and read it slowly.
const TURN_WAIT: Duration = Duration::from_secs(30);
/// With more turns than this, those that nobody waits for are forgotten.
const TURNS_MAX: usize = 1_024;
/// Fields that do not change most answers: whose request it is, and what the provider stores of it.
const VOLATILE: [&str; 6] =
    ["user", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "store"];

type Key = [u8; 32];
type Turn = tokio::sync::Mutex<()>;

/// The answers that this node has cached.
#[derive(Debug)]
pub struct Cache {
    answers: moka::sync::Cache<Key, Entry>,
    /// The requests under way, by key.
    turns: Mutex<HashMap<Key, Weak<Turn>>>,
}

/// An answer as its client had it.
#[derive(Debug)]
pub struct CachedAnswer {
    pub bytes: Bytes,
    pub content_type: &'static str,
    pub provider: String,
    pub model: String,
    /// What it cost when it was made.
    pub cost: Credits,
    /// What its headers said when it was made.
    pub notices: Notices,
    pub made_at: Timestamp,
}

/// An answer with how long its route may serve it.
#[derive(Clone, Debug)]
struct Entry {
    answer: Arc<CachedAnswer>,
    kept_for: Duration,
}

/// Drops entries once their time is over.
struct OwnTime;

impl Expiry<Key, Entry> for OwnTime {
    fn expire_after_create(&self, _: &Key, entry: &Entry, _: Instant) -> Option<Duration> {
        Some(entry.kept_for)
    }

    fn expire_after_update(
        &self,
        _: &Key,
        entry: &Entry,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(entry.kept_for)
    }
}

/// What the cache has for a request.
#[derive(Debug)]
pub enum Reuse {
    /// The route has no cache.
    Off,
    /// The caller opted out, the route does not cache requests of this kind, or another chain than its own serves.
    Bypassed,
    Hit(Arc<CachedAnswer>),
    /// Too old, but the time that the request has was spent waiting for a newer one.
    Stale(Arc<CachedAnswer>),
    Missed(Pending),
}

/// An answer that will be cached once it is whole.
#[derive(Debug)]
pub struct Pending {
    key: Key,
    kept_for: Duration,
    /// An older answer, to be served where no target answers.
    pub stale: Option<Arc<CachedAnswer>>,
    /// So far; none once it has grown too long.
    bytes: Option<BytesMut>,
    /// The others wait until this is dropped.
    turn: Option<OwnedMutexGuard<()>>,
}

impl Default for Cache {
    fn default() -> Cache {
        let weight = |_: &Key, entry: &Entry| {
            u32::try_from(entry.answer.bytes.len().saturating_add(ENTRY_BYTES)).unwrap_or(u32::MAX)
        };
        // Under the default policy, which counts requests, old answers that were popular would keep out all new ones.
        let answers = moka::sync::Cache::builder().eviction_policy(EvictionPolicy::lru());
        let answers = answers.weigher(weight).max_capacity(BYTES_MAX).expire_after(OwnTime).build();
        Cache { answers, turns: Mutex::default() }
    }
}

impl Cache {
    /// Looks up the answer; where the same request is under way, waits for its answer.
    ///
    /// # Errors
    /// It did not come before `ends_at`.
    pub async fn look_up(
        state: &State,
        request: &Request,
        plan: &Plan,
        ends_at: Option<Timestamp>,
    ) -> Result<Reuse, Failure> {
        let Some(policy) = &plan.policy.cache else { return Ok(Reuse::Off) };
        // What a last resort answers is not kept: nobody is to wait for it.
        let may_reuse = request.may_reuse && !plan.is_degraded;
        if !may_reuse || (policy.deterministic_only && !is_deterministic(request)) {
            return Ok(Reuse::Bypassed);
        }
        let cache = &state.cache;
        let key = key(request, plan, policy);
        let fresh = || cache.aged(&key, policy.ttl_seconds, state.ledger.clock().now());
        if let Some(answer) = fresh() {
            return Ok(Reuse::Hit(answer));
        }
        let turn = cache.turn(key);
        let mut is_over = false;
        let turn = match turn.clone().try_lock_owned() {
            Ok(mine) => Some(mine),
            Err(_) => {
                // Should it bring nothing, all who waited go at once rather than one after the other.
                let left = left(ends_at, state.ledger.clock().now());
                let wait = plan.policy.first_token_seconds.map_or(TURN_WAIT, Duration::from_secs);
                let is_late = timeout(wait.min(left), turn.lock()).await.is_err();
                is_over = is_late && left <= wait;
                None
            }
        };
        if let Some(answer) = fresh() {
            return Ok(Reuse::Hit(answer));
        }
        let kept_seconds = policy.ttl_seconds.saturating_add(policy.stale_seconds);
        let stale = (policy.stale_seconds > 0)
            .then(|| cache.aged(&key, kept_seconds, state.ledger.clock().now()))
            .flatten();
        match stale {
            Some(stale) if is_over => Ok(Reuse::Stale(stale)),
            None if is_over => Err(too_late()),
            stale => {
                let kept_for = Duration::from_secs(kept_seconds.into());
                Ok(Reuse::Missed(Pending { key, kept_for, stale, bytes: Some(BytesMut::new()), turn }))
            }
        }
    }

    /// The answer, unless it is older than this.
    fn aged(&self, key: &Key, seconds_max: u32, now: Timestamp) -> Option<Arc<CachedAnswer>> {
        let answer = self.answers.get(key)?.answer;
        (now <= answer.made_at.plus_seconds(seconds_max.into())).then_some(answer)
    }

    fn turn(&self, key: Key) -> Arc<Turn> {
        let mut turns = self.turns.lock();
        if let Some(turn) = turns.get(&key).and_then(Weak::upgrade) {
            return turn;
        }
        if turns.len() >= TURNS_MAX {
            turns.retain(|_, turn| turn.strong_count() > 0);
        }
        let turn = Arc::new(Turn::default());
        turns.insert(key, Arc::downgrade(&turn));
        turn
    }
}

impl Reuse {
    /// For the header.
    pub fn name(&self) -> Option<&'static str> {
        match self {
            Reuse::Off => None,
            Reuse::Bypassed => Some("bypass"),
            Reuse::Hit(_) => Some("hit"),
            Reuse::Stale(_) => Some("stale"),
            Reuse::Missed(_) => Some("miss"),
        }
    }

    /// A part of the answer on its way to the client. Of one that has grown too long, nobody waits for the rest.
    pub fn push(&mut self, part: &[u8]) {
        let Reuse::Missed(Pending { bytes, turn, .. }) = self else { return };
        match bytes {
            Some(kept) if kept.len().saturating_add(part.len()) <= ANSWER_BYTES_MAX => {
                kept.extend_from_slice(part);
            }
            Some(_) | None => (*bytes, *turn) = (None, None),
        }
    }

    /// The answer is whole, and settled: its bytes are those that were pushed. The others have it before its own client.
    pub fn keep(&mut self, cache: &Cache, answer: CachedAnswer) {
        let Reuse::Missed(Pending { key, kept_for, bytes, turn, .. }) = self else { return };
        if let Some(bytes) = bytes.take().filter(|bytes| !bytes.is_empty()) {
            // Of exact size: what was gathered has room for as much again.
            let answer = Arc::new(CachedAnswer { bytes: Bytes::copy_from_slice(&bytes), ..answer });
            cache.answers.insert(*key, Entry { answer, kept_for: *kept_for });
        }
        *turn = None;
    }

    /// Lets the waiting requests go on, whether or not the answer was cached.
    pub fn release(&mut self) {
        if let Reuse::Missed(pending) = self {
            pending.turn = None;
        }
    }
}

fn too_late() -> Failure {
    let words = "This request waited for an identical one, which was not answered in time; try again.";
    Failure { retry_after_seconds: Some(1), ..Failure::new(503, FailureCode::UpstreamUnreachable, words) }
}

/// Whether the request asks for the same answer each time, as far as the API allows.
fn is_deterministic(request: &Request) -> bool {
    match request.endpoint {
        Endpoint::Embed => true,
        Endpoint::Generate(_) => request.body["temperature"].as_f64() == Some(0.0),
    }
}

/// Everything that makes the answer what it is: the endpoint, the route and where it leads this caller, how complex the
/// caller says that it is (which puts the same targets into another order), and the body.
fn key(request: &Request, plan: &Plan, policy: &CachePolicy) -> Key {
    let mut hash = Sha256::new();
    if !policy.shared {
        hash.update(request.caller.org.0.as_bytes());
    }
    hash.update(format!("{:?}\n{}\n{:?}\n", request.endpoint, request.model, request.complexity));
    if let Some(assignment) = &plan.assignment {
        hash.update(format!("{}\n", assignment.arm));
    }
    let mut targets: Vec<&Target> = plan.targets.iter().collect();
    // In the order that the route's conditions make. Health and the weights change theirs from request to request.
    targets.sort_unstable_by_key(|target| (target.group, &target.upstream.config.name, &target.model));
    for target in targets {
        hash.update(format!("{}/{}\n", target.upstream.config.name, target.model));
    }
    for (field, value) in sorted(&request.body) {
        if makes_the_answer(field, request.endpoint) {
            hash.update(format!("{field:?}:"));
            add(&mut hash, value);
        }
    }
    hash.finalize().into()
}

/// Whether an answer depends on the field. The model is known by where it leads. OpenAI's responses repeat what was asked,
/// for whom included: these are cached per caller.
fn makes_the_answer(field: &str, endpoint: Endpoint) -> bool {
    let repeats = endpoint == Endpoint::Generate(Dialect::OpenaiResponses);
    field != "model" && (repeats || !VOLATILE.contains(&field))
}

/// The order of fields is irrelevant.
fn sorted(value: &Value) -> Vec<(&str, &Value)> {
    let mut fields: Vec<(&str, &Value)> =
        value.as_object().into_iter().flatten().map(|(name, value)| (name.as_str(), value)).collect();
    fields.sort_unstable_by_key(|(name, _)| *name);
    fields
}

fn add(hash: &mut Sha256, value: &Value) {
    match value {
        Value::Object(_) => {
            hash.update("{");
            for (field, value) in sorted(value) {
                hash.update(format!("{field:?}:"));
                add(hash, value);
            }
            hash.update("}");
        }
        Value::Array(items) => {
            hash.update("[");
            for item in items {
                add(hash, item);
                hash.update(",");
            }
            hash.update("]");
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => hash.update(value.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer() -> CachedAnswer {
        CachedAnswer {
            bytes: Bytes::new(),
            content_type: "text/event-stream",
            provider: String::new(),
            model: String::new(),
            cost: Credits::ZERO,
            notices: Notices::default(),
            made_at: Timestamp(0),
        }
    }

    fn missed(key: Key, turn: Option<OwnedMutexGuard<()>>) -> Reuse {
        let kept_for = Duration::from_secs(60);
        Reuse::Missed(Pending { key, kept_for, stale: None, bytes: Some(BytesMut::new()), turn })
    }

    #[test]
    fn a_full_cache_takes_new_answers_however_often_the_old_ones_were_asked_for() {
        let (cache, now) = (Cache::default(), Timestamp(0));
        let keep = |key: Key, made_at| {
            let mut reuse = missed(key, None);
            reuse.push(&[0; ANSWER_BYTES_MAX]);
            reuse.keep(&cache, CachedAnswer { made_at, ..answer() });
            cache.answers.run_pending_tasks();
        };
        for nth in 0..40 {
            keep([nth; 32], now);
            (0..9).for_each(|_| _ = cache.aged(&[nth; 32], 60, now));
        }
        let later = now.plus_seconds(61);

        keep([99; 32], later);

        assert!(cache.aged(&[99; 32], 60, later).is_some());
        assert!(cache.aged(&[39; 32], 60, later).is_none(), "its time is over");
        assert!(cache.answers.weighted_size() <= BYTES_MAX);
    }

    #[test]
    fn an_entry_ends_with_its_routes_use_for_it_and_begins_anew_with_a_new_answer() {
        let (cache, key) = (Cache::default(), [7; 32]);
        let insert = |kept_for| {
            cache.answers.insert(key, Entry { answer: Arc::new(answer()), kept_for });
            cache.answers.get(&key).is_some()
        };
        let (minute, nothing) = (Duration::from_secs(60), Duration::ZERO);

        assert_eq!([nothing, minute, nothing, minute].map(insert), [false, true, false, true]);
    }

    #[test]
    fn the_others_go_on_before_the_first_client_has_read_to_the_end() {
        let key = [7; 32];
        for (part, is_kept) in [(&b"whole"[..], true), (&[0; ANSWER_BYTES_MAX + 1], false)] {
            let cache = Cache::default();
            let turn = cache.turn(key);
            let mine = turn.clone().try_lock_owned().ok();
            let mut reuse = missed(key, mine);

            let waits = turn.try_lock().is_err();
            reuse.push(part);
            let waits_for_the_rest = turn.try_lock().is_err();
            reuse.keep(&cache, answer());

            assert_eq!((waits, waits_for_the_rest), (true, is_kept));
            assert!(turn.try_lock().is_ok());
            assert_eq!(cache.aged(&key, 1, Timestamp(0)).is_some(), is_kept);
        }
    }

    #[test]
    fn the_others_go_on_where_an_answer_is_not_kept() {
        let (cache, key) = (Cache::default(), [7; 32]);
        let turn = cache.turn(key);
        let mine = turn.clone().try_lock_owned().ok();
        let mut reuse = missed(key, mine);

        reuse.push(b"degraded");
        let waits = turn.try_lock().is_err();
        reuse.release();

        assert!(waits && turn.try_lock().is_ok());
        assert!(cache.aged(&key, 1, Timestamp(0)).is_none());
    }
}
