//! Timeouts for request bodies, and draining of those that a handler did not read. The rest of an unread body would be parsed
//! as the connection's next request, so a client that was refused early would lose that one.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;
use futures_util::stream::{self, Stream, StreamExt};
use parking_lot::{Mutex, MutexGuard};
use tokio::time::timeout;

use crate::http::BODY_BYTES_MAX;

/// How long the rest of a body is waited for: a client that sends none waits for the answer meanwhile.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// A body is given up after a pause of this length.
const PAUSE_MAX: Duration = Duration::from_secs(30);

type Whole = Arc<Mutex<BodyDataStream>>;

/// Passes the body on to the handler, and reads what the handler left of it before the answer is sent. Where too much is
/// left, or it does not arrive, the answer closes the connection.
pub async fn drain_body(request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    // Reading would send `100 Continue`, and the client a body that is not needed.
    let waits_to_be_told = request.headers().contains_key(header::EXPECT);
    let was_read = Arc::new(AtomicBool::new(false));
    let reads = was_read.clone();
    let (parts, body) = request.into_parts();
    let whole = Arc::new(Mutex::new(body.into_data_stream()));
    let body = stream::unfold(whole.clone(), move |whole| {
        reads.store(true, Ordering::Relaxed);
        async move { part(&whole).await.map(|part| (part, whole)) }
    });
    let rest = stream::poll_fn(move |context| lock(&whole).poll_next_unpin(context));
    let mut response = next.run(Request::from_parts(parts, Body::from_stream(body))).await;
    let is_unasked = waits_to_be_told && !was_read.load(Ordering::Relaxed);
    if is_unasked || !timeout(WAIT_MAX, ends(rest)).await.unwrap_or(false) {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// The next part of the body.
async fn part(whole: &Whole) -> Option<Result<Bytes, axum::Error>> {
    let next = timeout(PAUSE_MAX, poll_fn(|context| lock(whole).poll_next_unpin(context)));
    next.await.unwrap_or_else(|late| Some(Err(axum::Error::new(late))))
}

fn lock(whole: &Whole) -> MutexGuard<'_, BodyDataStream> {
    whole.lock()
}

/// Whether the rest ends within the size limit.
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

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use axum::Router;
    use axum::http::StatusCode;
    use axum::middleware::from_fn;
    use axum::routing::post;
    use tokio::time::{Instant, sleep};
    use tower::ServiceExt;

    use super::*;

    /// What is answered to a body of parts, each after its pause.
    async fn answered(pauses: &[Duration]) -> Response {
        let router = Router::new().route("/", post(async |body: Bytes| body)).layer(from_fn(drain_body));
        let parts = stream::iter(pauses.to_vec()).then(async |pause| {
            sleep(pause).await;
            Ok::<_, Infallible>("part ")
        });
        let request = Request::post("/").body(Body::from_stream(parts)).expect("a request");
        router.oneshot(request).await.unwrap_or_else(|never| match never {})
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_is_read_for_as_long_as_it_comes_and_given_up_when_it_stops() {
        let since = Instant::now();
        let slow = answered(&[PAUSE_MAX * 9 / 10; 5]).await;
        let slow_for = since.elapsed();
        let stuck = answered(&[Duration::ZERO, PAUSE_MAX * 100]).await;
        let stuck_for = since.elapsed() - slow_for;

        assert_eq!((slow.status(), slow.headers().get(header::CONNECTION)), (StatusCode::OK, None));
        assert!(slow_for > PAUSE_MAX * 4);
        assert_eq!(stuck.status(), StatusCode::BAD_REQUEST);
        assert_eq!(stuck.headers()[header::CONNECTION], "close");
        assert_eq!(stuck_for.as_secs(), (PAUSE_MAX + WAIT_MAX).as_secs());
    }
}
