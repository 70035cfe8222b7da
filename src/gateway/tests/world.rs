//! A gateway with its ledger, its providers as simulators, and an org that pays: what the stories are told of.

use tokio::net::{TcpSocket, TcpStream};

use super::*;
use crate::domain::claim::{Claim, slug_name};
use crate::gateway::target::Target;

pub const ACME: OrgId = OrgId(Uuid::from_u128(0xACE));

/// Of all that an org asks, and none.
pub const NO_LIMITS: Limits = Limits {
    scope: BudgetScope::Org,
    requests_per_minute: None,
    tokens_per_minute: None,
    concurrent_requests: None,
    credits_per_request: None,
};

/// A gateway with two simulated upstreams of each kind; the first of a kind has weather.
pub struct World {
    pub url: String,
    pub secret: String,
    pub ledger: Ledger,
    pub http: reqwest::Client,
    pub state: GatewayState,
    pub log: Arc<outages::Log>,
    pub config: Config,
    pub simulator: SimulatorHandle,
    pub _folder: tempfile::TempDir,
}

pub async fn listen(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

/// Nobody is connected there: its one place is taken, for as long as these two are kept.
pub async fn full_listener() -> (SocketAddr, (TcpListener, TcpStream)) {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("binds");
    let listener = socket.listen(0).expect("listens");
    let address = listener.local_addr().expect("an address");
    let waits = TcpStream::connect(address).await.expect("connects");
    (address, (listener, waits))
}

/// An org with so many credits, and a key: its secret.
pub async fn open_org(ledger: &Ledger, org: OrgId, slug: &str, credits: &str) -> String {
    let terms = LotTerms {
        lot: LotId(Uuid::from_u128(1)),
        credits: credits.parse().expect("credits"),
        priority: 0,
        expires_at: None,
    };
    let open =
        OrgCommand::OpenOrg { slug: slug.into(), time_zone: "UTC".into(), overdraft_limit: Credits::ZERO };
    let (name, then) = (slug_name(slug), Box::new(open.clone()));
    let claim = Claim { name, org, then, idempotency: None };
    ledger.submit_system(SystemCommand::FulfilClaim { claim }, None, None).await.expect("claims");
    for command in [open, OrgCommand::Grant { terms, kind: GrantKind::Goodwill, note: None }] {
        ledger.submit(Submission::by_tollgate(org, command)).await.expect("runs");
    }
    create_key(ledger, KeyId { org, local: Uuid::from_u128(7) }, None).await
}

/// Its secret.
pub async fn create_key(ledger: &Ledger, key: KeyId, project: Option<ProjectId>) -> String {
    let secret = key_text(key, &[0x5e; 24]);
    let (role, secret_sha256) = (Role::Inference, secret_sha256(&secret));
    let create = OrgCommand::CreateKey { key, role, project, secret_sha256, expires_at: None };
    ledger.submit(Submission::by_tollgate(key.org, create)).await.expect("creates");
    secret
}

impl World {
    pub async fn new(credits: &str, weather: &str) -> World {
        World::routed(credits, weather, json!([{"name": "alone", "chain": ["openai/gpt-4o-mini"]}])).await
    }

    pub async fn routed(credits: &str, weather: &str, routes: Value) -> World {
        World::with_odd(credits, weather, routes, Router::new()).await
    }

    /// With an upstream `odd` that answers as the test says.
    pub async fn with_odd(credits: &str, weather: &str, routes: Value, odd: Router) -> World {
        World::at(Clock::system(), credits, weather, routes, odd).await
    }

    pub async fn at(clock: Clock, credits: &str, weather: &str, routes: Value, odd: Router) -> World {
        let simulator = SimulatorHandle::new(SimulatorConfig {
            weather: Weather::parse(weather).expect("weather"),
            ..SimulatorConfig::default()
        });
        let stormy = listen(simulator.router()).await;
        let odd = listen(odd).await;
        let calm = listen(SimulatorHandle::new(SimulatorConfig::default()).router()).await;
        let provider = |name: &str, kind, address: SocketAddr, prices_of: &str| ProviderConfig {
            api_key: Some("upstream".into()),
            api_key_header: (name == "odd").then(|| "api-key".into()),
            uplifts: if name == "odd" { [Uplift::RegionEu].into() } else { [].into() },
            prices_of: Some(prices_of.into()),
            connect_timeout_seconds: 2,
            first_byte_timeout_seconds: 5,
            idle_timeout_seconds: 5,
            ..ProviderConfig::new(name, kind, format!("http://{address}"))
        };
        let config = Config {
            providers: vec![
                provider("openai", ProviderKind::Openai, stormy, "openai"),
                provider("anthropic", ProviderKind::Anthropic, stormy, "anthropic"),
                provider("gemini", ProviderKind::Gemini, stormy, "gemini"),
                provider("gemini-spare", ProviderKind::Gemini, calm, "gemini"),
                provider("spare", ProviderKind::Openai, calm, "openai"),
                provider("odd", ProviderKind::Openai, odd, "openai"),
                provider("odd-claude", ProviderKind::Anthropic, odd, "anthropic"),
                provider("responses", ProviderKind::OpenaiResponses, stormy, "openai"),
                provider("odd-responses", ProviderKind::OpenaiResponses, odd, "openai"),
                provider("odd-gemini", ProviderKind::Gemini, odd, "gemini"),
            ],
            routes: serde_json::from_value(routes).expect("routes"),
            successors: BTreeMap::from([(
                "openai/gpt-4-retired".into(),
                "openai/gpt-4o-mini".to_owned().into(),
            )]),
            ..Config::default()
        };
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("t.db");
        let log = Arc::new(outages::Log::of(SqliteStore::open(&path).await.expect("opens")));
        let views = Arc::new(SqliteViews::open(&path).await.expect("opens"));
        let ledger = Ledger::open(log.clone(), views, clock, MemoryLimits::default()).await.expect("opens");
        let mut cards = default_cards(Timestamp(0)).expect("cards");
        let card = |model: &str| cards.iter().find(|card| card.model == model).expect("a card").clone();
        let soon = |seconds| Some(ledger.clock().now().plus_seconds(seconds));
        let (retired, ending) = (card("gpt-4o-mini"), card("gpt-4o"));
        cards.push(RateCard { model: "gpt-4-retired".into(), deprecated_at: soon(-1), ..retired });
        cards.push(RateCard { effective_from: Timestamp(1), deprecated_at: soon(86_400), ..ending });
        ledger
            .submit_system(SystemCommand::PublishPrices { cards, mark_ups: vec![] }, None, None)
            .await
            .expect("publishes");
        let secret = open_org(&ledger, ACME, "acme", credits).await;
        let state = GatewayState::new(
            ledger.clone(),
            None,
            OperatorKey::new(&"o".repeat(32)).expect("long enough"),
            &config,
        )
        .expect("a gateway");
        let url = format!("http://{}", listen(router(state.clone()).0).await);
        World {
            url,
            secret,
            ledger,
            http: reqwest::Client::new(),
            state,
            log,
            config,
            simulator,
            _folder: folder,
        }
    }

    /// Starts anew with its configuration as it is by now.
    pub async fn restart(&mut self) {
        let operator = OperatorKey::new(&"o".repeat(32)).expect("long enough");
        self.state = GatewayState::new(self.ledger.clone(), None, operator, &self.config).expect("a gateway");
        self.url = format!("http://{}", listen(router(self.state.clone()).0).await);
    }

    /// A call that is yet to be sent, by whom the key is.
    pub fn call_by(&self, secret: &str, path: &str, body: &Value) -> reqwest::RequestBuilder {
        self.http.post(format!("{}{path}", self.url)).bearer_auth(secret).json(body)
    }

    pub async fn post(&self, path: &str, body: Value) -> reqwest::Response {
        self.call_by(&self.secret, path, &body).send().await.expect("answers")
    }

    /// The same by a caller who gives it up after so many seconds.
    pub async fn post_within(&self, seconds: u32, path: &str, body: Value) -> reqwest::Response {
        let call = self.call_by(&self.secret, path, &body).header("x-request-timeout", seconds);
        call.send().await.expect("answers")
    }

    /// The attempts of the last settle, and the route that it counts for.
    pub async fn last_settle(&self) -> (Arc<[Attempt]>, Option<String>) {
        let (attempts, purpose) = self.last_settled().await;
        (attempts, purpose.route)
    }

    /// What the last settle says was decided about where it went.
    pub async fn last_decision(&self) -> Option<String> {
        self.last_settled().await.1.decision
    }

    /// The attempts of the last settle, and what it was for.
    pub async fn last_settled(&self) -> (Arc<[Attempt]>, Purpose) {
        let stored = list_events(&self.ledger, ACME, 0, 1_000).await.expect("reads");
        let settle = stored.into_iter().rev().find_map(|stored| match stored.payload.event {
            Event::ReservationSettled { attempts, purpose, .. } => Some((attempts, purpose)),
            _ => None,
        });
        settle.expect("a settle")
    }

    /// Whether the last hold was raised after it was taken.
    pub async fn grew_before_the_settle(&self) -> bool {
        let stored = list_events(&self.ledger, ACME, 0, 1_000).await.expect("reads");
        stored.iter().any(|stored| matches!(stored.payload.event, Event::ReservationGrown { .. }))
    }

    pub async fn limit(&self, limits: Limits) {
        let set = OrgCommand::SetLimits { limits: vec![limits] };
        self.ledger.submit(Submission::by_tollgate(ACME, set)).await.expect("sets");
    }

    pub async fn balance(&self) -> Balance {
        self.ledger.read(ACME, |account| account.balance()).await.expect("reads")
    }
}

pub fn chat(model: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": "Say something."}]})
}

/// A chain over all three upstreams, with what the policy adds.
pub fn chain(policy: Value) -> Value {
    let mut route = json!({"name": "r", "chain": ["anthropic/claude-haiku-4-5", "openai/gpt-4o-mini"]});
    for (field, value) in policy.as_object().expect("a policy") {
        route[field] = value.clone();
    }
    json!([route])
}

pub fn header(response: &reqwest::Response, name: &str) -> String {
    response.headers().get(name).map(|value| value.to_str().expect("text").to_owned()).unwrap_or_default()
}

/// One of its targets.
pub fn target(world: &World, provider: &str, model: &str) -> Target {
    let upstream = world.state.upstreams.iter().find(|upstream| upstream.config.name == provider);
    let (upstream, prices) = (upstream.expect("a provider").clone(), Prices::in_force(&world.state));
    let card = prices.card(ACME, &upstream, model).expect("a card").clone();
    Target { upstream, model: model.into(), card, group: 0, notice: None }
}
