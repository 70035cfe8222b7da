//! The demo's world: simulated providers, a node, two orgs with credits and keys. All is made over the public API.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::app::{self, AppError};
use crate::clock::Clock;
use crate::config::{Config, ProviderConfig, ProviderKind};
use crate::demo::DemoError;
use crate::domain::ids::OrgId;
use crate::http_client;
use crate::ledger::Ledger;
use crate::listener;
use crate::operations::authenticate::OperatorKey;
use crate::operations::find_org::known_org;
use crate::simulator::{SimulatorConfig, SimulatorHandle};
use crate::store::Database;
use crate::telemetry;
use crate::workers::Workers;

const ORG: &str = "acme";
const SMALL_ORG: &str = "corner-shop";

#[derive(Debug)]
pub struct World {
    pub url: String,
    pub operator_key: String,
    pub org: String,
    pub small_org: String,
    pub inference_key: String,
    pub gateway_key: String,
    /// The key of the org that runs dry.
    pub small_key: String,
    pub ledger: Ledger,
    /// The provider that has weather; its stand-in has none.
    pub simulator: SimulatorHandle,
    pub http: reqwest::Client,
    _workers: Workers,
    _folder: Folder,
}

/// Where the ledger is kept.
#[derive(Debug)]
enum Folder {
    Given(PathBuf),
    /// Gone with the demo, however that ends.
    Temporary(PathBuf),
}

impl World {
    pub async fn make(data: Option<&Path>, listen: SocketAddr) -> Result<World, DemoError> {
        let clock = Clock::system();
        // Where the address is taken, nothing was made yet.
        let listener =
            TcpListener::bind(listen).await.map_err(|why| AppError::Listen { address: listen, why })?;
        let folder = Folder::make(data, &clock)?;
        let operator_key = hex::encode(clock.secret());
        let operator = OperatorKey::new(&operator_key).map_err(set_up)?;
        let database =
            Database::open_file(&folder.path().join("tollgate.db")).await.map_err(AppError::from)?;
        let node = app::open(database, operator, clock.clone()).await?;

        let simulator = SimulatorHandle::new(SimulatorConfig { seed: 1, ..SimulatorConfig::default() });
        let spare = SimulatorHandle::new(SimulatorConfig { seed: 2, ..SimulatorConfig::default() });
        let (first, second) = (serve_simulator(&simulator).await?, serve_simulator(&spare).await?);
        let config = Config {
            providers: vec![
                provider("openai", ProviderKind::Openai, first, None),
                provider("anthropic", ProviderKind::Anthropic, first, None),
                provider("gemini", ProviderKind::Gemini, first, None),
                provider("openai-spare", ProviderKind::Openai, second, Some("openai")),
                provider("anthropic-spare", ProviderKind::Anthropic, second, Some("anthropic")),
            ],
            ..Config::default()
        };
        let ledger = node.ledger.clone();
        let workers = Workers::start(&ledger);
        tokio::spawn(telemetry::keep_up());
        let (router, _) = app::router(node, &config).map_err(AppError::from)?;
        let url = format!("http://{}", listener.local_addr().map_err(set_up)?);
        tokio::spawn(listener::serve(
            listener,
            router,
            Config::default().idle_connection(),
            std::future::pending(),
        ));

        let mut world = World {
            url,
            operator_key,
            org: ORG.into(),
            small_org: SMALL_ORG.into(),
            inference_key: String::new(),
            gateway_key: String::new(),
            small_key: String::new(),
            ledger,
            simulator,
            // A proxy leads to no loopback address.
            http: http_client::builder().no_proxy().build().map_err(set_up)?,
            _workers: workers,
            _folder: folder,
        };
        world.open_orgs(&clock).await?;
        Ok(world)
    }

    pub fn org_ids(&self) -> impl Iterator<Item = (&str, OrgId)> {
        [&self.org, &self.small_org]
            .into_iter()
            .filter_map(|slug| Some((slug.as_str(), known_org(&self.ledger, slug)?)))
    }

    /// Opens what a directory from an earlier demo lacks; keys are new each time, since only their hashes are kept.
    async fn open_orgs(&mut self, clock: &Clock) -> Result<(), DemoError> {
        if !self.is_set_up().await {
            self.set_up().await?;
        }
        let mut secrets = Vec::new();
        for (org, role) in [(ORG, "inference"), (ORG, "gateway"), (SMALL_ORG, "inference")] {
            let made = Step {
                method: Method::POST,
                path: format!("/api/v1/orgs/{org}/keys"),
                body: json!({"name": format!("demo {role}"), "role": role}),
            };
            let made = self.ask(&clock.uuid().to_string(), made).await?;
            secrets.push(made["secret"].as_str().unwrap_or_default().to_owned());
        }
        let [inference, gateway, small] = secrets.try_into().map_err(|_| set_up("a key is missing"))?;
        (self.inference_key, self.gateway_key, self.small_key) = (inference, gateway, small);
        Ok(())
    }

