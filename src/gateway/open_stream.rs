//! A stream that has begun: how far it has come, whether it gets anywhere, and who ended it.

use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use reqwest::Response;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::clock::Clock;
use crate::domain::attempt::AttemptOutcome;
use crate::domain::time::Timestamp;
use crate::gateway::dialects::StreamRelay;
use crate::gateway::quote::Quote;
use crate::gateway::timeouts::{Timeouts, elapsed};

/// More than any provider sends as one answer.
pub const ANSWER_BYTES_MAX: usize = 64 << 20;
/// What a stream may send between two parts of its answer: keep-alives, and events that say nothing.
const SILENT_BYTES_MAX: u64 = 4 << 20;
/// And this many times what it was asked: OpenAI's responses repeat their instructions and tools in more than one event.
const REPEATED: u64 = 4;
/// A provider that ignores the output limit may overstep it by this factor and this number of parts; after that it is taken
/// to be endless.
const OVERRUN_FACTOR: u64 = 2;
const OVERRUN_PARTS: u64 = 1_000;
/// What may follow an answer's end: the usage and the mark of the end.
pub const TAIL_WAIT: Duration = Duration::from_secs(5);

/// Whether a stream gets anywhere, and to an end.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    output_tokens_max: u64,
    silent_bytes_max: u64,
    said: u64,
    silent_since: Timestamp,
    silence_max: Duration,
}

impl Progress {
    pub fn new(quote: &Quote, timeouts: &Timeouts, now: Timestamp) -> Progress {
        Progress::of(quote.output_tokens_max, quote.body.len() as u64, timeouts, now)
    }

    pub fn of(output_tokens_max: u64, asked_bytes: u64, timeouts: &Timeouts, now: Timestamp) -> Progress {
        Progress {
            output_tokens_max,
            silent_bytes_max: asked_bytes.saturating_mul(REPEATED).saturating_add(SILENT_BYTES_MAX),
            said: 0,
            silent_since: now,
            silence_max: timeouts.longest(),
        }
    }

    /// Notes what has come by now; whether to read on.
    pub fn advance(&mut self, relay: &StreamRelay, now: Timestamp) -> bool {
        let delivered = relay.delivered();
        if relay.said() > self.said {
            *self = Progress { said: relay.said(), silent_since: now, ..*self };
        }
        let silence = elapsed(self.silent_since, now);
        let parts_max = self.output_tokens_max.saturating_mul(OVERRUN_FACTOR).saturating_add(OVERRUN_PARTS);
        let is_sized = delivered.deltas <= parts_max && delivered.bytes <= ANSWER_BYTES_MAX as u64;
        relay.silent_bytes() <= self.silent_bytes_max && silence <= self.silence_max && is_sized
    }

    /// Its time is counted elsewhere, so that only what it sends needs a limit.
    fn allow_silence(&mut self) {
        self.silence_max = Duration::MAX;
    }

    /// What was waited for since then was not the provider.
    fn waited_elsewhere(&mut self, since: Timestamp, now: Timestamp) {
        self.silent_since.0 = self.silent_since.0.saturating_add(now.0.saturating_sub(since.0));
    }
}

#[derive(Debug)]
pub struct OpenStream {
    pub upstream: Response,
    pub relay: StreamRelay,
    /// When the request was sent.
    pub since: Timestamp,
    /// What there is for the client.
    pub first: Bytes,
    /// What has come since and was not looked at.
    pub arrived: Option<reqwest::Result<Option<Bytes>>>,
    /// The upstream has closed it already.
    pub ended: bool,
    pub timeouts: Timeouts,
    pub progress: Progress,
}

/// What waiting for a stream's next part came to.
#[derive(Debug)]
pub enum Step {
    /// For the client, if anything.
    Part(Bytes),
    NotInTime,
    Broken,
    /// It is read no further, for this.
    CutOff(String),
}

/// Who ended a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndedBy {
    Provider,
    /// We did, for a fault of the provider's: silence, no end, or what can't be read.
    Patience,
    /// We did, since nobody waits for it any more.
    Reader,
}

impl EndedBy {
    /// What is recorded, and says something of the target.
    pub fn outcome(self, relay: &StreamRelay) -> AttemptOutcome {
        match self {
            _ if relay.is_whole() => AttemptOutcome::Succeeded,
            EndedBy::Provider | EndedBy::Patience => AttemptOutcome::Broken,
            EndedBy::Reader => AttemptOutcome::Cancelled,
        }
    }

    /// Whether it was us who read no further: the provider may have made, and bills, more than was read.
    pub fn is_given_up(self, relay: &StreamRelay) -> bool {
        !relay.is_whole() && self != EndedBy::Provider
    }
}

