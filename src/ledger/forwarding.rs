//! This node among the others of its database: what it forwards to a shard's owner, and what the others forward to it.
//!
//! Nothing here decides: a forwarded command waits in the same queue as one that a client of this node sent.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::oneshot;
use tokio::time::{Sleep, sleep};

use crate::domain::format::Format;
use crate::domain::idempotency::CommandRef;
use crate::ledger::cluster::wire::{Answer, Forwarded, LATE_TIMEOUT, elements};
use crate::ledger::cluster::{Cluster, ForwardReply, Peer};
use crate::ledger::job::{AnyCommand, Decided, Forwarding, Handoff, Job, QueuedCommand};
use crate::ledger::keys::Keyed;
use crate::ledger::{Ledger, LedgerError, Outcome, Submission};
use crate::store::{Node, Nodes};

/// How often a command is sent to its shard's owner: once more where a takeover has had the first dropped.
const SENDINGS_MAX: usize = 2;

/// A forwarded command whose sender waits.
enum Waiting {
    Over(Answer),
    Queued { answer: oneshot::Receiver<Decided>, handoff: Arc<Handoff> },
}

impl Waiting {
    /// Waits until it is late at most, which it is for all commands of a request at once.
    async fn answer(self, late: Pin<&mut Sleep>) -> Answer {
        let (answer, handoff) = match self {
            Waiting::Over(answer) => return answer,
            Waiting::Queued { answer, handoff } => (answer, handoff),
        };
        let decided = tokio::select! {
            biased;
            decided = answer => decided.ok(),
            () = late => None,
        };
        match decided {
            Some(decided) => decided.into(),
            // It was dropped, or takes too long.
            None if handoff.withdraw() => Answer::Dropped,
            None => Answer::Late,
        }
    }
}

impl Ledger {
    /// Takes its place among the nodes of its database, from the first [`Ledger::beat`] on. `address` is where the others
    /// reach it; a node without one owns nothing.
    ///
    /// # Errors
    /// Where the database can't be read.
    pub async fn join(&self, nodes: Arc<dyn Nodes>, address: Option<String>) -> Result<(), LedgerError> {
        let (id, address) = (self.shared.clock.uuid(), address.unwrap_or_default());
        let me = Node { id, address, format: Format::READ };
        let cluster = Cluster::join(nodes, me, self.shared.shards.len()).await?;
        // A node that has joined stays what it is.
        let _ = self.shared.cluster.set(cluster);
        self.follow_all().await
    }

    /// Says that this node is alive and learns which others are; to be repeated every half second. One whose writer has
    /// stopped leaves.
    ///
    /// # Errors
    /// Where the database can't be reached: the others take over what this node owns.
    pub async fn beat(&self) -> Result<(), LedgerError> {
        match self.shared.cluster.get() {
            Some(cluster) if !self.is_running() && !cluster.has_left() => {
                tracing::error!("a writer has stopped: this node leaves its shards to the others");
                Ok(cluster.leave(self.shared.clock.now()).await?)
            }
            Some(cluster) => {
                let read_by_all = cluster.beat(self.shared.clock.now()).await?;
                match read_by_all.filter(|_| self.owns(0)) {
                    Some(format) => self.raise_format(format).await,
                    None => Ok(()),
                }
            }
            None => Ok(()),
        }
    }

    /// Hands this node's shards to the others; it still decides what they forward. To go on beating until it has finished
    /// what is under way.
    ///
    /// # Errors
    /// Where the database can't be reached.
    pub async fn leave(&self) -> Result<(), LedgerError> {
        self.shared.is_leaving.store(true, Ordering::Relaxed);
        match self.shared.cluster.get() {
            Some(cluster) => Ok(cluster.leave(self.shared.clock.now()).await?),
            None => Ok(()),
        }
    }

    /// Whether this node was told to leave.
    pub fn is_leaving(&self) -> bool {
        self.shared.is_leaving.load(Ordering::Relaxed)
    }

    /// Whether this node does the work of a shard that one node should do.
    pub fn owns(&self, shard: i32) -> bool {
        let has_left = self.shared.cluster.get().is_some_and(Cluster::has_left);
        !has_left && self.owner(shard).is_none()
    }

    /// Whether this is the secret by which the nodes of this database know each other.
    pub fn is_nodes_secret(&self, presented: &str) -> bool {
        self.shared.cluster.get().is_some_and(|cluster| cluster.is_its_secret(presented))
    }