    /// Whether the last step was done.
    async fn is_set_up(&self) -> bool {
        let Some(org) = known_org(&self.ledger, SMALL_ORG) else { return false };
        self.ledger.read(org, |account| !account.alert_rules.is_empty()).await.unwrap_or(false)
    }

    /// A demo that ended between two steps does them again: under their own keys, those that are done stay as they are.
    async fn set_up(&self) -> Result<(), DemoError> {
        for (number, step) in steps().into_iter().enumerate() {
            self.ask(&format!("demo-set-up-{number}"), step).await?;
        }
        Ok(())
    }

    async fn ask(&self, key: &str, step: Step) -> Result<Value, DemoError> {
        let Step { method, path, body } = step;
        let call = self.http.request(method, format!("{}{path}", self.url)).bearer_auth(&self.operator_key);
        let response = call.header("idempotency-key", key).json(&body).send().await.map_err(set_up)?;
        let status = response.status();
        let text = response.text().await.map_err(set_up)?;
        if !status.is_success() {
            return Err(set_up(format!("{path} answered {status}: {text}")));
        }
        serde_json::from_str(&text).map_err(set_up)
    }
}

/// A call to the API.
struct Step {
    method: Method,
    path: String,
    body: Value,
}

/// What an empty ledger lacks; the alert rules come last (see [`World::is_set_up`]).
fn steps() -> [Step; 6] {
    let post = |path: &str, body| Step { method: Method::POST, path: format!("/api/v1/{path}"), body };
    let bundle = json!({"name": "starter-1000", "credits": "1000", "price": "800.00", "currency": "USD"});
    let payment = json!({"method": "manual", "reference": "INV-1"});
    let rules = json!({"rules": [{"kind": "balance_below", "credits": "0.05"}]});
    [
        post("bundles", bundle),
        post("orgs", json!({"slug": ORG, "name": "Acme"})),
        post(&format!("orgs/{ORG}/purchases"), json!({"bundle": "starter-1000", "payment": payment})),
        post("orgs", json!({"slug": SMALL_ORG, "name": "Corner Shop"})),
        post(&format!("orgs/{SMALL_ORG}/grants"), json!({"credits": "0.10", "kind": "promotional"})),
        Step { method: Method::PUT, path: format!("/api/v1/orgs/{SMALL_ORG}/alert_rules"), body: rules },
    ]
}

impl Folder {
    fn make(given: Option<&Path>, clock: &Clock) -> Result<Folder, DemoError> {
        let folder = match given {
            Some(path) => Folder::Given(path.to_owned()),
            None => {
                let name = format!("tollgate-demo-{}", clock.uuid().simple());
                Folder::Temporary(std::env::temp_dir().join(name))
            }
        };
        std::fs::create_dir_all(folder.path()).map_err(set_up)?;
        Ok(folder)
    }

    fn path(&self) -> &Path {
        match self {
            Folder::Given(path) | Folder::Temporary(path) => path,
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Folder::Temporary(path) = self
            && let Err(error) = std::fs::remove_dir_all(&*path)
        {
            tracing::warn!(%error, folder = %path.display(), "the demo's directory stays");
        }
    }
}

pub fn set_up(why: impl ToString) -> DemoError {
    DemoError::SetUp(why.to_string())
}

async fn serve_simulator(simulator: &SimulatorHandle) -> Result<SocketAddr, DemoError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(set_up)?;
    let address = listener.local_addr().map_err(set_up)?;
    let simulator = simulator.clone();
    tokio::spawn(async move { simulator.serve(listener, std::future::pending()).await });
    Ok(address)
}

fn provider(name: &str, kind: ProviderKind, address: SocketAddr, prices_of: Option<&str>) -> ProviderConfig {
    ProviderConfig {
        api_key: Some("simulated".into()),
        prices_of: prices_of.map(str::to_owned),
        connect_timeout_seconds: 2,
        first_byte_timeout_seconds: 10,
        idle_timeout_seconds: 10,
        ..ProviderConfig::new(name, kind, format!("http://{address}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_set_up_that_was_cut_off_is_done_once_however_often_it_is_begun() {
        let folder = tempfile::tempdir().expect("a folder");
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let world = World::make(Some(folder.path()), listen).await.expect("is made");
        let granted = async || {
            let mut granted = Vec::new();
            for (slug, org) in world.org_ids() {
                let balance = world.ledger.read(org, |account| account.balance().granted).await;
                granted.push((slug.to_owned(), balance.expect("reads").to_string()));
            }
            granted
        };
        let once = granted().await;

        world.set_up().await.expect("is done already");

        assert!(world.is_set_up().await);
        assert_eq!(once, [(ORG.to_owned(), "1000".to_owned()), (SMALL_ORG.to_owned(), "0.1".to_owned())]);
        assert_eq!(granted().await, once);
    }
}
