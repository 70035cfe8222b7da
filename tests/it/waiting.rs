//! What a test waits for comes, or the test says what did not: none of them hangs. The crate's own tests wait so too.

use std::time::Duration;

/// Longer than anything takes, on a busy machine too.
const MOST: Duration = Duration::from_secs(120);

pub async fn within<T>(what: &str, awaited: impl Future<Output = T>) -> T {
    match tokio::time::timeout(MOST, awaited).await {
        Ok(came) => came,
        Err(_) => panic!("after {} s still not: {what}", MOST.as_secs()),
    }
}

/// Asks again and again.
pub async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let so = async {
        while !is_so().await {
            tokio::task::yield_now().await;
        }
    };
    within(what, so).await;
}
