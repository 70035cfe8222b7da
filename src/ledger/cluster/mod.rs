//! Several nodes on one database: each shard has an owner, to which the others forward its commands, so that they do
//! not race for its head.
//!
//! Ownership is a hint, never a lease: two nodes that both think that they own a shard stay correct, since each append
//! is a compare-and-set. Nothing here decides a command.

mod agreement;
mod peer;
mod roster;
pub(super) mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use arc_swap::ArcSwap;
use subtle::ConstantTimeEq;
use tokio::sync::Mutex;
use tokio::time::Instant;
use uuid::Uuid;

use crate::domain::format::Format;
use crate::domain::time::Timestamp;
use crate::http_client;
use crate::store::{EventLog, Node, Nodes, Noted, StoreError};

use agreement::Agreement;
pub(super) use peer::{ForwardReply, Peer};

/// Where nodes take each other's commands.
pub const PATH: &str = "/internal/v1/commands";
/// Bears the id of the node that is meant: at its address may be another, such as the sender itself where each node is known
/// by its own loopback address. Older versions don't send it.
pub const NODE_HEADER: &str = "tollgate-node";

/// This node among the others.
pub(super) struct Cluster {
    me: Uuid,
    /// Empty where the others can't reach it: it then owns nothing.
    address: String,
    transport: Arc<Transport>,
    roster: ArcSwap<Roster>,
    /// One beat at a time, so that none undoes what a later one said.
    agreement: Mutex<Agreement>,
    /// It finishes what is under way, and owns nothing any more.
    has_left: AtomicBool,
}

/// What it takes to reach another node, or to take over from it.
pub(super) struct Transport {
    http: reqwest::Client,
    secret: String,
    nodes: Arc<dyn Nodes>,
    epochs: Epochs,
}

/// By shard.
struct Epochs(Vec<Epoch>);

/// The epoch of a shard's head.
#[derive(Default)]
struct Epoch {
    /// The highest that is known.
    seen: AtomicI64,
    /// It could not be raised for a command that nobody answered.
    is_to_be_raised: AtomicBool,
    looks: SingleFlight,
    takeovers: SingleFlight,
}

/// Runs one piece of work at a time for all callers that wait for it, whether it succeeds or not: a caller waits for two runs
/// at most, however long the database takes. It knows when the last run began that came to its end: one whose caller went away
/// is nobody's.
#[derive(Default)]
struct SingleFlight(Mutex<Option<Instant>>);

impl SingleFlight {
    /// Runs the work, unless a run has begun since this was called.
    async fn run(&self, work: impl Future<Output = ()>) {
        let called = Instant::now();
        let mut begun = self.0.lock().await;
        if begun.is_none_or(|begun| begun < called) {
            let begins = Instant::now();
            work.await;
            *begun = Some(begins);
        }
    }
}

impl Epochs {
    fn of(&self, shard: i32) -> i64 {
        self.at(shard).map_or(0, |epoch| epoch.seen.load(Ordering::Acquire))
    }

    fn saw(&self, shard: i32, seen: i64) {
        if let Some(epoch) = self.at(shard) {
            epoch.seen.fetch_max(seen, Ordering::AcqRel);
        }
    }

    fn at(&self, shard: i32) -> Option<&Epoch> {
        usize::try_from(shard).ok().and_then(|shard| self.0.get(shard))
    }
}

impl Epoch {
    fn is_to_be_raised(&self) -> bool {
        self.is_to_be_raised.load(Ordering::Acquire)
    }

    fn set_to_be_raised(&self, is_to_be: bool) {
        self.is_to_be_raised.store(is_to_be, Ordering::Release);
    }
}

