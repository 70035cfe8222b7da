//! Accepts connections: HTTP/1.1, each in a task of its own, closed when it is idle for too long or its client stops reading.
//!
//! `axum::serve` waits for ever for a head that never completes, so that a client could use up all connections.

use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::serve::{Listener, ListenerExt};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio_io_timeout::TimeoutWriter;

/// What a connection buffers of a head, or of a body that is not read: keys are checked only once the head is complete.
const BUFFER_BYTES_MAX: usize = 64 << 10;
/// A client that takes nothing of an answer for so long is gone.
const CLIENT_WAIT: Duration = Duration::from_secs(60);

/// Serves until `stop`, then takes no new connections, closes idle ones, and returns once the others have ended. `idle` is how
/// long the next head may take to be complete, counted from the connection's begin or its last answer's end.
pub async fn serve(listener: TcpListener, router: Router, idle: Duration, stop: impl Future<Output = ()>) {
    // Nagle's algorithm off: a stream's chunks must not wait for an acknowledgement.
    let mut listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY");
        }
    });
    // One table of routes for all connections: a bare router is built anew for each of them, tens of kilobytes.
    let router: Router = router.with_state(());
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(idle).max_buf_size(BUFFER_BYTES_MAX);
    let connections = GracefulShutdown::new();
    let mut stop = pin!(stop);
    loop {
        let (stream, _) = tokio::select! {
            taken = listener.accept() => taken,
            () = &mut stop => break,
        };
        let service = TowerToHyperService::new(router.clone());
        let mut stream = TimeoutWriter::new(stream);
        stream.set_timeout(Some(CLIENT_WAIT));
        let connection = connections.watch(http.serve_connection(TokioIo::new(Box::pin(stream)), service));
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::trace!(%error, "a connection ended early");
            }
        });
    }
    // New connections are refused at once rather than left waiting.
    drop(listener);
    connections.shutdown().await;
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::sync::oneshot;
    use tokio::task::JoinHandle;
    use tokio::time::{Instant, sleep, timeout};

    use super::*;

    const IDLE: Duration = Duration::from_secs(100);
    const LONG: Duration = Duration::from_secs(3_600);
    /// More than sockets buffer.
    const LARGE_BYTES: usize = 64 << 20;
    const HEAD: &[u8] = b"GET / HTTP/1.1\r\nhost: t\r\n\r\n";

    /// A server that answers after a pause, and the sender that stops it.
    async fn server(pause: Duration) -> (SocketAddr, oneshot::Sender<()>, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("an address");
        let answer = async move || {
            sleep(pause).await;
            "answered"
        };
        let (stop, stopped) = oneshot::channel();
        let stopped = async move {
            let _ = stopped.await;
        };
        let routes =
            Router::new().route("/", get(answer)).route("/large", get(async || vec![0; LARGE_BYTES]));
        (address, stop, tokio::spawn(serve(listener, routes, IDLE, stopped)))
    }

    /// Everything that the server sends on a connection after these bytes, until it closes it.
    async fn answers_to(address: SocketAddr, sent: &[u8]) -> String {
        let mut connection = TcpStream::connect(address).await.expect("connects");
        connection.write_all(sent).await.expect("writes");
        let mut received = String::new();
        connection.read_to_string(&mut received).await.expect("reads");
        received
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_has_nothing_to_say_is_closed() {
        let (address, _stop, _) = server(Duration::ZERO).await;
        for (sent, answers) in [(&b""[..], 0), (b"GET / HTTP/1.1\r\nhost:", 0), (HEAD, 1)] {
            let since = Instant::now();

            let received = answers_to(address, sent).await;

            assert_eq!(received.matches("answered").count(), answers, "{received}");
            assert_eq!(since.elapsed().as_secs(), IDLE.as_secs());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_may_take_longer_than_a_head_and_the_next_request_finds_its_connection() {
        let (address, _stop, _) = server(LONG).await;

        let received = answers_to(address, &[HEAD, HEAD].concat()).await;

        assert_eq!(received.matches("answered").count(), 2, "{received}");
    }

    #[tokio::test]
    async fn a_head_without_an_end_is_refused() {
        let (address, _stop, _) = server(Duration::ZERO).await;
        let mut endless = b"GET / HTTP/1.1\r\nhost: ".to_vec();
        endless.resize(BUFFER_BYTES_MAX, b'a');

        let received = answers_to(address, &endless).await;

        assert!(received.starts_with("HTTP/1.1 431"), "{received}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_under_way_ends_in_its_own_time_and_what_is_idle_at_once() {
        let (address, stop, served) = server(LONG).await;
        let (silent, busy) = tokio::join!(TcpStream::connect(address), TcpStream::connect(address));
        let (mut silent, mut busy) = (silent.expect("connects"), busy.expect("connects"));
        busy.write_all(HEAD).await.expect("writes");
        // Until the request has arrived.
        sleep(IDLE / 2).await;
        let since = Instant::now();
        let mut received = String::new();

        stop.send(()).expect("is there");
        silent.read_to_string(&mut received).await.expect("reads");
        let silent_for = since.elapsed();
        busy.read_to_string(&mut received).await.expect("reads");
        served.await.expect("serves");

        assert_eq!(silent_for.as_secs(), 0);
        assert!(received.contains("answered") && since.elapsed() >= LONG / 2, "{received}");
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn who_stops_reading_is_gone_after_a_while_and_who_reads_slowly_is_not() {
        let (address, stop, served) = server(Duration::ZERO).await;
        let (unread, slow) = tokio::join!(TcpStream::connect(address), TcpStream::connect(address));
        let (mut unread, mut slow) = (unread.expect("connects"), slow.expect("connects"));
        for connection in [&mut unread, &mut slow] {
            connection
                .write_all(b"GET /large HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n")
                .await
                .expect("writes");
        }
        let (since, mut part, mut read) = (Instant::now(), vec![0; LARGE_BYTES / 4], 0);
        while let Ok(bytes @ 1..) = slow.read(&mut part).await {
            read += bytes;
            sleep(CLIENT_WAIT / 4).await;
        }

        stop.send(()).expect("is there");
        let served = timeout(LONG, served).await;

        assert!(served.is_ok(), "nobody keeps a connection by not reading");
        assert!(read > LARGE_BYTES && since.elapsed() > CLIENT_WAIT, "{read} bytes, {:?}", since.elapsed());
    }
}
