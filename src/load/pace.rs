//! The open loop: every operation has a moment at which it is due, whatever became of those before it.
//!
//! Promises: a latency counts from the moment at which the operation was due, so that a server that stalls answers for
//! the wait of all that it delayed (a closed loop would leave them out); what could not be sent before the end, or
//! until it was stopped, counts with the wait that it had. Where a connection was free and only this machine's timer woke
//! it late, the latency counts from the waking, and the lateness is reported separately: it is not the server's. What failed is
//! counted apart: a quick refusal is no quick answer. What had no answer in time is both, since the caller has waited for it. Time is
//! Tokio's, so that tests move it.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::{CreationError, Histogram};
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::load::stop::Stop;

/// Latencies in microseconds.
pub type Latencies = Histogram<u64>;

/// An operation that is this late at the end is not sent any more.
const PATIENCE: Duration = Duration::from_secs(1);
/// A shorter wait for a connection can't be avoided, and is not counted.
const WAIT_COUNTED_MIN: Duration = Duration::from_millis(1);
/// Parts of a run whose latencies are recorded separately, at most: what a plot can show.
const SLICES_MAX: usize = 240;
const DIGITS: u8 = 3;
const DIGITS_OF_A_SLICE: u8 = 2;
/// More than the longest run and the longest wait for an answer together.
const LATENCY_SECONDS_MAX: u64 = 100_000;

/// How much is sent, how fast.
#[derive(Clone, Debug)]
pub struct Plan {
    pub pace: Pace,
    pub operations: u64,
    pub connections: usize,
    /// An operation has failed that has no answer by then.
    pub timeout: Duration,
}

/// When operations are due.
#[derive(Clone, Debug)]
pub enum Pace {
    /// Operations per second.
    Rate(f64),
    /// Each at its own time.
    Times(Arc<[Duration]>),
}

/// What became of one operation.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Each call of it by its name, and how long it took.
    pub steps: Vec<(&'static str, Duration)>,
    /// None where all was well, otherwise what came instead.
    pub failure: Option<String>,
}

/// How an operation came to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    OnTime,
    /// A connection was free, and this machine's timer was late.
    WokenLate(Duration),
    /// No connection was free when it was due.
    WaitedForConnection(Duration),
}

/// What a run came to. Latencies are those of operations that came to what was asked for, unless it says otherwise.
#[derive(Clone, Debug)]
pub struct Figures {
    /// From when an operation was due until its last answer; what was not sent is among them, and what timed out.
    pub latency: Latencies,
    /// From when an operation was sent: what a closed loop would report.
    pub from_sending: Latencies,
    /// By the names of the calls, in the order of their first appearance.
    pub steps: Vec<(&'static str, Latencies)>,
    /// From when an operation was due that failed.
    pub failed: Latencies,
    pub failures: BTreeMap<String, u64>,
    /// How late this machine's timer was, where a connection was free.
    pub timer_lateness: Latencies,
    /// Due while all connections were busy, sent in the end or not.
    pub waited: u64,
    /// Due and never sent.
    pub unsent: u64,
    /// Over how long operations were due: the whole plan, or until it was stopped.
    pub due_for: Duration,
    pub elapsed: Duration,
    /// The latencies of each part of the run, by when the operations were due.
    pub slices: Vec<Latencies>,
    pub slice: Duration,
    /// What the latencies of a call that is new start from.
    blank: Latencies,
    timeout: Duration,
    /// Without an answer in time, among `failed`.
    pub timed_out: u64,
}

impl Plan {
    /// How long the plan takes where the server keeps up.
    pub fn duration(&self) -> Duration {
        self.due(self.operations)
    }

    /// Operations a second, over all of it.
    pub fn rate(&self) -> f64 {
        match &self.pace {
            Pace::Rate(rate) => *rate,
            Pace::Times(_) => self.operations as f64 / self.duration().as_secs_f64().max(0.001),
        }
    }

    fn due(&self, number: u64) -> Duration {
        match &self.pace {
            Pace::Rate(rate) => Duration::from_secs_f64(number as f64 / rate),
            // The last one ends the plan.
            Pace::Times(times) => times.get(number as usize).or(times.last()).copied().unwrap_or_default(),
        }
    }
}

/// Sends all operations of a plan, each when it is due and a connection is free, until all are done or it is stopped.
///
/// # Errors
/// Where latencies can't be recorded: the library refused their bounds.
pub async fn drive<S, F>(plan: &Plan, send: S, stop: Stop) -> Result<Figures, CreationError>
where
    S: Fn(u64) -> F + Clone + Send + 'static,
    F: Future<Output = Sent> + Send + 'static,
{
    let started = Instant::now();
    let figures = Arc::new(Mutex::new(Figures::empty(plan)?));
    let next = Arc::new(AtomicU64::new(0));
    let mut workers = JoinSet::new();
    for _ in 0..plan.connections {
        let (figures, next, stop) = (figures.clone(), next.clone(), stop.clone());
        let worker = Worker { plan: plan.clone(), started, figures, next, stop };
        workers.spawn(worker.work(send.clone()));
    }
    while workers.join_next().await.is_some() {}
    let mut figures = figures.lock().clone();
    figures.elapsed = started.elapsed();
    if let Some(at) = stop.first_at() {
        figures.due_for = figures.due_for.min(at - started);
    }
    Ok(figures)
}

/// One connection: an operation after the other.
struct Worker {
    plan: Plan,
    started: Instant,
    figures: Arc<Mutex<Figures>>,
    next: Arc<AtomicU64>,
    stop: Stop,
}

impl Worker {
    async fn work<S, F>(mut self, send: S)
    where
        S: Fn(u64) -> F,
        F: Future<Output = Sent>,
    {
        let end = self.started + self.plan.duration() + PATIENCE;
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.plan.operations {
                return;
            }
            let due = self.started + self.plan.due(number);
            let free = Instant::now();
            if free < due {
                tokio::select! {
                    () = sleep_until(due) => {}
                    () = self.stop.signalled(1) => {}
                }
            }
            match self.stop.first_at() {
                Some(stopped) if stopped < due => return,
                // Its connections are still busy, and it will not be sent.
                Some(stopped) => self.note_unsent(due, stopped),
                None if free > end => self.note_unsent(due, free),
                None => self.send(due, free, send(number)).await,
            }
        }
    }