impl OpenStream {
    /// Whether nothing more of the answer is to come, though the connection may stay open.
    pub fn is_over(&self) -> bool {
        self.ended || self.relay.has_ended() || self.relay.failure().is_some()
    }

    /// Reads what may follow the end, for nobody: a connection that was read to its end serves the next call.
    pub fn read_off(self) -> StreamRelay {
        let OpenStream { mut upstream, relay, ended, .. } = self;
        if relay.has_ended() && !ended {
            tokio::spawn(async move {
                let rest = async { while let Ok(Some(_)) = upstream.chunk().await {} };
                // One that is kept open for longer is closed.
                let _ = timeout(TAIL_WAIT, rest).await;
            });
        }
        relay
    }

    /// How long its next part may take. Before the first, that may be as long as the first may.
    pub fn wait(&self, now: Timestamp) -> Duration {
        let between = self.timeouts.between_tokens;
        if self.relay.has_begun() { between } else { between.max(self.timeouts.for_first(self.since, now)) }
    }

    /// Waits for something else. That time is not the provider's silence.
    pub async fn meanwhile<T>(&mut self, clock: &Clock, other: impl Future<Output = T>) -> T {
        let since = clock.now();
        let done = other.await;
        self.progress.waited_elsewhere(since, clock.now());
        done
    }

    /// Whether more has come by now, without a wait for it.
    pub async fn look_for_more(&mut self) -> bool {
        if self.arrived.is_none() {
            // Whoever reads the connection hands over one part at a time, and has to run in between.
            tokio::task::yield_now().await;
            self.arrived = self.upstream.chunk().now_or_never();
        }
        self.arrived.is_some()
    }

    /// Reads what comes next, for at most the given time. Nothing is lost if it is dropped while it waits.
    pub async fn step(&mut self, wait: Duration, clock: &Clock) -> Step {
        let next = match self.arrived.take() {
            Some(arrived) => Ok(arrived),
            None => timeout(wait, self.upstream.chunk()).await,
        };
        let read = match next {
            Ok(Ok(Some(bytes))) => {
                let pushed = self.relay.push(&bytes);
                if !self.progress.advance(&self.relay, clock.now()) {
                    return Step::CutOff("it makes no progress, or comes to no end".into());
                }
                pushed
            }
            Ok(Ok(None)) => {
                self.ended = true;
                self.relay.finish()
            }
            Ok(Err(_)) => return Step::Broken,
            Err(_) => return Step::NotInTime,
        };
        read.map_or_else(|error| Step::CutOff(error.to_string()), Step::Part)
    }

    /// Reads to its end for nobody, for as long as a call takes that somebody waits for.
    pub async fn read_beside(&mut self, clock: &Clock, mut stopped: oneshot::Receiver<()>) -> EndedBy {
        self.progress.allow_silence();
        while !self.is_over() {
            let wait = self.wait(clock.now());
            let step = tokio::select! {
                biased;
                step = self.step(wait, clock) => step,
                _ = &mut stopped => return EndedBy::Reader,
            };
            match step {
                Step::Part(_) => {}
                Step::Broken => break,
                Step::NotInTime | Step::CutOff(_) => return EndedBy::Patience,
            }
        }
        EndedBy::Provider
    }

    /// Reads to its end, for as long as a tail may take.
    pub async fn read_tail(&mut self, clock: &Clock) {
        self.progress.allow_silence();
        let tail =
            async { while !self.is_over() && matches!(self.step(TAIL_WAIT, clock).await, Step::Part(_)) {} };
        // What has not come by then is not waited for.
        let _ = timeout(TAIL_WAIT, tail).await;
    }
}

#[cfg(test)]
pub mod tests {
    use futures_util::stream;
    use http_body::Frame;
    use http_body_util::StreamBody;
    use serde_json::json;

    use super::*;
    use crate::gateway::dialects::Dialect;
    use crate::gateway::dialects::relay::StreamEnds;

    const SECOND: Duration = Duration::from_secs(1);
    const TIMEOUTS: Timeouts = Timeouts { connect: SECOND, first_token: SECOND, between_tokens: SECOND };

    fn relay(dialect: Dialect) -> StreamRelay {
        StreamRelay::new(StreamEnds {
            upstream: dialect.into(),
            client: dialect,
            client_wants_usage: false,
            created_at_seconds: 0,
        })
    }

    /// A stream that was announced, with these parts to come.
    pub fn open(text: &'static str) -> OpenStream {
        OpenStream {
            upstream: axum::http::Response::new(text).into(),
            relay: relay(Dialect::OpenaiChat),
            since: Timestamp::default(),
            first: Bytes::new(),
            arrived: None,
            ended: false,
            timeouts: TIMEOUTS,
            progress: Progress::of(9, 9, &TIMEOUTS, Timestamp::default()),
        }
    }