impl Transport {
    /// Raises the epoch of a shard's head from that one, where it still is: what was sent under it is dropped from now on.
    async fn take_over(&self, shard: i32, from: i64) -> Result<(), StoreError> {
        let raised = self.nodes.raise_epoch(shard, from).await;
        match raised {
            Ok(()) => self.epochs.saw(shard, from + 1),
            Err(_) => self.epochs.at(shard).into_iter().for_each(|epoch| epoch.set_to_be_raised(true)),
        }
        raised
    }
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Transport").finish_non_exhaustive()
    }
}

/// The nodes that are alive.
#[derive(Default)]
struct Roster {
    peers: Vec<Arc<Peer>>,
    /// The nodes by shard, the best first; this node is none of the peers.
    ranked: Vec<Vec<Option<Arc<Peer>>>>,
}

impl Cluster {
    /// # Errors
    /// Where the database can't be read.
    pub async fn join(nodes: Arc<dyn Nodes>, me: Node, shards: usize) -> Result<Cluster, StoreError> {
        let http = http_client::builder()
            .tcp_nodelay(true)
            .no_proxy()
            .build()
            .map_err(|error| StoreError::Unavailable(format!("connections to other nodes: {error}")))?;
        let secret = nodes.secret().await?;
        let epochs = Epochs((0..shards).map(|_| Epoch::default()).collect());
        Ok(Cluster {
            me: me.id,
            address: me.address,
            transport: Arc::new(Transport { http, secret, nodes, epochs }),
            roster: ArcSwap::default(),
            agreement: Mutex::default(),
            has_left: AtomicBool::new(false),
        })
    }

    /// Says that this node is alive, and learns who else is. Returns the format that all of them read, once they have for
    /// long enough. One that has left goes on: while it finishes what is under way, the log must stay in a format that it
    /// reads.
    ///
    /// # Errors
    /// Where the database can't be reached: the others will pass this node over.
    pub async fn beat(&self, now: Timestamp) -> Result<Option<Format>, StoreError> {
        let mut agreement = self.agreement.lock().await;
        let address = if self.has_left() { String::new() } else { self.address.clone() };
        self.transport.nodes.beat(&Node { id: self.me, address, format: Format::READ }).await?;
        let Noted { mut alive, read_by_all } = self.transport.nodes.noted().await?;
        alive.retain(|node| !node.address.is_empty());
        let old = self.roster.load_full();
        old.peers.iter().for_each(|peer| peer.beat());
        let peers: Vec<Arc<Peer>> = alive
            .iter()
            .filter(|node| node.id != self.me)
            .map(|node| {
                let known = old.peers.iter().find(|peer| peer.node == *node).cloned();
                known.unwrap_or_else(|| {
                    if node.address == self.address {
                        tracing::warn!(
                            address = node.address,
                            "another node has this one's address, unless it was this one before a restart: they need an \
                             internal_address each"
                        );
                    }
                    Peer::start(node.clone(), self.transport.clone())
                })
            })
            .collect();
        let ids: Vec<Uuid> = alive.iter().map(|node| node.id).collect();
        let peer_of = |id: Uuid| peers.iter().find(|peer| peer.node.id == id).cloned();
        let shards = 0..i32::try_from(self.transport.epochs.0.len()).unwrap_or(i32::MAX);
        let ranked =
            shards.map(|shard| roster::ranked(&ids, shard).into_iter().map(peer_of).collect()).collect();
        metrics::gauge!("tollgate_nodes_alive").set(u32::try_from(ids.len()).map_or(f64::MAX, f64::from));
        self.roster.store(Arc::new(Roster { peers, ranked }));
        Ok(agreement.heard(read_by_all, now))
    }

    /// Tells the others to pass this node over; it still forwards to them.
    ///
    /// # Errors
    /// Where the database can't be reached; they hear of it with the next beat that reaches it.
    pub async fn leave(&self, now: Timestamp) -> Result<(), StoreError> {
        self.has_left.store(true, Ordering::SeqCst);
        self.beat(now).await.map(|_| ())
    }

