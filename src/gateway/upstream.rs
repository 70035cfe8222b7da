//! A configured provider with its connections.

use std::sync::Arc;

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use reqwest::RequestBuilder;

use crate::config::{ChatLimit, ConfigError, ProviderConfig, ProviderKind};
use crate::gateway::dialects::Family;
use crate::gateway::{betas, providers};
use crate::http_client;

#[derive(Debug)]
pub struct Upstream {
    pub config: ProviderConfig,
    pub family: Family,
    /// How a chat's output limit is sent there.
    pub chat_limit: ChatLimit,
    /// Sends the key and the content's type with each call.
    http: reqwest::Client,
}

pub fn family(kind: ProviderKind) -> Family {
    match kind {
        ProviderKind::Openai => Family::OpenaiChat,
        ProviderKind::OpenaiResponses => Family::OpenaiResponses,
        ProviderKind::Anthropic => Family::Anthropic,
        ProviderKind::Gemini => Family::Gemini,
    }
}

impl Upstream {
    pub fn new(config: &ProviderConfig) -> Result<Arc<Upstream>, ConfigError> {
        let http = http_client::builder()
            .default_headers(own_headers(config)?)
            .connect_timeout(config.connect_timeout())
            .redirect(reqwest::redirect::Policy::none())
            .tcp_nodelay(true);
        // A proxy leads to no loopback address.
        let http = if config.is_on_this_machine() { http.no_proxy() } else { http };
        let http = http
            .build()
            .map_err(|error| config.error(&format!("its connections can't be set up: {error}")))?;
        let family = family(config.kind);
        let chat_limit = config.chat_limit();
        Ok(Arc::new(Upstream { family, chat_limit, http, config: config.clone() }))
    }

    /// A call to one of its paths, with these of Anthropic's beta names.
    pub fn post(&self, path: &str, body: impl Into<reqwest::Body>, betas: &[String]) -> RequestBuilder {
        let url = format!("{}{path}", self.config.base_url.trim_end_matches('/'));
        let call = self.http.post(url).body(body);
        if betas.is_empty() { call } else { call.header(betas::HEADER, betas.join(",")) }
    }
}

/// The headers of every call to it.
fn own_headers(config: &ProviderConfig) -> Result<HeaderMap, ConfigError> {
    let mut headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
    let (family, key) = (family(config.kind), config.key()?);
    for (name, value) in providers::auth_headers(family, config.api_key_header.as_deref(), key.as_deref()) {
        let (Ok(name), Ok(mut value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) else {
            return Err(config.error("its key can't be sent in this header"));
        };
        // No log tells it.
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}
