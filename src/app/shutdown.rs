//! Serves until the process is asked to stop, and lets what is under way end.

use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::signal::unix::Signal;
use tokio::sync::oneshot;

use crate::config::Config;
use crate::gateway::GatewayState;
use crate::ledger::Ledger;
use crate::listener;
use crate::signals::StopSignals;

/// How long connections are taken and waited for.
pub struct ShutdownTimeouts {
    /// Until the next request's head is whole.
    pub idle: Duration,
    /// Once the process is asked to stop, until it takes no more of them: who sends callers here has to notice first.
    pub accept_grace: Duration,
    /// From then on, until all have ended.
    pub drain: Duration,
}

/// Serves until a stop signal; then connections end in their own time, until `drain` is over or until the next signal. A
/// head that never comes whole would otherwise hold the process until the listener gives it up.
pub async fn serve_until_stopped(
    listener: TcpListener,
    router: Router,
    ledger: Ledger,
    stops: &mut StopSignals,
    ShutdownTimeouts { idle, accept_grace, drain }: ShutdownTimeouts,
) {
    let (stop, stopped) = oneshot::channel();
    let left = async {
        leave_on_stop(ledger, stopped).await;
        tokio::time::sleep(accept_grace).await;
    };
    let mut serving = pin!(listener::serve(listener, router, idle, left));
    tokio::select! {
        () = &mut serving => return,
        () = stops.next() => {
            tracing::info!(seconds = drain.as_secs(), "asked to stop: what is under way may take so long to end");
            let _ = stop.send(());
        }
    }
    tokio::select! {
        () = &mut serving => {}
        () = stops.next() => {
            tracing::warn!("asked to stop again: connections that are still open are abandoned");
        }
        () = tokio::time::sleep(accept_grace.saturating_add(drain)) => {
            tracing::warn!(seconds = drain.as_secs(), "connections that are still open are abandoned");
        }
    }
}

/// Hands the shards that this node owns to the other nodes before it stops: nothing new is forwarded to it while it
/// finishes.
async fn leave_on_stop(ledger: Ledger, stopped: oneshot::Receiver<()>) {
    // A sender that is gone means that the process is ending by itself.
    let _ = stopped.await;
    if let Err(error) = ledger.leave().await {
        tracing::warn!(%error, "the other nodes could not be informed that this one leaves; they will notice");
    }
}

/// Reads the routes again at every SIGHUP, and says what else has changed since the start. A file with mistakes leaves the old
/// ones in place.
pub async fn reload_on_hangup(
    mut hangups: Signal,
    gateway: GatewayState,
    file: Option<PathBuf>,
    at_start: Config,
) {
    while hangups.recv().await.is_some() {
        let reloaded = Config::load(file.as_deref()).and_then(|config| {
            gateway.reload_routes(&config)?;
            Ok(at_start.changed_for_a_restart(&config))
        });
        match reloaded {
            Ok(changed) if changed.is_empty() => tracing::info!("routes read again"),
            Ok(changed) => {
                tracing::warn!(?changed, "routes read again; what else has changed needs a restart")
            }
            Err(error) => tracing::error!(%error, "the old routes stay"),
        }
    }
}
