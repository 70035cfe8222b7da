//! The count of the tokens in a request's texts: made at most once, and without holding up other requests.

use std::sync::{Arc, OnceLock};

use serde_json::Value;
use tokio::runtime::{Handle, RuntimeFlavor};

use crate::gateway::fit;

/// Counting so many bytes takes some milliseconds.
const LONG_BYTES: usize = 256 << 10;

/// Shared by copies of a request with the same body.
#[derive(Clone, Debug, Default)]
pub struct TokenCount(Arc<OnceLock<u64>>);

impl TokenCount {
    pub fn known(tokens: u64) -> TokenCount {
        TokenCount(Arc::new(tokens.into()))
    }

    pub fn is_known(&self) -> bool {
        self.0.get().is_some()
    }

    /// By OpenAI's public tokenizer; of a body of about so many bytes.
    pub fn of(&self, body: &Value, bytes: usize) -> u64 {
        *self.0.get_or_init(|| aside(bytes, || fit::tokens(body)))
    }
}

/// Counts in about so many bytes without blocking the other tasks of this worker thread for long, on a runtime with several.
pub fn aside<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    if bytes < LONG_BYTES {
        return work();
    }
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        Ok(_) | Err(_) => work(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn what_is_long_is_counted_once_and_beside_the_worker() {
        let count = TokenCount::default();

        let once = count.of(&json!({"input": "one two"}), LONG_BYTES);
        let again = count.clone().of(&json!({"input": "one two three four"}), LONG_BYTES);

        assert_eq!((once, again), (2, 2));
    }
}
