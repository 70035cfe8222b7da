//! The configuration: one TOML file, every value overridable by `TOLLGATE_…`. Everything has a default but upstreams.

mod provider;
mod reading;
mod routes;
mod unheeded;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use figment::Figment;
use figment::providers::{Env, Format, Serialized, Toml};
use serde::{Deserialize, Serialize};

pub use crate::config::provider::{ChatLimit, ProviderConfig, ProviderKind};
use crate::config::reading::{Masked, check_syntax};
pub use crate::config::routes::LocatedMistake;
use crate::config::routes::{Lines, locate, read_apart, read_routes};
use crate::domain::prompts::{Template, Templates};
use crate::domain::routing::complexity::Model;
use crate::domain::routing::{Mistake, Route, Routes, To};

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub listen: SocketAddr,
    /// Host and port at which other nodes of the same database reach this one; what it listens on when absent.
    pub internal_address: Option<String>,
    /// `sqlite://` and a path; a missing file is created.
    pub database_url: String,
    /// How long new connections are still taken once the node is asked to stop, and says that it is not ready.
    pub accept_grace_seconds: u64,
    /// How long open connections are waited for after that.
    pub drain_seconds: u64,
    /// Until a connection is closed on which no complete request head arrives.
    pub idle_connection_seconds: u64,
    /// What the bodies of all requests to `/v1` that run may take of a node's memory; of one org at most what it leaves.
    pub body_memory_mebibytes: u32,
    /// The first operator key: 32 characters or more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operator_key: Option<String>,
    /// Where limits on requests and tokens a minute are counted.
    pub rate_limits: RateLimits,
    pub providers: Vec<ProviderConfig>,
    /// Names that callers use as models. Read separately, so that all mistakes in them are reported at once (`read_routes`).
    #[serde(deserialize_with = "read_apart")]
    pub routes: Vec<Route>,
    /// Texts that requests name instead of sending them.
    pub prompts: Vec<Template>,
    /// Models that are no more, as `provider/model`, and what answers in their place.
    pub successors: BTreeMap<String, To>,
    /// The weights that judge how complex a request is, as `tollgate router train` makes them; those that come with Tollgate
    /// when absent.
    pub complexity_weights: Option<PathBuf>,
    /// Nothing is held, charged or recorded: only to measure what that costs, and only before providers on this machine.
    pub unreserved_for_measuring: bool,
}

/// Where limits on rates are counted: `docs/LIMITS.md` says what each promises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RateLimits {
    /// Each node lets through what a limit allows.
    #[default]
    PerNode,
    /// All nodes of a PostgreSQL database do together.
    Shared,
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("the configuration can't be read: {}", Masked(.0))]
    Unreadable(Box<figment::Error>),
    #[error("{}:{line}:{column}: {why}", file.display())]
    Syntax { file: PathBuf, line: usize, column: usize, why: String },
    #[error("the configuration file {} can't be read: {why}", file.display())]
    File { file: PathBuf, why: std::io::Error },
    #[error("the configuration file {0} does not exist")]
    Missing(PathBuf),
    #[error(
        "internal_address must be a host and a port at which other nodes reach this one, such as 10.0.0.7:8080"
    )]
    InternalAddress,
    #[error("{name} must be between {least} and {SECONDS_MAX}")]
    Seconds { name: &'static str, least: u64 },
    #[error(
        "body_memory_mebibytes must be at least {BODY_MEMORY_MEBIBYTES_MIN}: a body takes up to 71, an org at most half"
    )]
    BodyMemory,
    #[error("provider {provider}: {why}")]
    Provider { provider: String, why: String },
    #[error("{0}")]
    Prompts(String),
    #[error("{}", Lines(.0))]
    Routes(Vec<LocatedMistake>),
}

impl ConfigError {
    /// The error for routes that came from no file.
    pub fn of_mistakes(mistakes: Vec<Mistake>) -> ConfigError {
        let unlocated = |mistake| LocatedMistake { place: None, mistake };
        ConfigError::Routes(mistakes.into_iter().map(unlocated).collect())
    }
}