    #[test]
    fn what_repeats_the_request_and_what_is_long_is_no_silence() {
        use Dialect::{AnthropicMessages, OpenaiResponses};

        let long = |bytes: usize| "-".repeat(bytes);
        let repeats = json!({"type": "response.created", "response": {"instructions": long(2_200_000)}});
        let fetched = json!({"type": "content_block_start", "index": 0, "content_block":
                             {"type": "web_fetch_tool_result", "content": {"data": long(6 << 20)}}});
        let picture = json!({"type": "response.image_generation_call.partial_image",
                             "partial_image_b64": long(3 << 20)});
        let end = json!({"type": "response.completed", "response": {"status": "completed", "output": [long(6 << 20)]}});
        for (claim, dialect, asked_bytes, event, times, goes_on) in [
            ("its instructions", OpenaiResponses, 2_200_000, &repeats, 2, true),
            ("more than those", OpenaiResponses, 9, &repeats, 2, false),
            ("those without an end", OpenaiResponses, 2_200_000, &repeats, 9, false),
            ("what a tool has read", AnthropicMessages, 9, &fetched, 2, true),
            ("a picture on its way", OpenaiResponses, 9, &picture, 3, true),
            ("the answer at its end", OpenaiResponses, 9, &end, 1, true),
        ] {
            let mut relay = relay(dialect);
            let mut progress = Progress::of(9, asked_bytes, &TIMEOUTS, Timestamp::default());
            let stream = format!("data: {event}\n\n").repeat(times);

            let went_on = stream.as_bytes().chunks(1 << 16).all(|part| {
                relay.push(part).expect("can be read");
                progress.advance(&relay, Timestamp::default())
            });

            assert_eq!(went_on, goes_on, "{claim}");
        }
    }

    #[tokio::test]
    async fn a_losing_stream_that_comes_to_its_end_is_known_exactly() {
        let text = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Yes.\"},\"finish_reason\":\"stop\"}]}\n\n\
                    data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":2}}\n\ndata: [DONE]\n\n";
        let (_winner_runs, stopped) = oneshot::channel();

        let mut stream = open(text);
        let ended_by = stream.read_beside(&Clock::system(), stopped).await;
        let relay = stream.read_off();

        assert_eq!(ended_by.outcome(&relay), AttemptOutcome::Succeeded);
        assert_eq!(relay.usage_json().expect("told")["completion_tokens"], 2);
    }

    #[test]
    fn a_stream_is_over_with_its_own_end_though_its_connection_stays_open() {
        let mut stream = open("");
        for (part, is_over) in [
            ("data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Yes.\"}}]}\n\n", false),
            ("data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n", false),
            ("data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":2}}\n\n", false),
            ("data: [DONE]\n\n", true),
        ] {
            stream.relay.push(part.as_bytes()).expect("can be read");

            assert_eq!((stream.is_over(), stream.ended), (is_over, false), "{part}");
        }
    }

    #[tokio::test]
    async fn a_losing_stream_that_breaks_off_is_told_from_one_that_was_given_up() {
        let text = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Y\"}}]}\n\n";
        let (_winner_runs, stopped) = oneshot::channel();

        let mut stream = open(text);
        let ended_by = stream.read_beside(&Clock::system(), stopped).await;
        let relay = stream.read_off();

        assert_eq!((ended_by, ended_by.outcome(&relay)), (EndedBy::Provider, AttemptOutcome::Broken));
    }

    #[tokio::test]
    async fn what_has_come_is_known_without_a_wait_and_read_in_order() {
        let parts = [Ok("data: 1\n\n"), Ok("data: 2\n\n"), Err(std::io::Error::other("reset"))];
        let parts = parts.map(|part| part.map(|text| Frame::data(Bytes::from_static(text.as_bytes()))));
        let body = reqwest::Body::wrap(StreamBody::new(stream::iter(parts)));
        let mut stream = OpenStream { upstream: axum::http::Response::new(body).into(), ..open("") };
        let clock = Clock::manual(Timestamp::default(), 1);

        let mut read = vec![];
        for _ in 0..3 {
            assert!(stream.look_for_more().await);
            read.push(format!("{:?}", stream.step(Duration::ZERO, &clock).await));
        }

        assert_eq!(read, ["Part(b\"data: 1\\n\\n\")", "Part(b\"data: 2\\n\\n\")", "Broken"]);
    }

    #[tokio::test]
    async fn a_stream_that_is_read_beside_another_may_be_silent_for_as_long() {
        let clock = Clock::manual(Timestamp::default(), 1);
        let (_winner_runs, stopped) = oneshot::channel();
        let mut stream = open(": ping\n\n");
        clock.advance_seconds(25);

        let ended_by = stream.read_beside(&clock, stopped).await;

        assert_eq!(ended_by, EndedBy::Provider);
    }
}
