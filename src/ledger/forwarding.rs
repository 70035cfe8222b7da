//! This node among the others of its database: what it forwards to a shard's owner, and what the others forward to it.
//!
//! Nothing here decides: what was forwarded waits in the same queue as what was asked for here.

use std::sync::Arc;

use futures_util::future::join_all;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::domain::event::CommandRef;
use crate::domain::format::Format;
use crate::ledger::cluster::wire::{Answer, Forwarded, LATE_AFTER};
use crate::ledger::cluster::{Cluster, Peer, Reply};
use crate::ledger::job::{Ask, Command, Job, Keyed};
use crate::ledger::{Ledger, LedgerError, Outcome, Submission};
use crate::store::{Node, Nodes};

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
        // Who has joined stays what it is.
        let _ = self.shared.cluster.set(cluster);
        self.follow_all().await
    }

    /// Says that this node is alive and learns which others are; to be repeated every half second.
    ///
    /// # Errors
    /// Where the database can't be reached: the others take over what this node owns.
    pub async fn beat(&self) -> Result<(), LedgerError> {
        match self.shared.cluster.get() {
            Some(cluster) => {
                let read_by_all = cluster.beat().await?;
                match read_by_all.filter(|_| self.owns(0)) {
                    Some(format) => self.raise_format(format).await,
                    None => Ok(()),
                }
            }
            None => Ok(()),
        }
    }

    /// Hands this node's shards to the others; it still decides whatever reaches it.
    ///
    /// # Errors
    /// Where the database can't be reached.
    pub async fn leave(&self) -> Result<(), LedgerError> {
        match self.shared.cluster.get() {
            Some(cluster) => Ok(cluster.leave().await?),
            None => Ok(()),
        }
    }

    /// Whether this node does the work of a shard that one node should do.
    pub fn owns(&self, shard: i32) -> bool {
        self.owner(shard).is_none()
    }

    /// Whether this is the secret by which the nodes of this database know each other.
    pub fn is_nodes_secret(&self, presented: &str) -> bool {
        self.shared.cluster.get().is_some_and(|cluster| cluster.is_its_secret(presented))
    }

    /// Decides what another node forwards, one answer each and never forwarded again; none where the request can't be
    /// read. Whoever asks is a node ([`Ledger::is_nodes_secret`]).
    pub async fn take_forwarded(&self, request: &[u8]) -> Option<Vec<u8>> {
        let commands: Vec<Forwarded> = serde_json::from_slice(request).ok()?;
        let answers = commands.into_iter().map(|forwarded| {
            let Forwarded { org, ask, by, command, epoch } = forwarded;
            let (reply, answer) = oneshot::channel();
            let ask = Ask::Org(ask);
            let (idempotency, under) = (Some(Keyed::of(org, command)), Some(epoch));
            let command = Command { org, ask, by, idempotency, under, reply, found: None };
            let queued = self.enqueue(org, Job::Command(Box::new(command)));
            async move {
                match queued {
                    Ok(()) => match timeout(LATE_AFTER, answer).await {
                        // What was not answered was dropped.
                        Ok(answered) => answered.map_or(Answer::Dropped, Answer::from),
                        Err(_) => Answer::Late,
                    },
                    Err(LedgerError::Busy) => Answer::Busy,
                    // It was not queued: its sender decides.
                    Err(_) => Answer::Dropped,
                }
            }
        });
        serde_json::to_vec(&join_all(answers).await).ok()
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
        let Submission { org, command: ask, by, idempotency } = submission;
        let is_named_here = idempotency.is_none();
        let command = idempotency.unwrap_or_else(|| CommandRef {
            key: format!("node:{}", self.shared.clock.uuid()),
            fingerprint: String::new(),
        });
        let forwarded = Forwarded { org, ask, by, command, epoch: cluster.epoch(shard) };
        let body =
            serde_json::to_vec(&forwarded).map_err(|error| LedgerError::Unavailable(error.to_string()))?;
        match peer.send(shard, forwarded.epoch, body).await? {
            Reply::Unknown(error) => return Err(error),
            Reply::Answered(answer) => {
                if let Some(heard) = answer.heard() {
                    return heard;
                }
            }
            Reply::NotDecided => {}
        }
        let Forwarded { ask, command, .. } = forwarded;
        let outcome = self.ask(org, Ask::Org(ask), by, Some(command)).await?;
        // The owner had written it before it fell silent: the caller has asked once.
        Ok(Outcome { replayed: outcome.replayed && !is_named_here, ..outcome })
    }
}