    /// The other node that should decide for a shard; none where this one should.
    pub fn owner(&self, shard: i32) -> Option<Arc<Peer>> {
        let roster = self.roster.load();
        let ranked = roster.ranked.get(usize::try_from(shard).ok()?)?;
        let first = ranked.iter().find(|node| node.as_ref().is_none_or(|peer| peer.is_trusted()));
        first.cloned().flatten()
    }

    pub fn has_left(&self) -> bool {
        self.has_left.load(Ordering::SeqCst)
    }

    pub fn epoch(&self, shard: i32) -> i64 {
        self.transport.epochs.of(shard)
    }

    /// A shard's head was seen.
    pub fn saw_epoch(&self, shard: i32, epoch: i64) {
        self.transport.epochs.saw(shard, epoch);
    }

    /// The epoch of a shard's head where it is a later one than that; the head is looked at where that is not known. None
    /// where it can't be read, too.
    pub async fn later_epoch(&self, log: &dyn EventLog, shard: i32, than: i64) -> Option<i64> {
        if self.epoch(shard) <= than {
            let look = async {
                if let Ok(head) = log.head(shard).await {
                    self.saw_epoch(shard, head.epoch);
                }
            };
            self.transport.epochs.at(shard)?.looks.run(look).await;
        }
        Some(self.epoch(shard)).filter(|epoch| *epoch > than)
    }

    /// Makes up for a takeover that failed: what is asked for from now on, such as that a hold be released, must not come
    /// before a copy of a command that nobody answered.
    ///
    /// # Errors
    /// Where the database can't be reached.
    pub async fn finish_takeover(&self, shard: i32) -> Result<(), StoreError> {
        let Some(epoch) = self.transport.epochs.at(shard).filter(|epoch| epoch.is_to_be_raised()) else {
            return Ok(());
        };
        let take_over = async {
            if epoch.is_to_be_raised() && self.transport.take_over(shard, self.epoch(shard)).await.is_ok() {
                epoch.set_to_be_raised(false);
            }
        };
        epoch.takeovers.run(take_over).await;
        match epoch.is_to_be_raised() {
            true => Err(StoreError::Unavailable("another node's commands can't be taken over yet".into())),
            false => Ok(()),
        }
    }

    /// Whether a forward is for this node. One that doesn't say for whom it is comes from an older version.
    pub fn is_meant(&self, node: Option<&str>) -> bool {
        node.is_none_or(|node| Uuid::try_parse(node) == Ok(self.me))
    }

    pub fn is_its_secret(&self, presented: &str) -> bool {
        presented.as_bytes().ct_eq(self.transport.secret.as_bytes()).into()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;
    use std::time::Duration;

    use futures_util::future::{join, join_all};
    use tokio::time::{sleep, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn however_many_wait_for_the_database_each_waits_for_two_looks_at_most() {
        let (flight, looks, start) = (SingleFlight::default(), AtomicU32::new(0), Instant::now());
        let look = || {
            flight.run(async {
                looks.fetch_add(1, Ordering::SeqCst);
                sleep(Duration::from_secs(2)).await;
            })
        };
        let at_once = join_all((0..25).map(|_| look()));
        let later = async {
            sleep(Duration::from_secs(1)).await;
            join_all((0..25).map(|_| look())).await;
        };

        join(at_once, later).await;

        assert_eq!((looks.load(Ordering::SeqCst), start.elapsed()), (2, Duration::from_secs(4)));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_goes_away_in_the_middle_has_done_nobodys_work() {
        let (flight, looks) = (SingleFlight::default(), AtomicU32::new(0));
        let goes_away = timeout(Duration::from_secs(1), flight.run(sleep(Duration::from_secs(2))));
        let waits = flight.run(async { _ = looks.fetch_add(1, Ordering::SeqCst) });

        let (gone, ()) = join(goes_away, waits).await;

        assert!(gone.is_err());
        assert_eq!(looks.load(Ordering::SeqCst), 1);
    }
}
