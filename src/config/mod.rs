//! The configuration: one TOML file, every value overridable by `TOLLGATE_…`. Everything has a default but upstreams.

mod provider;
mod routes;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use figment::Figment;
use figment::error::{Actual, Kind};
use figment::providers::{Env, Format, Serialized, Toml};
use serde::{Deserialize, Serialize};

pub use crate::config::provider::{ProviderConfig, ProviderKind};
pub use crate::config::routes::Told;
use crate::config::routes::{Lines, read_apart, read_routes, told};
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
    /// How long open connections are waited for once the node was told to stop.
    pub drain_seconds: u64,
    /// Until a connection is closed on which no whole head of a request comes.
    pub idle_connection_seconds: u64,
    /// The first operator key: 32 characters or more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operator_key: Option<String>,
    /// Where limits on requests and tokens a minute are counted.
    pub rate_limits: RateLimits,
    pub providers: Vec<ProviderConfig>,
    /// Names that callers use as models. Read apart, so that every mistake in them is told at once (`read_routes`).
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
    #[error("the configuration can't be read: {}", Unquoted(.0))]
    Unreadable(Box<figment::Error>),
    #[error("the configuration file {0} does not exist")]
    Missing(PathBuf),
    #[error(
        "internal_address is a host and a port at which other nodes reach this one, such as 10.0.0.7:8080"
    )]
    InternalAddress,
    #[error("idle_connection_seconds is 1 or more")]
    IdleConnection,
    #[error("provider {provider}: {why}")]
    Provider { provider: String, why: String },
    #[error("{0}")]
    Prompts(String),
    #[error("{}", Lines(.0))]
    Routes(Vec<Told>),
}

/// What is wrong, without the value: it may be a key.
struct Unquoted<'a>(&'a figment::Error);

impl fmt::Display for Unquoted<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut errors: Vec<figment::Error> = self.0.clone().into_iter().collect();
        for error in &mut errors {
            if let Kind::InvalidType(Actual::Str(value), _) | Kind::InvalidValue(Actual::Str(value), _) =
                &mut error.kind
            {
                "…".clone_into(value);
            }
        }
        let told: Vec<String> = errors.iter().map(figment::Error::to_string).collect();
        out.write_str(&told.join("; "))
    }
}

impl ConfigError {
    /// Of routes that came from no file.
    pub fn of_mistakes(mistakes: Vec<Mistake>) -> ConfigError {
        ConfigError::Routes(mistakes.into_iter().map(|mistake| Told { place: None, mistake }).collect())
    }
}

/// The environment's operator key is taken as it stands: read as a value, some keys would be numbers, or lose a quote.
const OPERATOR_KEY: &str = "TOLLGATE_OPERATOR_KEY";

/// What else `TOLLGATE_…` may override: all of [`Config`].
const ENVIRONMENT: [&str; 12] = [
    "listen",
    "internal_address",
    "database_url",
    "drain_seconds",
    "idle_connection_seconds",
    "rate_limits",
    "providers",
    "routes",
    "successors",
    "prompts",
    "complexity_weights",
    "unreserved_for_measuring",
];

/// Most clients and load balancers keep an idle connection for up to 90 s: it must not be closed under a request that is on
/// its way. Nobody who opens one has shown a key: it is not kept for much longer unless an operator says so.
const IDLE_CONNECTION_SECONDS: u64 = 100;

