use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tokio::sync::{Notify, RwLock, Semaphore};

use super::*;

/// A log with faults of a test's choice.
pub(super) struct Faulty {
    pub log: Arc<SqliteStore>,
    /// Somebody changed an amount at position 3.
    pub tampered: bool,
    /// The next commit's answer is lost.
    pub lost_answer: AtomicBool,
    /// Refuses events that bear an earlier time, as a database does whose own clock is right.
    pub since: Timestamp,
    /// What the next appends answer, the last one first.
    pub refusals: Mutex<Vec<StoreError>>,
    /// Several writers share it.
    pub shared: bool,
    /// Folds the log whenever somebody has read it.
    pub overtaking: Option<Arc<Projector>>,
    /// Makes one of these holds whenever somebody has read it, or its head; or right before each append.
    pub writes: Mutex<Vec<u128>>,
    pub races: bool,
    pub writer: Option<Ledger>,
    /// Nothing can be read by position, nor all heads.
    pub unreadable: AtomicBool,
    /// Events that other nodes seem to have written.
    pub ahead: AtomicI64,
    /// More rows than these take longer than a statement may.
    pub rows_in_time: usize,
    /// More events than these take longer than an append may.
    pub events_in_time: usize,
    /// Nothing can be read of this org.
    pub damaged: Option<OrgId>,
    /// The next commit says that it is under way, and waits.
    pub slow: Mutex<Option<[Arc<Notify>; 2]>>,
    /// Nothing is there up to here.
    pub archived_to: AtomicI64,
    /// Whoever looks something up waits while a test holds it.
    pub look_ups: RwLock<()>,
    /// Whoever looks up one of these positions waits until a test closes the gate.
    pub gated: Vec<i64>,
    pub gate: Semaphore,
    /// Whoever looks up something of this org ends there.
    pub deadly: Mutex<Option<OrgId>>,
    /// The next append has its writer end.
    pub ends_writer: AtomicBool,
    /// The next append stays on its way, and nothing is known of it.
    pub withholds: AtomicBool,
    pub withheld: Mutex<Option<(Head, Head, Vec<EventRow>)>>,
    /// What was withheld arrives as soon as somebody looks at the head.
    pub delivers: AtomicBool,
    /// The next lock can't be had.
    pub unlockable: AtomicBool,
    /// How often something was looked up.
    pub looks: AtomicUsize,
    /// Who does now, and how many did at once at most.
    pub looking: AtomicUsize,
    pub looked_most: AtomicUsize,
}

impl Faulty {
    pub fn new(log: &Arc<SqliteStore>) -> Faulty {
        Faulty {
            log: log.clone(),
            tampered: false,
            lost_answer: AtomicBool::new(false),
            since: Timestamp(0),
            refusals: Mutex::default(),
            shared: false,
            overtaking: None,
            writes: Mutex::default(),
            races: false,
            writer: None,
            unreadable: AtomicBool::new(false),
            ahead: AtomicI64::new(0),
            rows_in_time: usize::MAX,
            events_in_time: usize::MAX,
            damaged: None,
            slow: Mutex::default(),
            archived_to: AtomicI64::new(0),
            look_ups: RwLock::default(),
            gated: vec![],
            gate: Semaphore::new(0),
            deadly: Mutex::default(),
            ends_writer: AtomicBool::new(false),
            withholds: AtomicBool::new(false),
            withheld: Mutex::default(),
            delivers: AtomicBool::new(false),
            unlockable: AtomicBool::new(false),
            looks: AtomicUsize::default(),
            looking: AtomicUsize::default(),
            looked_most: AtomicUsize::default(),
        }
    }
}

impl Faulty {
    async fn write_next(&self, is_append: bool) -> Result<(), StoreError> {
        if is_append != self.races {
            return Ok(());
        }
        let next = self.writes.lock().expect("no test panicked").pop();
        if let (Some(writer), Some(next)) = (&self.writer, next) {
            let written = writer.submit(command(reserve(next, 1))).await;
            written.map_err(|error| StoreError::Corrupt(error.to_string()))?;
        }
        Ok(())
    }

    fn answers(&self) -> Result<(), StoreError> {
        match self.unreadable.load(Ordering::SeqCst) {
            true => Err(StoreError::Unavailable("the connection was cut".into())),
            false => Ok(()),
        }
    }

