//! One upstream: how it is reached, what it speaks, and its key.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

use crate::config::{ConfigError, check_seconds};
use crate::domain::pricing::rate_card::Uplift;

/// What a request is, and what bounds its cost.
const NEEDED: [&str; 8] =
    ["model", "messages", "input", "contents", "stream", "max_output_tokens", "generationConfig", "n"];

/// Where OpenAI and Azure serve OpenAI's chats, a region's own hosts below them included.
const OPENAI_HOSTS: [&str; 7] = [
    "api.openai.com",
    "openai.azure.com",
    "cognitiveservices.azure.com",
    "openai.azure.us",
    "cognitiveservices.azure.us",
    "openai.azure.cn",
    "cognitiveservices.azure.cn",
];

/// Below this Alibaba serves all that it has, its Model Studio under names such as `dashscope-intl` and, per workspace, `maas`.
const ALIBABA_HOST: &str = ".aliyuncs.com";

/// Longest name of an environment variable that is repeated.
const VARIABLE_MAX: usize = 64;

/// One upstream.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderConfig {
    pub name: String,
    pub kind: ProviderKind,
    /// Without the version: `/v1`, or Gemini's `/v1beta`.
    pub base_url: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key: Option<String>,
    /// The name of the environment variable that holds the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_env: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_file: Option<PathBuf>,
    /// The header in which the key goes as it is, such as Azure's `api-key`; absent: as the family sends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_header: Option<String>,
    /// Fields that this server refuses and others read: they are left out of what is sent to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lacks: Vec<String>,
    /// Whose rate cards price this upstream, where its own name has none: a second account at the same provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prices_of: Option<String>,
    /// Where this upstream serves, by which the cards of its models may raise their rates.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub uplifts: BTreeSet<Uplift>,
    /// The output limit of requests that name none; the model's maximum when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_output_tokens: Option<u64>,
    #[serde(default = "connect_timeout_seconds")]
    pub connect_timeout_seconds: u64,
    /// Until a stream's first part, or the end of an answer in one piece; a long reasoning call is silent for minutes.
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
    /// OpenAI's chat completions, and the many servers that speak them.
    Openai,
    /// OpenAI's responses.
    OpenaiResponses,
    Anthropic,
    Gemini,
}

/// The field in which a server of OpenAI's chats reads the output limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChatLimit {
    /// What the many compatible servers read. DeepSeek, Ollama and others ignore the other one without a word.
    MaxTokens,
    /// What OpenAI reads of all its models; those that reason refuse the other one.
    MaxCompletionTokens,
}

impl ChatLimit {
    pub const fn field(self) -> &'static str {
        match self {
            ChatLimit::MaxTokens => "max_tokens",
            ChatLimit::MaxCompletionTokens => "max_completion_tokens",
        }
    }
}

/// Repeats the name only where it can be a variable's: it may be the key itself, given in the wrong place.
fn variable_not_set(name: &str) -> String {
    let is_variable = |letter: char| letter.is_ascii_uppercase() || letter.is_ascii_digit() || letter == '_';
    match name.len() <= VARIABLE_MAX && name.chars().all(is_variable) {
        true => format!("the environment variable {name} is not set"),
        false => {
            "api_key_env names no environment variable that is set; it takes the variable's name, not the key"
                .into()
        }
    }
}

fn connect_timeout_seconds() -> u64 {
    5
}

fn first_byte_timeout_seconds() -> u64 {
    300
}

fn idle_timeout_seconds() -> u64 {
    120
}

impl ProviderConfig {
    /// What a file that says no more makes of it.
    pub fn new(name: &str, kind: ProviderKind, base_url: String) -> ProviderConfig {
        ProviderConfig {
            name: name.to_owned(),
            kind,
            base_url,
            api_key: None,
            api_key_env: None,
            api_key_file: None,
            api_key_header: None,
            lacks: Vec::new(),
            prices_of: None,
            uplifts: BTreeSet::new(),
            default_output_tokens: None,
            connect_timeout_seconds: connect_timeout_seconds(),
            first_byte_timeout_seconds: first_byte_timeout_seconds(),
            idle_timeout_seconds: idle_timeout_seconds(),
        }
    }

    /// The key to send: given, or from the environment, or from a file; none where none is named.
    ///
    /// # Errors
    /// A variable or file that is named and can't be read; a key that is empty, or that no header can carry.
    pub fn key(&self) -> Result<Option<String>, ConfigError> {
        let Some((source, key)) = self.given_key()? else { return Ok(None) };
        if key.trim().is_empty() {
            return Err(
                self.error(&format!("{source} is empty: a provider without a key has none of the three"))
            );
        }
        match HeaderValue::try_from(&key) {
            Ok(_) => Ok(Some(key)),
            Err(_) => {
                Err(self.error("its key contains a character that no header can carry, such as a line break"))
            }
        }
    }

