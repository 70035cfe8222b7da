//! One route as an operator writes it: a name that callers use as a model, the targets behind it in the order in which
//! they are tried, under which conditions, and with how much patience.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::domain::credits::Credits;
use crate::domain::reservation::ExpiryPolicy;
use crate::domain::routing::complexity::{self, Judged, Level};

/// Fields that nobody knows: kept, so that all of them can be told at once.
pub(super) type Unknown = BTreeMap<String, IgnoredAny>;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Route {
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub chain: Vec<Step>,
    /// Which target answers which kind of request; the chain, if there is one, comes after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub complexity: Option<ByComplexity>,
    #[serde(flatten)]
    pub policy: Policy,
    #[serde(flatten, skip_serializing)]
    pub(super) unknown: Unknown,
}

/// A target for each level; where one fails, the stronger ones stand in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ByComplexity {
    pub simple: To,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standard: Option<To>,
    pub hard: To,
    /// The share of the strong model's accuracy that is wanted, in per cent.
    #[serde(default = "default_quality")]
    pub quality: u8,
}

fn default_quality() -> u8 {
    complexity::QUALITY
}

impl ByComplexity {
    /// The targets that are strong enough, the weakest first.
    pub fn targets(&self, level: Level) -> impl Iterator<Item = &To> {
        let all = [
            (Level::Simple, Some(&self.simple)),
            (Level::Standard, self.standard.as_ref()),
            (Level::Hard, Some(&self.hard)),
        ];
        all.into_iter().filter(move |(of, _)| *of >= level).filter_map(|(_, to)| to)
    }
}

/// How patiently and how widely a request of this route is tried.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Policy {
    /// Until a new connection stands; absent: the provider's own setting.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_seconds: Option<u64>,
    /// Until the first part of a stream; absent: the provider's own setting.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_token_seconds: Option<u64>,
    /// Between two parts of an answer that has begun; absent: the provider's own setting.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub between_tokens_seconds: Option<u64>,
    /// For the whole request, pauses and the answer's end included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_seconds: Option<u64>,
    /// Rounds over the chain after the first.
    pub retries: u32,
    /// A provider that asks for a longer pause is not waited for.
    pub pause_seconds_max: u32,
    pub clamp: ClampPolicy,
    pub on_expiry: OnExpiry,
    pub prefer: Prefer,
    pub stay_warm: StayWarm,
    /// A second target is asked as well when the first has said nothing for this long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hedge_after_ms: Option<u64>,
    /// What becomes of an input that is too long, before it is sent; absent: the provider says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context_fit: Option<ContextFit>,
    /// Where a request goes whose input is too long for the chain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_context_length: Option<To>,
    /// Where a request goes that the chain's content policy refuses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_content_policy: Option<To>,
    /// What answers when the whole chain has failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub degrade: Option<To>,
    /// Whether answers are given again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<CachePolicy>,
}

/// Which answers are given again, for how long, to whom, and at what price.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CachePolicy {
    pub ttl_seconds: u32,
    /// How much longer it is given where no target answers.
    #[serde(default)]
    pub stale_seconds: u32,
    /// One org's answers are given to others.
    #[serde(default)]
    pub shared: bool,
    /// Only embeddings, and what is asked for at temperature 0.
    #[serde(default = "yes")]
    pub deterministic_only: bool,
    /// Credits that a hit costs.
    #[serde(default)]
    pub price: Credits,
}

fn yes() -> bool {
    true
}

/// One entry of a chain: `"provider/model"`, the name of another route, or a table with either as `to`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "Written")]
pub struct Step {
    pub to: To,
    /// Neighbours with weights share the requests by them, and stand in for each other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    #[serde(skip_serializing_if = "When::is_always")]
    pub when: When,
    #[serde(skip)]
    pub(super) unknown: Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum To {
    Model { provider: String, model: String },
    Route(String),
}

/// What must be so for a step to count. All that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct When {
    /// An org's slug or id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub org: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tools: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub images: Option<bool>,
    /// Tokens of the input, as estimated before it is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_tokens_min: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_tokens_max: Option<u64>,
    /// As judged at the usual quality.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub complexity: Option<Level>,
    #[serde(flatten, skip_serializing)]
    pub(super) unknown: Unknown,
}

/// What a caller gets who named no output limit and can't pay the model's maximum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClampPolicy {
    /// The largest output that is affordable, told in a header.
    #[default]
    Strict,
    /// A refusal that names the largest affordable output.
    Refuse,
}

/// What a request costs if its node died before it could record how the request ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnExpiry {
    /// The most that its input can cost, which was sent.
    #[default]
    ChargeInput,
    /// All that was held: the provider may have answered in full.
    ChargeBound,
    Release,
}

impl OnExpiry {
    /// The policy of a hold whose inputs so far can cost at most this much.
    pub fn of_inputs(self, credits: Credits) -> ExpiryPolicy {
        match self {
            OnExpiry::ChargeInput => ExpiryPolicy::ChargeInput { credits },
            OnExpiry::ChargeBound => ExpiryPolicy::ChargeBound,
            OnExpiry::Release => ExpiryPolicy::Release,
        }
    }
}

