//! A configured provider with its connections.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
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
    /// How a chat's output limit is sent there; `None` where that depends on the model.
    pub chat_limit: Option<ChatLimit>,
    /// No output limit bounds what its models think, unless more is known.
    pub is_alibabas: bool,
    /// The headers of every call.
    headers: HeaderMap,
    http: reqwest::Client,
    /// For routes that give a new connection another time than the provider's: a client has one such time.
    http_of_routes: ArcSwap<BTreeMap<Duration, reqwest::Client>>,
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
        let headers = own_headers(config)?;
        Ok(Arc::new(Upstream {
            family: family(config.kind),
            chat_limit: config.chat_limit(),
            is_alibabas: config.is_at_alibaba(),
            http: client(config, &headers, config.connect_timeout())?,
            http_of_routes: ArcSwap::default(),
            headers,
            config: config.clone(),
        }))
    }

    /// Makes ready for the connect timeouts of the routes; those that it knows already keep their connections.
    pub fn set_connect_timeouts(&self, of_routes: &BTreeSet<Duration>) -> Result<(), ConfigError> {
        let known = self.http_of_routes.load();
        let others = of_routes.iter().filter(|connect| **connect != self.config.connect_timeout());
        let clients = others.map(|connect| match known.get(connect) {
            Some(known) => Ok((*connect, known.clone())),
            None => Ok((*connect, client(&self.config, &self.headers, *connect)?)),
        });
        self.http_of_routes.store(Arc::new(clients.collect::<Result<_, ConfigError>>()?));
        Ok(())
    }

    /// A call to one of its paths, with these of Anthropic's beta names. A connect timeout that no route names any more is
    /// the provider's own.
    pub fn post(
        &self,
        connect: Duration,
        path: &str,
        body: impl Into<reqwest::Body>,
        betas: &[String],
    ) -> RequestBuilder {
        let url = format!("{}{path}", self.config.base_url.trim_end_matches('/'));
        let of_routes = self.http_of_routes.load();
        let call = of_routes.get(&connect).unwrap_or(&self.http).post(url).body(body);
        if betas.is_empty() { call } else { call.header(betas::HEADER, betas.join(",")) }
    }
}

fn client(
    config: &ProviderConfig,
    headers: &HeaderMap,
    connect: Duration,
) -> Result<reqwest::Client, ConfigError> {
    let http = http_client::builder()
        .default_headers(headers.clone())
        .connect_timeout(connect)
        .redirect(reqwest::redirect::Policy::none())
        .tcp_nodelay(true);
    // A proxy leads to no loopback address.
    let http = if config.is_on_this_machine() { http.no_proxy() } else { http };
    http.build().map_err(|error| config.error(&format!("its connections can't be set up: {error}")))
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

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::gateway::tests::world::full_listener;

    /// How long it waited for a connection, by the clock of the test.
    async fn waited(upstream: &Upstream, connect_seconds: u64) -> u64 {
        let since = Instant::now();
        let call = upstream.post(Duration::from_secs(connect_seconds), "/", "", &[]).send();
        assert!(call.await.expect_err("nobody accepts").is_connect());
        since.elapsed().as_secs()
    }

    #[tokio::test]
    async fn a_route_may_give_a_new_connection_another_time_than_the_provider() {
        let (address, _full) = full_listener().await;
        tokio::time::pause();
        let config = ProviderConfig {
            connect_timeout_seconds: 60,
            ..ProviderConfig::new("p", ProviderKind::Openai, format!("http://{address}"))
        };
        let upstream = Upstream::new(&config).expect("an upstream");
        let seconds = |of_routes: &[u64]| of_routes.iter().copied().map(Duration::from_secs).collect();

        upstream.set_connect_timeouts(&seconds(&[3, 60, 300])).expect("sound");
        let [own, shorter, longer] =
            [waited(&upstream, 60).await, waited(&upstream, 3).await, waited(&upstream, 300).await];
        let clients = upstream.http_of_routes.load().len();
        upstream.set_connect_timeouts(&seconds(&[300])).expect("sound");
        let [gone, kept] = [waited(&upstream, 3).await, waited(&upstream, 300).await];

        assert_eq!([own, shorter, longer, gone, kept], [60, 3, 300, 60, 300]);
        assert_eq!(clients, 2, "the provider's own has a client already");
    }
}