/// The environment's operator key is taken verbatim: parsed as a value, some keys would be numbers, or lose a quote.
const OPERATOR_KEY: &str = "TOLLGATE_OPERATOR_KEY";

/// What else `TOLLGATE_…` may override: all of [`Config`].
const ENVIRONMENT: [&str; 14] = [
    "listen",
    "internal_address",
    "database_url",
    "accept_grace_seconds",
    "drain_seconds",
    "idle_connection_seconds",
    "body_memory_mebibytes",
    "rate_limits",
    "providers",
    "routes",
    "successors",
    "prompts",
    "complexity_weights",
    "unreserved_for_measuring",
];

/// Most clients and load balancers keep an idle connection for up to 90 s: it must not be closed under a request that is on
/// its way. Opening one takes no key, so it stays open for not much longer by default.
const IDLE_CONNECTION_SECONDS: u64 = 100;

/// A thousand of the longest conversations at once, of half a megabyte each, for one org.
const BODY_MEMORY_MEBIBYTES: u32 = 1_024;
/// With less, the longest body that is taken, with the most values that it may have, would find no room.
const BODY_MEMORY_MEBIBYTES_MIN: u32 = 144;

/// The longest time that a setting may give, a day: hyper panics where a time added to the present one overflows.
const SECONDS_MAX: u64 = 86_400;

impl Default for Config {
    fn default() -> Config {
        Config {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            internal_address: None,
            database_url: "sqlite://tollgate.db".into(),
            accept_grace_seconds: 0,
            drain_seconds: 30,
            idle_connection_seconds: IDLE_CONNECTION_SECONDS,
            body_memory_mebibytes: BODY_MEMORY_MEBIBYTES,
            operator_key: None,
            rate_limits: RateLimits::default(),
            providers: Vec::new(),
            routes: Vec::new(),
            prompts: Vec::new(),
            successors: BTreeMap::new(),
            complexity_weights: None,
            unreserved_for_measuring: false,
        }
    }
}

impl Config {
    pub fn idle_connection(&self) -> Duration {
        Duration::from_secs(self.idle_connection_seconds)
    }

    pub fn body_memory_bytes(&self) -> usize {
        usize::try_from(self.body_memory_mebibytes).unwrap_or(usize::MAX).saturating_mul(1 << 20)
    }

    pub fn is_on_sqlite(&self) -> bool {
        self.database_url.starts_with("sqlite://")
    }

    /// Defaults, then the file, then the environment.
    ///
    /// # Errors
    /// A file that is missing or not understood, a value that can't be used; in words for the operator.
    pub fn load(file: Option<&Path>) -> Result<Config, ConfigError> {
        let mut figment = Figment::from(Serialized::defaults(Config::default()));
        if let Some(file) = file {
            if !file.exists() {
                return Err(ConfigError::Missing(file.to_owned()));
            }
            check_syntax(file)?;
            figment = figment.merge(Toml::file_exact(file));
        }
        // Named one by one: the environment also holds variables for other tools, such as TOLLGATE_SHARED.
        let environment = Env::prefixed("TOLLGATE_").only(&ENVIRONMENT);
        let mut figment = figment.merge(environment);
        if let Ok(key) = std::env::var(OPERATOR_KEY) {
            figment = figment.merge(Serialized::default("operator_key", key));
        }
        let mut config: Config =
            figment.extract().map_err(|error| ConfigError::Unreadable(Box::new(error)))?;
        config.check()?;
        let (routes, mut mistakes) = read_routes(&figment);
        config.routes = routes;
        let misread: BTreeSet<Vec<String>> = mistakes.iter().map(|mistake| mistake.path.clone()).collect();
        let more = config.routing().err().into_iter().flatten();
        mistakes.extend(more.filter(|mistake| !misread.contains(&mistake.path)));
        if mistakes.is_empty() { Ok(config) } else { Err(ConfigError::Routes(locate(&figment, mistakes))) }
    }

