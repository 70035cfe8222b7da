//! `tollgate prices`: reads the public price map, and publishes what is new in it over a server's own API.
//!
//! Promises: what is in force already is not published again. Deliberately not here: what a price map means
//! (`domain::pricing::litellm`), and fetching one.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::{Client, RequestBuilder, Url};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::commands::print;
use crate::domain::pricing::litellm::{self, Import, ImportError};
use crate::domain::pricing::rate_card::RateCard;
use crate::domain::time::Timestamp;
use crate::http;
use crate::http_client;

/// Cards in one publication: well below the largest body that the API takes.
const CARDS_PER_POST: usize = 500;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Far more than one publication takes.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// The most that the API gives at once.
const CARDS_PER_PAGE: usize = 1_000;

#[derive(Debug, clap::Subcommand)]
pub enum PricesCommand {
    /// Says which models of a price map get no card, and why. Fails where the map has keys that are not known.
    Lint {
        /// The price map of LiteLLM: `model_prices_and_context_window.json`.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Publishes the cards of a price map that differ from those in force on a running server.
    Import {
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Where the server listens.
        #[arg(long, default_value = "http://127.0.0.1:8080")]
        server: String,
        #[arg(long, env = "TOLLGATE_OPERATOR_KEY", hide_env_values = true)]
        operator_key: String,
        /// RFC 3339: from when on the cards count; at once when absent.
        #[arg(long)]
        effective_from: Option<String>,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum PricesError {
    #[error("{} can't be read: {why}", path.display())]
    File { path: PathBuf, why: std::io::Error },
    #[error(transparent)]
    Map(#[from] ImportError),
    #[error("the map has {0} keys that are not known; this version of Tollgate may be too old for it")]
    UnknownKeys(usize),
    #[error("\"{0}\" is not a time; RFC 3339 looks like 2026-12-31T00:00:00Z")]
    Time(String),
    #[error("the server can't be reached: {0}")]
    Unreachable(#[from] reqwest::Error),
    #[error("the server said {status}: {detail}")]
    Refused { status: u16, detail: String },
    #[error("the server's answer is not JSON ({0}); is that a Tollgate server?")]
    NotJson(serde_json::Error),
}

/// What an import did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Published {
    pub published: usize,
    pub unchanged: usize,
    /// The price book's version after it; None where nothing was new.
    pub version: Option<u64>,
}

/// # Errors
/// See [`PricesError`].
pub async fn run(command: PricesCommand) -> Result<(), PricesError> {
    match command {
        PricesCommand::Lint { file } => {
            let import = read(&file)?;
            report(&import);
            if import.unknown_keys.is_empty() {
                Ok(())
            } else {
                Err(PricesError::UnknownKeys(import.unknown_keys.len()))
            }
        }
        PricesCommand::Import { file, server, operator_key, effective_from } => {
            let import = read(&file)?;
            report(&import);
            let done = publish(&server, &operator_key, &import.cards, effective_from.as_deref()).await?;
            print(&match done.version {
                Some(version) => format!(
                    "{} cards published, {} unchanged; the price book is at version {version}\n",
                    done.published, done.unchanged
                ),
                None => format!("all {} cards are in force already\n", done.unchanged),
            });
            Ok(())
        }
    }
}

/// Publishes those of the cards that differ from the ones in force.
///
/// # Errors
/// `Time`, `Unreachable`, `NotJson`, or `Refused` with what the server said.
pub async fn publish(
    server: &str,
    operator_key: &str,
    cards: &[RateCard],
    effective_from: Option<&str>,
) -> Result<Published, PricesError> {
    if let Some(text) = effective_from.filter(|text| Timestamp::parse_rfc3339(text).is_none()) {
        return Err(PricesError::Time(text.to_owned()));
    }
    let (client, url) = (client(server)?, format!("{}/api/v1/prices", server.trim_end_matches('/')));
    let (version, in_force) = in_force(&client, &url, operator_key).await?;
    let asked = cards.iter().map(|card| dated(http::card_as_published(card), None));
    let (same, new): (Vec<Value>, Vec<Value>) =
        asked.partition(|card| in_force.get(&name(card)) == Some(card));
    let mut done = Published { published: new.len(), unchanged: same.len(), version: None };
    for cards in new.chunks(CARDS_PER_POST) {
        let cards: Vec<Value> = cards.iter().map(|card| dated(card.clone(), effective_from)).collect();
        let body = json!({ "cards": cards });
        // The same cards may come again after others: what was seen in force makes it another publication.
        let key = hex::encode(Sha256::digest(format!("{version} {body}")));
        let post = client.post(&url).bearer_auth(operator_key).header("idempotency-key", key).json(&body);
        done.version = answer(post).await?["version"].as_u64();
    }
    Ok(done)
}

/// The price book's version, and the cards in force by name.
async fn in_force(
    client: &Client,
    url: &str,
    operator_key: &str,
) -> Result<(Value, HashMap<String, Value>), PricesError> {
    let mut cards = HashMap::new();
    let mut after = String::new();
    loop {
        let page = client.get(format!("{url}?limit={CARDS_PER_PAGE}{after}")).bearer_auth(operator_key);
        let page = answer(page).await?;
        let data = page["data"].as_array().into_iter().flatten().cloned();
        cards.extend(data.map(|card| (name(&card), dated(card, None))));
        let Some(next) = page["next"].as_str() else { return Ok((page["version"].clone(), cards)) };
        after = format!("&after={next}");
    }
}

fn read(path: &Path) -> Result<Import, PricesError> {
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|why| PricesError::File { path: path.to_owned(), why })?;
    // The moment from which the cards count is the publication's.
    Ok(litellm::import(&text, Timestamp::default())?)
}

fn report(import: &Import) {
    let unknown = import.unknown_keys.iter().map(|(key, models)| {
        format!("unknown key \"{key}\" in {} models, such as {}\n", models.len(), models.join(", "))
    });
    let refused =
        import.refused.iter().map(|refused| format!("no card for {}: {}\n", refused.model, refused.why));
    let lines: String = unknown.chain(refused).collect();
    let totals = format!("{} models can be priced, {} can't\n", import.cards.len(), import.refused.len());
    print(&(lines + &totals));
}

fn client(server: &str) -> Result<Client, PricesError> {
    let client = http_client::builder().connect_timeout(CONNECT_TIMEOUT).timeout(ANSWER_TIMEOUT);
    // A proxy reaches no server on this machine, and would be shown the operator's key.
    let client = if is_on_this_machine(server) { client.no_proxy() } else { client };
    Ok(client.build()?)
}

fn is_on_this_machine(server: &str) -> bool {
    let url = Url::parse(server).ok();
    let host = url.as_ref().and_then(Url::host_str).unwrap_or_default();
    let address: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
    host == "localhost" || address.is_some_and(|address| address.is_loopback())
}

async fn answer(request: RequestBuilder) -> Result<Value, PricesError> {
    let response = request.send().await?;
    let status = response.status();
    let body = response.bytes().await?;
    if status.is_success() {
        return serde_json::from_slice(&body).map_err(PricesError::NotJson);
    }
    // A load balancer or a proxy in front of the server answers with a page of its own.
    let problem: Value = serde_json::from_slice(&body).unwrap_or_default();
    let detail = problem["detail"].as_str().or(status.canonical_reason()).unwrap_or_default().to_owned();
    Err(PricesError::Refused { status: status.as_u16(), detail })
}

fn name(card: &Value) -> String {
    format!("{}/{}", card["provider"], card["model"])
}

/// A card that counts from another moment on, or from whenever it is published.
fn dated(mut card: Value, effective_from: Option<&str>) -> Value {
    if let Some(card) = card.as_object_mut() {
        card.insert("effective_from".into(), effective_from.into());
    }
    card
}