impl Default for Config {
    fn default() -> Config {
        Config {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            internal_address: None,
            database_url: "sqlite://tollgate.db".into(),
            drain_seconds: 30,
            idle_connection_seconds: IDLE_CONNECTION_SECONDS,
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
        if mistakes.is_empty() { Ok(config) } else { Err(ConfigError::Routes(told(&figment, mistakes))) }
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

    /// Whether nothing is held: a door beside admission (I10), which nothing that costs anybody may stand behind.
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
        if self.idle_connection_seconds == 0 {
            return Err(ConfigError::IdleConnection);
        }
        for (place, provider) in self.providers.iter().enumerate() {
            provider.check()?;
            if self.providers[..place].iter().any(|earlier| earlier.name == provider.name) {
                return Err(provider.error("two providers have this name"));
            }
        }
        Ok(())
    }
}

/// As it stands between `http://` and a path.
fn is_host_and_port(address: &str) -> bool {
    let Some((host, port)) = address.rsplit_once(':') else { return false };
    let is_bare = !host.is_empty() && !host.contains(['/', '@', '?', '#']);
    let is_port = port.parse::<u16>().is_ok_and(|port| port > 0);
    is_bare && is_port && reqwest::Url::parse(&format!("http://{address}")).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::routing::complexity;

    const PROVIDER: &str =
        "[[providers]]\nname = \"openai\"\nkind = \"openai\"\nbase_url = \"http://up\"\napi_key = \"k\"\n";

    fn load(toml: &str) -> Result<Config, ConfigError> {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("tollgate.toml");
        std::fs::write(&file, toml).expect("writes");
        Config::load(Some(&file))
    }

    #[test]
    fn a_file_names_upstreams_and_routes() {
        let config = load(&format!(
            "listen = \"127.0.0.1:0\"\n{PROVIDER}\
             [[routes]]\nname = \"fast\"\nchain = [\"openai/gpt-4o-mini\", {{ to = \"openai/gpt-4o\", weight = 2 }}]\n\
             total_seconds = 30\n[successors]\n\"openai/gpt-4\" = \"openai/gpt-4o\"\n",
        ))
        .expect("reads");

        assert_eq!(config.providers[0].key().expect("a key").as_deref(), Some("k"));
        let routes = config.routing().expect("sound");
        let fast = routes.get("fast").expect("a route");
        assert_eq!((fast.chain.len(), fast.policy.total_seconds), (2, Some(30)));
        assert_eq!(routes.successor("openai", "gpt-4").expect("one").model, "gpt-4o");
    }

    #[test]
    fn three_providers_in_turn_are_four_lines() {
        let providers = ["anthropic", "openai", "gemini"]
            .map(|name| PROVIDER.replace("name = \"openai\"", &format!("name = {name:?}")));
        let route = r#"
            [[routes]]
            name = "assistant"
            chain = ["anthropic/claude-sonnet-4-5", "openai/gpt-4o", "gemini/gemini-2.5-pro"]
        "#;

        let config = load(&format!("{}{route}", providers.concat())).expect("reads");

        assert_eq!(config.routes[0].chain.len(), 3);
    }

    #[test]
    fn the_environment_may_name_every_value() {
        let config = Config { operator_key: Some("k".into()), ..Config::default() };

        let values = serde_json::to_value(config).expect("json");

        let mut names: Vec<&String> = values.as_object().expect("values").keys().collect();
        names.sort();
        let mut known = [&ENVIRONMENT[..], &["operator_key"]].concat();
        known.sort_unstable();
        assert_eq!(names, known);
    }

    #[test]
    fn a_key_that_no_header_can_carry_is_said_and_no_value_is_repeated() {
        let broken = load(&PROVIDER.replace("\"k\"", "\"sk-1\\nsk-2\"")).expect("reads");
        let broken = broken.providers[0].key().expect_err("a line's end").to_string();
        let misread = load("providers = \"sk-secret\"").expect_err("is no list").to_string();

        assert!(broken.contains("no header") && !broken.contains("sk-1"), "{broken}");
        assert!(misread.contains("providers") && !misread.contains("sk-secret"), "{misread}");
    }

    #[test]
    fn what_can_not_be_used_is_said() {
        for (toml, words) in [
            ("lissten = 1", "lissten"),
            ("routes = 7", "written as [[routes]]"),
            ("[[routes]]\nname = \"r\"\nchain = []", "chain is empty"),
            ("[[routes]]\nname = \"r\"\nchain = [\"p/m\"]", "no provider"),
            (&PROVIDER.replace("http://up", "not a url"), "base_url"),
            (&PROVIDER.replace("http://up", "ftp://up"), "base_url"),
            (&PROVIDER.replace("http://up", "http://up/v1"), "write http://up"),
            (&PROVIDER.replace("http://up", "https://up:1/openai/v1/"), "write https://up:1/openai"),
            (&PROVIDER.replace("http://up", "https://up/v1beta?key=secret"), "write https://up"),
            (&PROVIDER.replace("http://up", "https://up/#here"), "write https://up"),
            (&PROVIDER.replace("http://up", "https://me:pw@up/v1"), "write the address alone"),
            ("internal_address = \"http://10.0.0.7:8080\"", "such as 10.0.0.7:8080"),
            (&format!("{PROVIDER}api_key_env = \"K\"\n"), "one of api_key"),
            (&format!("{PROVIDER}idle_timeout_seconds = 0\n"), "timeout"),
            (&format!("{PROVIDER}default_output_tokens = 0\n"), "1 or more"),
            (&format!("{PROVIDER}uplifts = [\"fast\"]\n"), "region_us, region_eu"),
            (&format!("{PROVIDER}uplifts = [\"region_mars\"]\n"), "region_mars"),
        ] {
            let error = load(toml).expect_err(toml).to_string();

            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn an_internal_address_is_a_host_and_a_port() {
        for address in ["10.0.0.7:8080", "node-1:8080", "[::1]:80", "node.internal:65535"] {
            assert!(load(&format!("internal_address = {address:?}")).is_ok(), "{address}");
        }
        for address in [
            "10.0.0.7",
            ":8080",
            "node:0",
            "node:http",
            "node:8080/",
            "me@node:8080",
            "node/path:8080",
            "::1:80",
            "",
        ] {
            assert!(load(&format!("internal_address = {address:?}")).is_err(), "{address}");
        }
    }

    #[test]
    fn a_base_url_may_have_a_path_before_the_version() {
        for url in ["https://up/openai", "https://up/v1/gateway", "http://127.0.0.1:4010/"] {
            assert!(load(&PROVIDER.replace("http://up", url)).is_ok(), "{url}");
        }
    }

    #[test]
    fn weights_of_ones_own_are_read_or_said_to_be_none() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("weights.json");
        let toml = format!("complexity_weights = {file:?}\n");
        let mut own = Model::clone(complexity::shipped());
        own.intercept = 0.5;
        let write = |text: &str| std::fs::write(&file, text).expect("writes");

        let missing = load(&toml).expect_err("no file").to_string();
        write("{}");
        let broken = load(&toml).expect_err("no weights").to_string();
        write(&serde_json::to_string(&own).expect("json"));
        let config = load(&toml).expect("reads");

        assert!(missing.contains("tollgate.toml:1: complexity_weights, "), "{missing}");
        assert!(broken.contains("weights.json: they are no weights: missing field"), "{broken}");
        assert_eq!(**config.routing().expect("sound").weights(), own);
        own.intercept = 0.6;
        write(&serde_json::to_string(&own).expect("json"));
        assert_eq!(**config.routing().expect("sound").weights(), own, "a reload reads them again");
        assert_eq!(Config::default().routing().expect("sound").weights(), complexity::shipped());
    }

    #[test]
    fn a_key_that_is_not_there_is_said_by_its_name() {
        let empty = tempfile::NamedTempFile::new().expect("a file");
        let empty = format!("api_key_file = {:?}", empty.path());
        for (key, words) in [
            ("api_key_env = \"TOLLGATE_TEST_NOT_SET\"", "TOLLGATE_TEST_NOT_SET is not set"),
            ("api_key_file = \"/no/such/file\"", "key file can't be read"),
            ("api_key = \"\"", "api_key is empty"),
            (&empty, "its key file is empty"),
        ] {
            let config = load(&PROVIDER.replace("api_key = \"k\"", key)).expect("reads");

            let error = config.providers[0].key().expect_err("no key").to_string();

            assert!(error.contains("openai") && error.contains(words), "{error}");
        }
        let keyless = load(&PROVIDER.replace("api_key = \"k\"", "")).expect("reads");
        assert_eq!(keyless.providers[0].key().expect("none is needed"), None);
    }

    #[test]
    fn every_mistake_in_the_routes_is_told_at_once_with_its_line() {
        let routes = r#"[[routes]]
name = "a"
chain = [
  "openai/gpt-4o",
  "groq/llama",
  { to = "openai/x", wieght = 3 },
]
retries = "many"

[[routes]]
name = "b"
chain = ["b"]
total_seconds = 0
degrade = "nowhere"

[[routes]]
name = "c"
chain = [{ to = "openai/x", when = { tools = "yes" } }]

[successors]
"openai/old" = "groq/new"
"#;

        let error = load(&format!("{PROVIDER}{routes}")).expect_err("mistakes");

        let ConfigError::Routes(told) = &error else { panic!("{error}") };
        let first = PROVIDER.lines().count();
        let lines: Vec<usize> =
            told.iter().map(|told| told.place.as_ref().expect("a line").1 - first).collect();
        assert_eq!(lines, [5, 6, 8, 12, 13, 14, 18, 21], "{error}");
        for words in
            ["tollgate.toml:", "a loop", "no route \"nowhere\"", "total_seconds is 1 or more", "groq"]
        {
            assert!(error.to_string().contains(words), "{error}");
        }
    }

    #[test]
    fn a_connection_is_kept_for_a_while() {
        let idle = |seconds: u32| {
            load(&format!("idle_connection_seconds = {seconds}")).map(|config| config.idle_connection())
        };

        assert!(idle(620).is_ok_and(|idle| idle.as_secs() == 620));
        assert!(matches!(idle(0), Err(ConfigError::IdleConnection)));
    }

    #[test]
    fn a_server_may_lack_what_no_request_needs() {
        let config = load(&format!("{PROVIDER}lacks = [\"stream_options\"]\n")).expect("reads");
        assert_eq!(config.providers[0].lacks, ["stream_options"]);

        let error = load(&format!("{PROVIDER}lacks = [\"max_tokens\"]\n")).expect_err("a mistake");
        assert!(error.to_string().contains("openai: no request can do without max_tokens"), "{error}");
    }

    #[test]
    fn only_providers_on_this_machine_are_asked_without_a_hold() {
        let unreserved = |base_url: &str| {
            let provider = PROVIDER.replace("http://up", base_url);
            load(&format!("unreserved_for_measuring = true\n{provider}")).map(|config| config.is_unreserved())
        };

        for here in ["http://127.0.0.1:4010", "http://[::1]:4010"] {
            assert!(matches!(unreserved(here), Ok(Ok(true))), "{here}");
        }
        for elsewhere in [
            "https://api.openai.com",
            "http://localhost:4010",
            "http://127.0.0.1:4010@up",
            "http://127.0.0.1.up",
            "http://0.0.0.0:4010",
            "up",
        ] {
            let error = unreserved(elsewhere).expect_err(elsewhere).to_string();
            assert!(error.contains("openai: unreserved_for_measuring"), "{error}");
        }
        assert!(load(PROVIDER).expect("reads").is_unreserved().is_ok_and(|is_unreserved| !is_unreserved));
    }

    #[test]
    fn a_header_that_can_not_be_one_is_refused() {
        assert!(load(&format!("{PROVIDER}api_key_header = \"api-key\"\n")).is_ok());
        let error = load(&format!("{PROVIDER}api_key_header = \"api key\"\n")).expect_err("a mistake");
        assert!(error.to_string().contains("openai: api_key_header is no header's name"), "{error}");
    }
}