    /// The routing table that the routes make, with the weights as their file has them now.
    ///
    /// # Errors
    /// Every mistake in them.
    pub fn routing(&self) -> Result<Routes, Vec<Mistake>> {
        let providers: Vec<&str> = self.providers.iter().map(|provider| provider.name.as_str()).collect();
        let routes = Routes::new(self.routes.clone(), self.successors.clone(), &providers);
        match (routes, self.weights()) {
            (Ok(routes), Ok(None)) => Ok(routes),
            (Ok(routes), Ok(Some(weights))) => Ok(routes.judged_by(weights)),
            (routes, weights) => {
                let mistakes = routes.err().into_iter().flatten();
                Err(mistakes.chain(weights.err()).collect())
            }
        }
    }

    fn weights(&self) -> Result<Option<Model>, Mistake> {
        let Some(file) = &self.complexity_weights else { return Ok(None) };
        let text = std::fs::read_to_string(file).map_err(|error| error.to_string());
        text.and_then(|text| Model::from_json(&text)).map(Some).map_err(|why| Mistake {
            path: vec!["complexity_weights".to_owned()],
            why: format!("complexity_weights, {}: {why}", file.display()),
        })
    }

    /// The templates that the prompts make.
    ///
    /// # Errors
    /// The first mistake in them.
    pub fn templates(&self) -> Result<Templates, ConfigError> {
        Templates::new(self.prompts.clone()).map_err(ConfigError::Prompts)
    }

    /// Whether nothing is held: requests then bypass admission (I10), so no provider that costs money may be configured.
    ///
    /// # Errors
    /// A provider elsewhere than on this machine.
    pub fn is_unreserved(&self) -> Result<bool, ConfigError> {
        let elsewhere = self.providers.iter().find(|provider| !provider.is_on_this_machine());
        match elsewhere.filter(|_| self.unreserved_for_measuring) {
            Some(provider) => Err(provider.error(
                "unreserved_for_measuring is only for providers at a loopback address, such as `tollgate simulate`",
            )),
            None => Ok(self.unreserved_for_measuring),
        }
    }

    fn check(&self) -> Result<(), ConfigError> {
        self.templates()?;
        self.is_unreserved()?;
        if self.internal_address.as_deref().is_some_and(|address| !is_host_and_port(address)) {
            return Err(ConfigError::InternalAddress);
        }
        check_seconds("accept_grace_seconds", self.accept_grace_seconds, 0)?;
        check_seconds("drain_seconds", self.drain_seconds, 0)?;
        check_seconds("idle_connection_seconds", self.idle_connection_seconds, 1)?;
        if self.body_memory_mebibytes < BODY_MEMORY_MEBIBYTES_MIN {
            return Err(ConfigError::BodyMemory);
        }
        for (place, provider) in self.providers.iter().enumerate() {
            provider.check()?;
            provider.key()?;
            if self.providers[..place].iter().any(|earlier| earlier.name == provider.name) {
                return Err(provider.error("two providers have this name"));
            }
        }
        Ok(())
    }
}

fn check_seconds(name: &'static str, seconds: u64, least: u64) -> Result<(), ConfigError> {
    match (least..=SECONDS_MAX).contains(&seconds) {
        true => Ok(()),
        false => Err(ConfigError::Seconds { name, least }),
    }
}

/// What may come between `http://` and a path.
fn is_host_and_port(address: &str) -> bool {
    let Some((host, port)) = address.rsplit_once(':') else { return false };
    let is_bare = !host.is_empty() && !host.contains(['/', '@', '?', '#']);
    let is_port = port.parse::<u16>().is_ok_and(|port| port > 0);
    is_bare && is_port && reqwest::Url::parse(&format!("http://{address}")).is_ok()
}