    /// Lets arrive what was withheld; none where nothing is.
    pub async fn deliver(&self) -> Result<Option<Appended>, StoreError> {
        let withheld = self.withheld.lock().expect("no test panicked").take();
        match withheld {
            Some((expected, new, events)) => {
                let asked = Append { shard: 0, expected: &expected, new: &new, events: &events };
                self.log.append(asked).await.map(Some)
            }
            None => Ok(None),
        }
    }
}

#[async_trait]
impl EventLog for Faulty {
    async fn heads(&self) -> Result<Vec<Head>, StoreError> {
        self.answers()?;
        let mut heads = self.log.heads().await?;
        heads[0].next_position += self.ahead.load(Ordering::SeqCst);
        Ok(heads)
    }

    async fn head(&self, shard: i32) -> Result<Head, StoreError> {
        if self.delivers.load(Ordering::SeqCst) {
            self.deliver().await?;
        }
        let head = self.log.head(shard).await?;
        self.write_next(false).await?;
        Ok(head)
    }

    async fn append(&self, asked: Append<'_>) -> Result<Appended, StoreError> {
        if asked.events.iter().any(|event| event.recorded_at < self.since.0) {
            return Err(StoreError::ClockOff);
        }
        if asked.events.len() > self.events_in_time {
            return Err(StoreError::Unavailable("canceling statement due to statement timeout".into()));
        }
        if let Some(refusal) = self.refusals.lock().expect("no test panicked").pop() {
            return Err(refusal);
        }
        let slow = self.slow.lock().expect("no test panicked").take();
        if let Some([under_way, go_on]) = slow {
            under_way.notify_one();
            go_on.notified().await;
        }
        if self.ends_writer.load(Ordering::SeqCst) {
            std::panic::resume_unwind(Box::new("its writer ends"));
        }
        if self.withholds.swap(false, Ordering::SeqCst) {
            let withheld = (asked.expected.clone(), asked.new.clone(), asked.events.to_vec());
            *self.withheld.lock().expect("no test panicked") = Some(withheld);
            return Err(StoreError::UnknownOutcome("nothing comes back".into()));
        }
        self.write_next(true).await?;
        let appended = self.log.append(asked).await?;
        match self.lost_answer.swap(false, Ordering::SeqCst) {
            true => Err(StoreError::UnknownOutcome("the connection was cut".into())),
            false => Ok(appended),
        }
    }

    async fn read(&self, shard: i32, from: i64, limit: i64) -> Result<Vec<EventRow>, StoreError> {
        self.answers()?;
        let first = self.archived_to.load(Ordering::SeqCst) + 1;
        let mut rows = self.log.read(shard, from.max(first), limit).await?;
        self.write_next(false).await?;
        if rows.len() > self.rows_in_time {
            return Err(StoreError::Unavailable("the database does not answer".into()));
        }
        for row in rows.iter_mut().filter(|row| self.tampered && row.position == 3) {
            row.payload = String::from_utf8_lossy(&row.payload).replace("\"4\"", "\"5\"").into_bytes();
        }
        if let Some(other) = &self.overtaking {
            other.catch_up(shard).await?;
        }
        Ok(rows)
    }

    async fn read_at(&self, shard: i32, positions: &[i64]) -> Result<Vec<EventRow>, StoreError> {
        let _in_turn = self.look_ups.read().await;
        self.looks.fetch_add(1, Ordering::SeqCst);
        self.looked_most.fetch_max(self.looking.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        if positions.iter().any(|position| self.gated.contains(position)) {
            self.gate.acquire().await.expect_err("a gate only closes");
        }
        // Slowly: others come meanwhile.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        let read = self.log.read_at(shard, positions).await;
        self.looking.fetch_sub(1, Ordering::SeqCst);
        let mut rows = read?;
        rows.retain(|row| row.position > self.archived_to.load(Ordering::SeqCst));
        let deadly = *self.deadly.lock().expect("no test panicked");
        if rows.iter().any(|row| deadly.is_some_and(|org| org.0 == row.org_id)) {
            std::panic::resume_unwind(Box::new("a look-up ends"));
        }
        match rows.iter().find(|row| self.damaged.is_some_and(|org| org.0 == row.org_id)) {
            Some(row) => Err(StoreError::Corrupt(format!("position {}", row.position))),
            None => Ok(rows),
        }
    }

    async fn lock(&self, shard: i32) -> Result<Box<dyn LockedHead + '_>, StoreError> {
        match self.unlockable.swap(false, Ordering::SeqCst) {
            true => Err(StoreError::Unavailable("the connection was cut".into())),
            false => self.log.lock(shard).await,
        }
    }

    fn is_shared(&self) -> bool {
        self.shared
    }
}
