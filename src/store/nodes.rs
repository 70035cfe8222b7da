//! The nodes that share one database.

use async_trait::async_trait;
use uuid::Uuid;

use crate::domain::format::Format;
use crate::store::StoreError;

/// A node of a database, and where the others reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub id: Uuid,
    /// Host and port; empty where the others can't reach it, and it owns nothing.
    pub address: String,
    /// What it reads.
    pub format: Format,
}

/// The nodes of a database, as they were noted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Noted {
    /// The nodes that were heard of lately, in the order of their ids.
    pub alive: Vec<Node>,
    /// What all of the last minute read, the dead among them: one that is slow to say so may still serve.
    pub read_by_all: Format,
}

/// The nodes of one database. Every method fails with `Unavailable` where the database can't be reached or does not answer:
/// what it was to write may have been written then, and may be asked for again.
#[async_trait]
pub trait Nodes: Send + Sync {
    /// Notes that a node is alive, by the database's clock.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn beat(&self, node: &Node) -> Result<(), StoreError>;

    /// The nodes that were noted of late.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn noted(&self) -> Result<Noted, StoreError>;

    /// The secret by which the nodes of this database know each other; made with it, and the same for ever.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn secret(&self) -> Result<String, StoreError>;

    /// Raises the epoch of a shard's head beyond `from`, where it is not: whatever was to be written under that one is
    /// decided again, or dropped. A head that was restored may lie behind it.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn raise_epoch(&self, shard: i32, from: i64) -> Result<(), StoreError>;
}
