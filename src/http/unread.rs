//! Bodies that nobody read. What is still to come of one stands where the connection's next request should: a client that
//! is refused by its head while its body is under way would lose that request.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;
use futures_util::stream::{self, Stream, StreamExt};
use tokio::time::timeout;

use crate::http::BODY_BYTES_MAX;

/// Whoever announces a body and sends none waits for the answer.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// Reads what a handler left of a body before its answer goes out; where too much is left, or it does not come, the
/// answer says that the connection ends with it.
pub async fn read_on(request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    // Reading would tell it to send what nobody wants.
    let waits_to_be_told = request.headers().contains_key(header::EXPECT);
    let was_read = Arc::new(AtomicBool::new(false));
    let reads = was_read.clone();
    let (parts, body) = request.into_parts();
    let whole = Arc::new(Mutex::new(body.into_data_stream()));
    let lent = whole.clone();
    let body = stream::poll_fn(move |context| {
        reads.store(true, Ordering::Relaxed);
        lent.lock().unwrap_or_else(PoisonError::into_inner).poll_next_unpin(context)
    });
    let rest = stream::poll_fn(move |context| {
        whole.lock().unwrap_or_else(PoisonError::into_inner).poll_next_unpin(context)
    });
    let mut response = next.run(Request::from_parts(parts, Body::from_stream(body))).await;
    let is_unasked = waits_to_be_told && !was_read.load(Ordering::Relaxed);
    if is_unasked || !timeout(WAIT_MAX, ends(rest)).await.unwrap_or(false) {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Whether it ends within what a body may have.
async fn ends<T: AsRef<[u8]>, E>(rest: impl Stream<Item = Result<T, E>>) -> bool {
    let (mut rest, mut bytes) = (pin!(rest), 0);
    while let Some(Ok(part)) = rest.next().await {
        bytes += part.as_ref().len();
        if bytes > BODY_BYTES_MAX {
            return false;
        }
    }
    true
}
