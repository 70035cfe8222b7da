//! How long a call may take, and what is left of that.

use std::time::Duration;

use crate::domain::time::Timestamp;

/// How long a provider may take. When the request is to be over says nothing of it: what was sent is read to its end.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// Until a new connection stands.
    pub connect: Duration,
    /// Until a stream's first part, or a whole answer's end.
    pub first_token: Duration,
    /// Between two parts of an answer that has begun.
    pub between_tokens: Duration,
}

impl Timeouts {
    pub fn for_first(&self, since: Timestamp, now: Timestamp) -> Duration {
        self.first_token.saturating_sub(elapsed(since, now))
    }

    /// Until the first part, and on to the next.
    pub fn longest(&self) -> Duration {
        self.first_token.saturating_add(self.between_tokens)
    }
}

pub fn elapsed(since: Timestamp, now: Timestamp) -> Duration {
    Duration::from_micros(now.0.saturating_sub(since.0).try_into().unwrap_or(0))
}

/// How long a request still has that is to be over then.
pub fn left(ends_at: Option<Timestamp>, now: Timestamp) -> Duration {
    let left = |ends_at: Timestamp| u64::try_from(ends_at.0.saturating_sub(now.0)).unwrap_or(0);
    ends_at.map_or(Duration::MAX, |ends_at| Duration::from_micros(left(ends_at)))
}