    /// Whether what another node forwards is for this one, by the header in which it names whom it means.
    pub fn is_meant(&self, node: Option<&str>) -> bool {
        self.shared.cluster.get().is_some_and(|cluster| cluster.is_meant(node))
    }

    /// Decides what another node forwards, one answer each and never forwarded again; none where the request can't be
    /// read. The sender is known to be a node ([`Ledger::is_nodes_secret`]).
    pub async fn handle_forwarded(&self, request: &[u8]) -> Option<Vec<u8>> {
        let commands = elements(request)?;
        let waiting: Vec<Waiting> =
            commands.into_iter().map(|command| self.enqueue_forwarded(command)).collect();
        let mut late = pin!(sleep(LATE_TIMEOUT));
        let mut answers = Vec::with_capacity(waiting.len());
        for waiting in waiting {
            answers.push(waiting.answer(late.as_mut()).await);
        }
        serde_json::to_vec(&answers).ok()
    }

    /// Puts a forwarded command into its shard's queue.
    fn enqueue_forwarded(&self, forwarded: Option<Forwarded>) -> Waiting {
        // One of a newer version, say: its sender decides it.
        let Some(forwarded) = forwarded else { return Waiting::Over(Answer::Dropped) };
        let Forwarded { org, command, by, idempotency, epoch } = forwarded;
        let (reply, answer) = oneshot::channel();
        let handoff = Arc::<Handoff>::default();
        let forwarding = Some(Forwarding { epoch, handoff: handoff.clone() });
        let (idempotency, found) = (Some(Keyed::of(org, idempotency)), None);
        let enqueue = || {
            let place = self.handle(org)?.places.take(org)?;
            let command = AnyCommand::Org(command);
            let queued =
                QueuedCommand { org, command, by, idempotency, forwarding, reply, found, _place: place };
            self.enqueue(org, Job::Command(Box::new(queued)))
        };
        match enqueue() {
            Err(LedgerError::Busy) => Waiting::Over(Answer::Busy),
            // A writer that ends has dropped it, or is deciding it in this moment.
            Ok(()) | Err(_) => Waiting::Queued { answer, handoff },
        }
    }

    pub(super) fn owner(&self, shard: i32) -> Option<(&Cluster, Arc<Peer>)> {
        let cluster = self.shared.cluster.get()?;
        Some((cluster, cluster.owner(shard)?))
    }

    /// Has the shard's owner decide, and decides here where it does not.
    pub(super) async fn forward(
        &self,
        cluster: &Cluster,
        peer: &Peer,
        shard: i32,
        submission: Submission,
    ) -> Result<Outcome, LedgerError> {
        let Submission { org, command, by, idempotency } = submission;
        let is_named_here = idempotency.is_none();
        let idempotency = idempotency.unwrap_or_else(|| CommandRef {
            key: format!("node:{}", self.shared.clock.uuid()),
            fingerprint: String::new(),
        });
        let mut forwarded = Forwarded { org, command, by, idempotency, epoch: cluster.epoch(shard) };
        let mut is_given_up = false;
        for _ in 0..SENDINGS_MAX {
            let epoch = forwarded.epoch;
            let body = serde_json::to_vec(&forwarded)
                .map_err(|error| LedgerError::Unavailable(error.to_string()))?;
            let place = self.handle(org)?.places.take(org)?;
            match peer.send(shard, epoch, body, place).await? {
                ForwardReply::Unknown(error) => return Err(error),
                ForwardReply::NotDecided => break,
                ForwardReply::GivenUp => {
                    is_given_up = true;
                    break;
                }
                ForwardReply::Answered(answer) => {
                    if let Some(heard) = answer.heard() {
                        return heard;
                    }
                }
            }
            // Had every command decided here that was sent under an epoch which has passed, the nodes would race.
            match cluster.later_epoch(&*self.shared.log, shard, epoch).await {
                Some(later) => forwarded.epoch = later,
                None => break,
            }
        }
        let Forwarded { command, idempotency, .. } = forwarded;
        let outcome = match self.decide(org, AnyCommand::Org(command), by, Some(idempotency)).await {
            // The owner may have written it.
            Err(LedgerError::Busy | LedgerError::Unavailable(_)) if is_given_up => Err(given_up()),
            decided => decided,
        }?;
        // The owner had written it before it fell silent: the caller has asked once.
        Ok(Outcome { replayed: outcome.replayed && !is_named_here, ..outcome })
    }
}

fn given_up() -> LedgerError {
    LedgerError::Unknown(
        "the node that was asked fell silent, and this one can't find out what it wrote".into(),
    )
}