/// What becomes of an input that is longer than a model takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContextFit {
    /// By the first target.
    Refuse,
    /// Targets that are too small are passed over.
    LargerModel,
    /// The oldest turns are left out until the first target takes it.
    TrimOldest,
}

/// Which of the targets that may serve goes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prefer {
    #[default]
    AsWritten,
    /// The one that was fastest of late, failures counted as slow.
    Fastest,
}

/// Between which targets a conversation stays with the one that has cached its beginning, where that is cheaper.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StayWarm {
    /// Among targets that share requests by weight, or all where the fastest is preferred.
    #[default]
    AmongEquals,
    /// All: the order of the chain gives way.
    WholeChain,
    Never,
}

impl Policy {
    /// Whether the route leaves it open which of the two serves.
    pub fn are_equal(&self, one_group: usize, other_group: usize) -> bool {
        match self.stay_warm {
            StayWarm::AmongEquals => self.prefer == Prefer::Fastest || one_group == other_group,
            StayWarm::WholeChain => true,
            StayWarm::Never => false,
        }
    }
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            connect_seconds: None,
            first_token_seconds: None,
            between_tokens_seconds: None,
            total_seconds: None,
            retries: 1,
            pause_seconds_max: 10,
            clamp: ClampPolicy::Strict,
            on_expiry: OnExpiry::ChargeInput,
            prefer: Prefer::AsWritten,
            stay_warm: StayWarm::AmongEquals,
            hedge_after_ms: None,
            context_fit: None,
            on_context_length: None,
            on_content_policy: None,
            degrade: None,
            cache: None,
        }
    }
}

/// A request, as far as conditions look at it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RouteContext {
    /// The names by which conditions may mean its org: its id, and its slug.
    pub org: Vec<String>,
    pub project: Option<String>,
    pub key: String,
    pub labels: BTreeMap<String, String>,
    pub has_tools: bool,
    pub has_images: bool,
    pub input_tokens: u64,
    /// What the caller or the text says; none where no route asks.
    pub complexity: Option<Complexity>,
}

/// How complex a request is.
#[derive(Clone, Debug, PartialEq)]
pub enum Complexity {
    /// The caller said so.
    Told(Level),
    Judged(Judged),
}

impl RouteContext {
    /// Hard, where nobody knows.
    pub fn level(&self, quality: u8) -> Level {
        match &self.complexity {
            Some(Complexity::Told(level)) => *level,
            Some(Complexity::Judged(judged)) => judged.level(quality),
            None => Level::Hard,
        }
    }
}

impl When {
    pub fn is_always(&self) -> bool {
        *self == When::default()
    }

    pub fn holds(&self, context: &RouteContext) -> bool {
        self.holds_at_any_level(context)
            && (self.complexity.is_none() || self.complexity == Some(context.level(complexity::QUALITY)))
    }

    /// Whether the request's complexity alone decides.
    pub fn depends_on_level(&self, context: &RouteContext) -> bool {
        self.complexity.is_some() && self.holds_at_any_level(context)
    }

    fn holds_at_any_level(&self, context: &RouteContext) -> bool {
        fn is<T: PartialEq>(wanted: Option<&T>, given: &T) -> bool {
            wanted.is_none_or(|wanted| wanted == given)
        }
        self.org.as_ref().is_none_or(|org| context.org.contains(org))
            && (self.project.is_none() || self.project == context.project)
            && is(self.key.as_ref(), &context.key)
            && self.labels.iter().all(|(name, value)| context.labels.get(name) == Some(value))
            && is(self.tools.as_ref(), &context.has_tools)
            && is(self.images.as_ref(), &context.has_images)
            && self.input_tokens_min.is_none_or(|least| context.input_tokens >= least)
            && self.input_tokens_max.is_none_or(|most| context.input_tokens <= most)
    }
}

impl From<To> for Step {
    fn from(to: To) -> Step {
        Step { to, weight: None, when: When::default(), unknown: Unknown::new() }
    }
}

impl From<String> for To {
    /// A provider's name has no slash; a model's may.
    fn from(text: String) -> To {
        match text.split_once('/') {
            Some((provider, model)) => To::Model { provider: provider.to_owned(), model: model.to_owned() },
            None => To::Route(text),
        }
    }
}

impl From<To> for String {
    fn from(to: To) -> String {
        to.to_string()
    }
}

impl fmt::Display for To {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            To::Model { provider, model } => write!(out, "{provider}/{model}"),
            To::Route(name) => out.write_str(name),
        }
    }
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "a target must be \"provider/model\", a route's name, or { to = \"…\", weight = 1, when = { … } }"
)]
enum Written {
    Short(To),
    Long {
        to: To,
        #[serde(default)]
        weight: Option<u32>,
        #[serde(default)]
        when: When,
        #[serde(flatten)]
        unknown: Unknown,
    },
}

impl From<Written> for Step {
    fn from(written: Written) -> Step {
        match written {
            Written::Short(to) => to.into(),
            Written::Long { to, weight, when, unknown } => Step { to, weight, when, unknown },
        }
    }
}
