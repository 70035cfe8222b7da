//! The configuration: one TOML file, every value overridable by `TOLLGATE_…`. Everything has a default but upstreams.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use figment::Figment;
use figment::providers::{Env, Format, Serialized, Toml};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub listen: SocketAddr,
    /// Host and port at which other nodes of the same database reach this one; what it listens on when absent.
    pub internal_address: Option<String>,
    /// `sqlite://` and a path; a missing file is created.
    pub database_url: String,
    /// The first operator key: 32 characters or more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operator_key: Option<String>,
    pub providers: Vec<ProviderConfig>,
    pub routes: Vec<RouteConfig>,
}

/// One upstream.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderConfig {
    pub name: String,
    pub kind: ProviderKind,
    /// Without `/v1`.
    pub base_url: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key: Option<String>,
    /// The name of the environment variable that holds the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_env: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_file: Option<PathBuf>,
    /// Whose rate cards price this upstream, where its own name has none: a second account at the same provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prices_of: Option<String>,
    #[serde(default = "connect_timeout_seconds")]
    pub connect_timeout_seconds: u64,
    /// Until the answer's first byte; a long reasoning call is silent for minutes.
    #[serde(default = "first_byte_timeout_seconds")]
    pub first_byte_timeout_seconds: u64,
    /// Between two parts of an answer that has begun.
    #[serde(default = "idle_timeout_seconds")]
    pub idle_timeout_seconds: u64,
}

/// What an upstream speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProviderKind {
    Openai,
    Anthropic,
}

/// A model's name as callers say it, and where its requests go, in order.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteConfig {
    pub name: String,
    pub chain: Vec<TargetConfig>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetConfig {
    pub provider: String,
    pub model: String,
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("the configuration can't be read: {0}")]
    Unreadable(Box<figment::Error>),
    #[error("the configuration file {0} does not exist")]
    Missing(PathBuf),
    #[error("the operator key must have 32 characters or more")]
    ShortOperatorKey,
    #[error("provider {provider}: {why}")]
    Provider { provider: String, why: String },
    #[error("route {route}: {why}")]
    Route { route: String, why: String },
}

const OPERATOR_KEY_CHARACTERS_MIN: usize = 32;

fn connect_timeout_seconds() -> u64 {
    5
}

fn first_byte_timeout_seconds() -> u64 {
    300
}

fn idle_timeout_seconds() -> u64 {
    120
}

impl Default for Config {
    fn default() -> Config {
        Config {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            internal_address: None,
            database_url: "sqlite://tollgate.db".into(),
            operator_key: None,
            providers: Vec::new(),
            routes: Vec::new(),
        }
    }
}

impl Config {
    /// Defaults, then the file, then the environment.
    ///
    /// # Errors
    /// A file that is missing or not understood, a value that can't be used; in words for the operator.
    pub fn load(file: Option<&Path>) -> Result<Config, ConfigError> {
        let mut figment = Figment::from(Serialized::defaults(Config::default()));
        if let Some(file) = file {
            if !file.is_file() {
                return Err(ConfigError::Missing(file.to_owned()));
            }
            figment = figment.merge(Toml::file_exact(file));
        }
        // Named one by one: the environment also holds variables for other tools, such as TOLLGATE_SHARED.
        let environment = Env::prefixed("TOLLGATE_").only(&[
            "listen",
            "internal_address",
            "database_url",
            "operator_key",
            "providers",
            "routes",
        ]);
        let config: Config =
            figment.merge(environment).extract().map_err(|error| ConfigError::Unreadable(Box::new(error)))?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        if self.operator_key.as_ref().is_some_and(|key| key.chars().count() < OPERATOR_KEY_CHARACTERS_MIN) {
            return Err(ConfigError::ShortOperatorKey);
        }
        for (place, provider) in self.providers.iter().enumerate() {
            if self.providers[..place].iter().any(|earlier| earlier.name == provider.name) {
                return Err(provider.error("two providers have this name"));
            }
        }
        for route in &self.routes {
            let error = |why: String| ConfigError::Route { route: route.name.clone(), why };
            if route.chain.is_empty() {
                return Err(error("its chain is empty".into()));
            }
            for target in &route.chain {
                if !self.providers.iter().any(|provider| provider.name == target.provider) {
                    return Err(error(format!("there is no provider {:?}", target.provider)));
                }
            }
        }
        Ok(())
    }
}

impl ProviderConfig {
    /// The key to send: given, or from the environment, or from a file; empty where none is named.
    ///
    /// # Errors
    /// A variable or file that is named and can't be read.
    pub fn key(&self) -> Result<String, ConfigError> {
        if let Some(key) = &self.api_key {
            return Ok(key.clone());
        }
        if let Some(name) = &self.api_key_env {
            return std::env::var(name)
                .map_err(|_| self.error(&format!("the environment variable {name} is not set")));
        }
        if let Some(file) = &self.api_key_file {
            return std::fs::read_to_string(file)
                .map(|key| key.trim().to_owned())
                .map_err(|error| self.error(&format!("its key file can't be read: {error}")));
        }
        Ok(String::new())
    }

    /// Whose rate cards price its calls.
    pub fn priced_as(&self) -> &str {
        self.prices_of.as_deref().unwrap_or(&self.name)
    }

    pub fn connect_timeout(&self) -> Duration {
        Duration::from_secs(self.connect_timeout_seconds)
    }

    pub fn first_byte_timeout(&self) -> Duration {
        Duration::from_secs(self.first_byte_timeout_seconds)
    }

    pub fn idle_timeout(&self) -> Duration {
        Duration::from_secs(self.idle_timeout_seconds)
    }

    pub fn error(&self, why: &str) -> ConfigError {
        ConfigError::Provider { provider: self.name.clone(), why: why.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(toml: &str) -> Result<Config, ConfigError> {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("tollgate.toml");
        std::fs::write(&file, toml).expect("writes");
        Config::load(Some(&file))
    }

    #[test]
    fn a_file_names_upstreams_and_routes() {
        let config = load(
            "listen = \"127.0.0.1:0\"\n[[providers]]\nname = \"openai\"\nkind = \"openai\"\nbase_url = \"http://up\"\napi_key = \"k\"\n\
             [[routes]]\nname = \"fast\"\nchain = [{ provider = \"openai\", model = \"gpt-4o-mini\" }]\n",
        )
        .expect("reads");

        assert_eq!(config.providers[0].key().expect("a key"), "k");
        assert_eq!(config.routes[0].chain[0].model, "gpt-4o-mini");
    }

    #[test]
    fn what_can_not_be_used_is_said() {
        for (toml, words) in [
            ("lissten = 1", "lissten"),
            ("operator_key = \"short\"", "32 characters"),
            ("[[routes]]\nname = \"r\"\nchain = []", "chain is empty"),
            ("[[routes]]\nname = \"r\"\nchain = [{ provider = \"p\", model = \"m\" }]", "no provider"),
        ] {
            let error = load(toml).expect_err(toml).to_string();

            assert!(error.contains(words), "{error}");
        }
    }
}