    /// The key and where it comes from.
    fn given_key(&self) -> Result<Option<(String, String)>, ConfigError> {
        if let Some(key) = &self.api_key {
            return Ok(Some(("api_key".to_owned(), key.clone())));
        }
        if let Some(name) = &self.api_key_env {
            let key = std::env::var(name).map_err(|_| self.error(&variable_not_set(name)))?;
            return Ok(Some((format!("the environment variable {name}"), key)));
        }
        if let Some(file) = &self.api_key_file {
            let key = std::fs::read_to_string(file)
                .map_err(|error| self.error(&format!("its key file can't be read: {error}")))?;
            return Ok(Some(("its key file".to_owned(), key.trim().to_owned())));
        }
        Ok(None)
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.name.is_empty() || self.name.contains('/') {
            return Err(self.error("a provider's name must not be empty or contain a slash"));
        }
        self.check_base_url()?;
        if self.api_key_header.as_ref().is_some_and(|name| HeaderName::try_from(name).is_err()) {
            return Err(self.error("api_key_header must be the name of a header"));
        }
        let is_needed = |field: &&String| {
            NEEDED.contains(&field.as_str())
                || (*field == ChatLimit::MaxTokens.field() && !self.can_lack_max_tokens())
        };
        if let Some(field) = self.lacks.iter().find(is_needed) {
            return Err(self.error(&format!("`lacks` must not name {field}: every request needs it")));
        }
        let keys = [self.api_key.is_some(), self.api_key_env.is_some(), self.api_key_file.is_some()];
        if keys.into_iter().filter(|is_given| *is_given).count() > 1 {
            return Err(
                self.error("its key must come from only one of api_key, api_key_env and api_key_file")
            );
        }
        if self.uplifts.contains(&Uplift::Fast) {
            let why = "its uplifts must be region_us, region_eu or regional_endpoint; fast mode is asked for by each request";
            return Err(self.error(why));
        }
        if self.default_output_tokens == Some(0) {
            return Err(self.error("default_output_tokens must be at least 1"));
        }
        for (name, seconds) in [
            ("connect_timeout_seconds", self.connect_timeout_seconds),
            ("first_byte_timeout_seconds", self.first_byte_timeout_seconds),
            ("idle_timeout_seconds", self.idle_timeout_seconds),
        ] {
            check_seconds(name, seconds, 1).map_err(|error| self.error(&error.to_string()))?;
        }
        Ok(())
    }

    /// The family's path is put behind it, version included; a second version or a query would be in its way.
    fn check_base_url(&self) -> Result<(), ConfigError> {
        let url = reqwest::Url::parse(&self.base_url).ok();
        let Some(mut url) = url.filter(|url| ["http", "https"].contains(&url.scheme())) else {
            return Err(self.error("base_url must be written as https://host or http://host:port"));
        };
        let path = url.path().trim_end_matches('/').to_owned();
        let unversioned = ["/v1", "/v1beta"].iter().find_map(|version| path.strip_suffix(version));
        if unversioned.is_none() && url.query().is_none() && url.fragment().is_none() {
            return Ok(());
        }
        url.set_path(unversioned.unwrap_or(&path));
        url.set_query(None);
        url.set_fragment(None);
        // A user name or a password in it is not repeated.
        let has_secret = !url.username().is_empty() || url.password().is_some();
        let instead = if has_secret {
            "the address alone".to_owned()
        } else {
            url.as_str().trim_end_matches('/').to_owned()
        };
        Err(self.error(&format!(
            "base_url must end before the version, and have no query or fragment: write {instead}"
        )))
    }

    /// An output limit needs one of two fields in chats, and has this one alone elsewhere.
    fn can_lack_max_tokens(&self) -> bool {
        self.kind == ProviderKind::Openai && !self.lacks_limit(ChatLimit::MaxCompletionTokens)
    }

    fn lacks_limit(&self, limit: ChatLimit) -> bool {
        self.lacks.iter().any(|field| field == limit.field())
    }

    /// What is left out of what is sent there: an output limit that it lacks goes in the other field.
    pub fn left_out(&self) -> impl Iterator<Item = &str> {
        let limits = [ChatLimit::MaxTokens, ChatLimit::MaxCompletionTokens].map(ChatLimit::field);
        let moves = move |field: &&str| self.kind == ProviderKind::Openai && limits.contains(field);
        self.lacks.iter().map(String::as_str).filter(move |field| !moves(field))
    }

    /// How a chat's output limit is sent there; `None` where that depends on the model. A server that is not known to be OpenAI's
    /// gets the field that none ignores: a refusal is seen at once, and cured by `lacks`; a limit that is ignored is a loss
    /// that nobody sees.
    pub fn chat_limit(&self) -> Option<ChatLimit> {
        if self.lacks_limit(ChatLimit::MaxTokens) {
            return Some(ChatLimit::MaxCompletionTokens);
        }
        if self.lacks_limit(ChatLimit::MaxCompletionTokens) {
            return Some(ChatLimit::MaxTokens);
        }
        if self.is_at_alibaba() {
            return None;
        }
        match self.priced_as() == "openai" || self.is_at_openai() {
            true => Some(ChatLimit::MaxCompletionTokens),
            false => Some(ChatLimit::MaxTokens),
        }
    }

    fn is_at_openai(&self) -> bool {
        let host = self.host();
        OPENAI_HOSTS.iter().any(|known| {
            host.strip_suffix(known).is_some_and(|before| before.is_empty() || before.ends_with('.'))
        })
    }

    /// Whether it is Alibaba's Model Studio, where an output limit need not bound what a model thinks.
    pub fn is_at_alibaba(&self) -> bool {
        let is_model_studio = |label: &str| label == "maas" || label.starts_with("dashscope");
        self.host().strip_suffix(ALIBABA_HOST).is_some_and(|before| before.split('.').any(is_model_studio))
    }

    /// In lower case; empty where the address has none.
    fn host(&self) -> String {
        let url = reqwest::Url::parse(&self.base_url).ok();
        url.as_ref().and_then(|url| url.host_str()).unwrap_or_default().to_owned()
    }

    /// Whose rate cards price its calls.
    pub fn priced_as(&self) -> &str {
        self.prices_of.as_deref().unwrap_or(&self.name)
    }

    /// By its address: a name may lead anywhere.
    pub fn is_on_this_machine(&self) -> bool {
        self.host().trim_matches(['[', ']']).parse().is_ok_and(|address: IpAddr| address.is_loopback())
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
