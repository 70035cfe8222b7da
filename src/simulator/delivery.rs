//! How an answer travels: its frames in the pace of the token rate, and the weather on the way.

use super::sold::Sale;
use super::weather::WeatherKind;
use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use std::collections::VecDeque;
use std::io;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};

/// A part of an answer and the output tokens that it brings.
#[derive(Debug)]
pub struct Frame {
    pub bytes: Bytes,
    pub output_tokens: u64,
}

impl Frame {
    pub fn of(bytes: impl Into<Bytes>, output_tokens: u64) -> Frame {
        Frame { bytes: bytes.into(), output_tokens }
    }
}

/// What slows or breaks a delivery.
#[derive(Clone, Copy, Debug)]
pub struct Conditions {
    pub weather: Option<WeatherKind>,
    pub stall: Duration,
    /// 0 delivers as fast as the client reads.
    pub tokens_per_second: u32,
}

/// A body that sends the frames; the sale closes when the last one is handed over, or when the body is dropped.
pub fn body_of(frames: Vec<Frame>, conditions: Conditions, sale: Sale) -> Body {
    let fault_at = frames.len() / 2;
    let delivery = Delivery {
        frames: frames.into(),
        fault_in: matches!(conditions.weather, Some(WeatherKind::StallWithin | WeatherKind::Cut))
            .then_some(fault_at),
        conditions,
        sale,
        started: Instant::now(),
        due: Duration::ZERO,
        broken: false,
    };
    Body::from_stream(stream::unfold(delivery, Delivery::next))
}

/// A body that breaks before its first byte. The head of an answer leaves together with the start of its body,
/// so the client sees a connection that closes without a word.
pub fn refused() -> Body {
    Body::from_stream(stream::iter([Err::<Bytes, io::Error>(broken_connection())]))
}

struct Delivery {
    frames: VecDeque<Frame>,
    /// Frames until the weather strikes.
    fault_in: Option<usize>,
    conditions: Conditions,
    sale: Sale,
    started: Instant,
    /// When, from the start on, the tokens that were delivered are due: a timer that is late once makes the rest no later.
    due: Duration,
    broken: bool,
}

impl Delivery {
    async fn next(mut self) -> Option<(io::Result<Bytes>, Delivery)> {
        /// Timers tick in milliseconds, so shorter waits are left out.
        const WAIT_MIN: Duration = Duration::from_millis(4);
        if self.broken {
            return None;
        }
        if self.fault_in == Some(0) {
            self.fault_in = None;
            if self.conditions.weather == Some(WeatherKind::Cut) {
                // What came before the break must reach the client.
                sleep(WAIT_MIN).await;
                self.broken = true;
                self.sale.close(false);
                return Some((Err(broken_connection()), self));
            }
            sleep(self.conditions.stall).await;
            self.due += self.conditions.stall;
        }
        let frame = self.frames.pop_front()?;
        self.due += self.duration_of(frame.output_tokens);
        let due = self.started + self.due;
        if due >= Instant::now() + WAIT_MIN {
            sleep_until(due).await;
        }
        self.sale.deliver(frame.output_tokens);
        self.fault_in = self.fault_in.map(|left| left.saturating_sub(1));
        if self.frames.is_empty() {
            self.sale.close(true);
        }
        Some((Ok(frame.bytes), self))
    }

    fn duration_of(&self, tokens: u64) -> Duration {
        let micros =
            tokens.saturating_mul(1_000_000).checked_div(u64::from(self.conditions.tokens_per_second));
        Duration::from_micros(micros.unwrap_or(0))
    }
}

fn broken_connection() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "simulated weather")
}

#[cfg(test)]
mod tests {
    use super::super::sold::SoldBook;
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_pace_is_kept_over_the_whole_answer() {
        let frames = (0..600).map(|_| Frame::of("word ", 1)).collect();
        let conditions = Conditions { weather: None, stall: Duration::ZERO, tokens_per_second: 300 };
        let started = Instant::now();

        let body = body_of(frames, conditions, Sale::open(&SoldBook::default(), None));
        axum::body::to_bytes(body, usize::MAX).await.unwrap();

        let took = started.elapsed();
        assert!((1_990..2_010).contains(&took.as_millis()), "{took:?}");
    }
}
