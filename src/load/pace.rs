//! The open loop: every operation has a moment at which it is due, whatever became of those before it.
//!
//! Promises: a latency counts from the moment at which the operation was due, so that a server that stalls answers for
//! the wait of all that it kept waiting (a closed loop would leave them out); what could not be sent before the end
//! counts with the wait that it had. Where a connection was free and only this machine's timer woke it late, the latency
//! counts from the waking, and the lateness is told apart: it is not the server's. Time is Tokio's, so that tests move it.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::{CreationError, Histogram};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// Latencies in microseconds.
pub type Latencies = Histogram<u64>;

/// An operation that is this late at the end is not sent any more.
const PATIENCE: Duration = Duration::from_secs(1);
/// Parts of a run whose latencies are told apart, at most: what a plot can show.
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
}

/// When operations are due.
#[derive(Clone, Debug)]
pub enum Pace {
    /// So many a second.
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

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Figures {
    /// From when an operation was due until its last answer.
    pub latency: Latencies,
    /// The same from when it was sent: what a closed loop would tell.
    pub from_sending: Latencies,
    /// How late this machine's timer was.
    pub timer_lateness: Latencies,
    /// By the names of the calls, in the order of their first appearance.
    pub steps: Vec<(&'static str, Latencies)>,
    pub failures: BTreeMap<String, u64>,
    /// Due and never sent: the server took less than the rate.
    pub unsent: u64,
    pub elapsed: Duration,
    /// The latencies of each part of the run, by when the operations were due.
    pub slices: Vec<Latencies>,
    pub slice: Duration,
    /// What the latencies of a call that is new start from.
    blank: Latencies,
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
/// Where latencies can't be kept: the library refused their bounds.
pub async fn drive<S, F>(
    plan: &Plan,
    send: S,
    stop: impl Future<Output = ()>,
) -> Result<Figures, CreationError>
where
    S: Fn(u64) -> F + Clone + Send + 'static,
    F: Future<Output = Sent> + Send + 'static,
{
    let started = Instant::now();
    let figures = Arc::new(Mutex::new(Figures::empty(plan)?));
    let next = Arc::new(AtomicU64::new(0));
    let (stopped, stops) = watch::channel(false);
    let mut workers = JoinSet::new();
    for _ in 0..plan.connections {
        let worker = Worker { plan: plan.clone(), started, figures: figures.clone(), next: next.clone() };
        workers.spawn(worker.work(send.clone(), stops.clone()));
    }
    tokio::pin!(stop);
    let mut is_stopping = false;
    loop {
        tokio::select! {
            ended = workers.join_next() => if ended.is_none() { break },
            () = &mut stop, if !is_stopping => {
                is_stopping = true;
                stopped.send_replace(true);
            }
        }
    }
    let mut figures = figures.lock().unwrap_or_else(PoisonError::into_inner).clone();
    figures.elapsed = started.elapsed();
    Ok(figures)
}

/// One connection: an operation after the other.
struct Worker {
    plan: Plan,
    started: Instant,
    figures: Arc<Mutex<Figures>>,
    next: Arc<AtomicU64>,
}

impl Worker {
    async fn work<S, F>(self, send: S, mut stops: watch::Receiver<bool>)
    where
        S: Fn(u64) -> F,
        F: Future<Output = Sent>,
    {
        let end = self.started + self.plan.duration() + PATIENCE;
        while !*stops.borrow() {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.plan.operations {
                return;
            }
            let due = self.started + self.plan.due(number);
            let free = Instant::now();
            if free > end {
                self.note(|figures| figures.note_unsent(due - self.started, free - due));
                continue;
            }
            if free < due {
                tokio::select! {
                    () = sleep_until(due) => {}
                    _ = stops.changed() => return,
                }
            }
            let sending = Instant::now();
            let counts_from = if free < due { sending } else { due };
            let sent = send(number).await;
            let answered = Instant::now();
            let timing = Timing {
                due: due - self.started,
                latency: answered - counts_from,
                from_sending: answered - sending,
                timer_lateness: counts_from - due,
            };
            self.note(|figures| figures.note(&timing, sent));
        }
    }

    fn note(&self, note: impl FnOnce(&mut Figures)) {
        note(&mut self.figures.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

struct Timing {
    /// Since the run began.
    due: Duration,
    latency: Duration,
    from_sending: Duration,
    timer_lateness: Duration,
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
            timer_lateness: blank.clone(),
            blank,
            steps: Vec::new(),
            failures: BTreeMap::new(),
            unsent: 0,
            elapsed: Duration::ZERO,
            slices: vec![latencies(DIGITS_OF_A_SLICE)?; slices],
            slice,
        })
    }

    /// Operations that were sent.
    pub fn sent(&self) -> u64 {
        self.from_sending.len()
    }

    /// Operations that came to what was asked for.
    pub fn done(&self) -> u64 {
        self.sent() - self.failures.values().sum::<u64>()
    }

    fn note(&mut self, timing: &Timing, sent: Sent) {
        self.note_latency(timing.due, timing.latency);
        record(&mut self.from_sending, timing.from_sending);
        record(&mut self.timer_lateness, timing.timer_lateness);
        for (name, took) in sent.steps {
            let place = self.steps.iter().position(|(known, _)| *known == name).unwrap_or_else(|| {
                self.steps.push((name, self.blank.clone()));
                self.steps.len() - 1
            });
            record(&mut self.steps[place].1, took);
        }
        if let Some(failure) = sent.failure {
            *self.failures.entry(failure).or_default() += 1;
        }
    }

    fn note_unsent(&mut self, due: Duration, waited: Duration) {
        self.note_latency(due, waited);
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
