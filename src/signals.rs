//! The signals by which a process is asked to stop.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGINT and SIGTERM: from the moment on at which this is made, none is lost and none ends the process by itself.
#[derive(Debug)]
pub struct StopSignals {
    interrupts: Signal,
    terminations: Signal,
}

impl StopSignals {
    /// # Errors
    /// Where the process can't handle signals.
    pub fn listen() -> std::io::Result<StopSignals> {
        let (interrupts, terminations) = (SignalKind::interrupt(), SignalKind::terminate());
        Ok(StopSignals { interrupts: signal(interrupts)?, terminations: signal(terminations)? })
    }

    /// Returns with the next signal.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupts.recv() => {}
            _ = self.terminations.recv() => {}
        }
    }
}

/// Returns with the next SIGINT, as Ctrl-C sends it, or SIGTERM. Where they can't be handled they end the process instead.
pub async fn asked_to_stop() {
    match StopSignals::listen() {
        Ok(mut signals) => signals.next().await,
        Err(_) => std::future::pending().await,
    }
}
