//! The number of a log's format: which kinds and versions of events it may hold.

use serde::{Deserialize, Serialize};

/// A number that grows with every kind, version or field that an older Tollgate would not read.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(transparent)]
pub struct Format(pub u32);

impl Format {
    /// What a log is in before its flag is raised.
    pub const FIRST: Format = Format(0);
    /// What this version reads, and writes once the flag is raised to it.
    pub const READ: Format = Format(3);
    /// From here on money may have other than two decimals, which an older version would read as so many cents.
    pub const DECIMALS: Format = Format(2);
    /// From here on an end says when it counted: an older version reports its charge in the hour in which it was written.
    pub const DUE_AT: Format = Format(2);
    /// From here on a claim has its caller's key: an older version would drop it, and do under no key what the key refuses.
    pub const CLAIM_KEYS: Format = Format(3);
}

impl std::fmt::Display for Format {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(out)
    }
}