    async fn send(&mut self, due: Instant, free: Instant, operation: impl Future<Output = Sent>) {
        let sending = Instant::now();
        let start = Start::of(due, free, sending);
        let sent = tokio::select! {
            sent = operation => sent,
            () = self.stop.signalled(2) => Sent::given_up(),
        };
        let answered = Instant::now();
        let counts_from = if matches!(start, Start::WokenLate(_)) { sending } else { due };
        let timing = Timing {
            due: due - self.started,
            start,
            latency: answered - counts_from,
            from_sending: answered - sending,
        };
        self.note(|figures| figures.note(&timing, sent));
    }

    fn note_unsent(&self, due: Instant, until: Instant) {
        self.note(|figures| figures.note_unsent(due - self.started, until - due));
    }

    fn note(&self, note: impl FnOnce(&mut Figures)) {
        note(&mut self.figures.lock());
    }
}

impl Start {
    fn of(due: Instant, free: Instant, sending: Instant) -> Start {
        if free > due {
            Start::WaitedForConnection(free - due)
        } else if sending > due {
            Start::WokenLate(sending - due)
        } else {
            Start::OnTime
        }
    }
}

impl Sent {
    /// Stopped while it was under way.
    fn given_up() -> Sent {
        Sent { steps: Vec::new(), failure: Some("stopped before an answer".to_owned()) }
    }
}

struct Timing {
    /// Since the run began.
    due: Duration,
    start: Start,
    latency: Duration,
    from_sending: Duration,
}

impl Figures {
    fn empty(plan: &Plan) -> Result<Figures, CreationError> {
        let blank = latencies(DIGITS)?;
        let seconds = plan.duration().as_secs_f64().ceil().max(1.0);
        let slice = Duration::from_secs_f64((seconds / SLICES_MAX as f64).ceil());
        let slices = (seconds / slice.as_secs_f64()).ceil() as usize;
        Ok(Figures {
            latency: blank.clone(),
            from_sending: blank.clone(),
            steps: Vec::new(),
            failed: blank.clone(),
            failures: BTreeMap::new(),
            timer_lateness: blank.clone(),
            blank,
            waited: 0,
            unsent: 0,
            due_for: plan.duration(),
            elapsed: Duration::ZERO,
            slices: vec![latencies(DIGITS_OF_A_SLICE)?; slices],
            slice,
            timeout: plan.timeout,
            timed_out: 0,
        })
    }

    /// Operations that were sent.
    pub fn sent(&self) -> u64 {
        self.done() + self.failed.len()
    }

    /// Operations that came to what was asked for.
    pub fn done(&self) -> u64 {
        self.from_sending.len()
    }

    fn note(&mut self, timing: &Timing, sent: Sent) {
        match timing.start {
            Start::OnTime => record(&mut self.timer_lateness, Duration::ZERO),
            Start::WokenLate(late) => record(&mut self.timer_lateness, late),
            Start::WaitedForConnection(wait) => self.waited += u64::from(wait >= WAIT_COUNTED_MIN),
        }
        if let Some(failure) = sent.failure {
            *self.failures.entry(failure).or_default() += 1;
            record(&mut self.failed, timing.latency);
            if timing.from_sending >= self.timeout {
                self.timed_out += 1;
                self.note_latency(timing.due, timing.latency);
            }
            return;
        }
        self.note_latency(timing.due, timing.latency);
        record(&mut self.from_sending, timing.from_sending);
        for (name, took) in sent.steps {
            let place = self.steps.iter().position(|(known, _)| *known == name).unwrap_or_else(|| {
                self.steps.push((name, self.blank.clone()));
                self.steps.len() - 1
            });
            record(&mut self.steps[place].1, took);
        }
    }

    fn note_unsent(&mut self, due: Duration, waited: Duration) {
        self.note_latency(due, waited);
        self.waited += 1;
        self.unsent += 1;
    }

    fn note_latency(&mut self, due: Duration, latency: Duration) {
        record(&mut self.latency, latency);
        let slice = (due.as_secs_f64() / self.slice.as_secs_f64()) as usize;
        if let Some(slice) = self.slices.get_mut(slice) {
            record(slice, latency);
        }
    }
}

fn latencies(digits: u8) -> Result<Latencies, CreationError> {
    Histogram::new_with_max(LATENCY_SECONDS_MAX * 1_000_000, digits)
}

fn record(latencies: &mut Latencies, latency: Duration) {
    latencies.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
}
