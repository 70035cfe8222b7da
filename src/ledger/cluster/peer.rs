//! Another node: commands go to it in batches, as in group commit. While some are under way, the next gather.
//!
//! Only silence is taken over, and single commands of which the owner does not know, or not in time, whether they were
//! written: their shards' epochs are raised first, so that a copy of a command that is still on its way can never be written
//! after its sender has decided it by itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use reqwest::StatusCode;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use uuid::Uuid;

use super::wire::{Answer, LATE_TIMEOUT, elements};
use super::{NODE_HEADER, PATH, Transport};
use crate::ledger::places::Place;
use crate::ledger::{LedgerError, QUEUE_MAX};
use crate::store::Node;

/// Commands in one request.
const BATCH_MAX: usize = 1_024;
/// Requests under way: while the owner commits one, it decides the next.
const REQUESTS_IN_FLIGHT_MAX: usize = 4;
/// A node that says nothing for this long is taken over. Longer than a commit, shorter than what a caller would feel as an
/// outage.
const RESPONSE_TIMEOUT: Duration = Duration::from_millis(1_500);
/// Beats for which a silent node is passed over; doubled while it stays silent.
const DISTRUST_BEATS: u32 = 4;
const DISTRUST_BEATS_MAX: u32 = 64;

#[derive(Debug)]
pub struct Peer {
    pub node: Node,
    queue: mpsc::Sender<ForwardedCommand>,
    trust: Arc<Trust>,
}

/// How far a peer is relied on.
#[derive(Debug, Default)]
struct Trust {
    /// Beats for which it is passed over.
    beats_left: AtomicU32,
    /// What the last silence cost it.
    beats_last: AtomicU32,
}

struct ForwardedCommand {
    shard: i32,
    epoch: i64,
    /// A command as JSON.
    body: Vec<u8>,
    reply: oneshot::Sender<ForwardReply>,
    _place: Place,
}

/// What became of a command that was forwarded.
#[derive(Debug)]
pub enum ForwardReply {
    Answered(Answer),
    /// It was not decided there, and can't be any more.
    NotDecided,
    /// It was written there before its sender fell silent, or can't be any more.
    GivenUp,
    /// Nobody knows; the log can't be asked.
    Unknown(LedgerError),
}

impl Peer {
    pub fn start(node: Node, transport: Arc<Transport>) -> Arc<Peer> {
        let (queue, commands) = mpsc::channel(QUEUE_MAX);
        let trust = Arc::new(Trust::default());
        let url = format!("http://{}{PATH}", node.address);
        let sender = PeerSender { node: node.id, url, transport, trust: trust.clone() };
        tokio::spawn(deliver_all(sender, commands));
        Arc::new(Peer { node, queue, trust })
    }

    pub fn is_trusted(&self) -> bool {
        !self.trust.is_lost()
    }

    /// A beat has passed.
    pub fn beat(&self) {
        let count = |beats: u32| beats.checked_sub(1);
        // Nothing to count where it is trusted.
        let _ = self.trust.beats_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count);
    }

    /// # Errors
    /// `Busy` where too many commands wait for this node.
    pub async fn send(
        &self,
        shard: i32,
        epoch: i64,
        body: Vec<u8>,
        place: Place,
    ) -> Result<ForwardReply, LedgerError> {
        let (reply, answer) = oneshot::channel();
        let command = ForwardedCommand { shard, epoch, body, reply, _place: place };
        self.queue.try_send(command).map_err(|_| LedgerError::Busy)?;
        Ok(answer.await.unwrap_or(ForwardReply::NotDecided))
    }
}

impl Trust {
    fn is_lost(&self) -> bool {
        self.beats_left.load(Ordering::Relaxed) > 0
    }

    /// Once for each silence, whatever was under way when it began.
    fn lose(&self) {
        if self.is_lost() {
            return;
        }
        let beats = (self.beats_last.load(Ordering::Relaxed) * 2).clamp(DISTRUST_BEATS, DISTRUST_BEATS_MAX);
        self.beats_last.store(beats, Ordering::Relaxed);
        self.beats_left.store(beats, Ordering::Relaxed);
    }

    /// Acts on what a node answered, and after how long; says how many of the answers came too late to be any.
    fn judge(&self, answers: &[Answer], after: Duration) -> usize {
        // Under a passed epoch a command is given back at once; else it has waited for the writer in vain.
        let has_waited = after >= LATE_TIMEOUT;
        let is_late =
            |answer: &&Answer| answer.is_open() || (has_waited && matches!(answer, Answer::Dropped));
        let late = answers.iter().filter(is_late).count();
        match (answers.len() - late, late) {
            // It may be one slow read; of several commands, its writer stands still.
            (0, 0..2) => {}
            (0, _) => self.lose(),
            _ => self.regain(),
        }
        late
    }

    fn regain(&self) {
        self.beats_last.store(0, Ordering::Relaxed);
    }
}

#[derive(Clone)]
struct PeerSender {
    node: Uuid,
    url: String,
    transport: Arc<Transport>,
    trust: Arc<Trust>,
}

/// What went wrong on the way.
enum Lost {
    /// It never arrived.
    NotSent,
    /// Another node is at its address, maybe this one.
    Misdirected,
    Silent,
}

async fn deliver_all(sender: PeerSender, mut queue: mpsc::Receiver<ForwardedCommand>) {
    let under_way = Arc::new(Semaphore::new(REQUESTS_IN_FLIGHT_MAX));
    loop {
        let Ok(permit) = under_way.clone().acquire_owned().await else { return };
        let mut commands = Vec::new();
        if queue.recv_many(&mut commands, BATCH_MAX).await == 0 {
            return;
        }
        let sender = sender.clone();
        tokio::spawn(async move {
            sender.deliver(commands).await;
            drop(permit);
        });
    }
}

impl PeerSender {
    async fn deliver(&self, commands: Vec<ForwardedCommand>) {
        if self.trust.is_lost() {
            // What came while it was silent does not wait for it again.
            return commands.into_iter().for_each(|command| command.answer(ForwardReply::NotDecided));
        }
        let asked = Instant::now();
        match self.ask(&commands).await {
            Ok(answers) => {
                let late = self.trust.judge(&answers, asked.elapsed());
                metrics::counter!("tollgate_forwarded_total").increment((answers.len() - late) as u64);
                metrics::counter!("tollgate_forwards_lost_total").increment(late as u64);
                let (open, answered): (Vec<_>, Vec<_>) =
                    commands.into_iter().zip(answers).partition(|(_, answer)| answer.is_open());
                for (command, answer) in answered {
                    command.answer(ForwardReply::Answered(answer));
                }
                // As those of a silent node: it may be deciding them in this moment.
                self.take_over(Lost::Silent, open.into_iter().map(|(command, _)| command).collect()).await;
            }
            Err(lost) => {
                self.trust.lose();
                let why = match lost {
                    Lost::Misdirected => {
                        "another node answers in its place: each needs an internal_address of its own"
                    }
                    Lost::NotSent | Lost::Silent => "it does not answer",
                };
                tracing::warn!(
                    url = self.url,
                    commands = commands.len(),
                    why,
                    "a node's shards are taken over"
                );
                metrics::counter!("tollgate_forwards_lost_total").increment(commands.len() as u64);
                self.take_over(lost, commands).await;
            }
        }
    }

    async fn ask(&self, commands: &[ForwardedCommand]) -> Result<Vec<Answer>, Lost> {
        let mut body =
            Vec::with_capacity(commands.iter().map(|command| command.body.len() + 1).sum::<usize>() + 2);
        for (place, command) in commands.iter().enumerate() {
            body.push(if place == 0 { b'[' } else { b',' });
            body.extend_from_slice(&command.body);
        }
        body.push(b']');
        let request = self.transport.http.post(&self.url).bearer_auth(&self.transport.secret);
        let response = request
            .header(NODE_HEADER, self.node.to_string())
            .body(body)
            .timeout(RESPONSE_TIMEOUT)
            .send()
            .await
            .map_err(|error| if error.is_connect() { Lost::NotSent } else { Lost::Silent })?;
        match response.status() {
            StatusCode::MISDIRECTED_REQUEST => return Err(Lost::Misdirected),
            status if status.is_success() => {}
            _ => return Err(Lost::Silent),
        }
        let bytes = response.bytes().await.map_err(|_| Lost::Silent)?;
        let answers =
            elements(&bytes).filter(|answers| answers.len() == commands.len()).ok_or(Lost::Silent)?;
        // One that a newer version gave, say, tells nothing here; the others do.
        Ok(answers.into_iter().map(|answer| answer.unwrap_or(Answer::Late)).collect())
    }

    async fn take_over(&self, lost: Lost, commands: Vec<ForwardedCommand>) {
        let mut raised: BTreeMap<(i32, i64), Result<(), String>> = BTreeMap::new();
        if let Lost::Silent = lost {
            for command in &commands {
                let (shard, epoch) = (command.shard, command.epoch);
                if let std::collections::btree_map::Entry::Vacant(place) = raised.entry((shard, epoch)) {
                    let done = self.transport.take_over(shard, epoch).await;
                    place.insert(done.map_err(|error| error.to_string()));
                }
            }
        }
        for command in commands {
            let reply = match raised.get(&(command.shard, command.epoch)) {
                Some(Err(why)) => ForwardReply::Unknown(LedgerError::Unknown(why.clone())),
                Some(Ok(())) => ForwardReply::GivenUp,
                None => ForwardReply::NotDecided,
            };
            command.answer(reply);
        }
    }
}

impl ForwardedCommand {
    fn answer(self, reply: ForwardReply) {
        // Its caller may have gone away.
        let _ = self.reply.send(reply);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_silence_costs_once_whatever_was_under_way() {
        let trust = Trust::default();
        let beats = || trust.beats_left.load(Ordering::Relaxed);

        for _ in 0..REQUESTS_IN_FLIGHT_MAX {
            trust.lose();
        }
        assert_eq!(beats(), DISTRUST_BEATS);

        trust.beats_left.store(0, Ordering::Relaxed);
        trust.lose();
        assert_eq!(beats(), 2 * DISTRUST_BEATS, "it is silent again");
    }

    #[test]
    fn an_owner_that_gives_several_commands_back_after_a_wait_is_passed_over() {
        let (dropped, busy) = (|| Answer::Dropped, || Answer::Busy);
        let (at_once, waited) = (Duration::from_millis(3), LATE_TIMEOUT);
        for (answers, after, late, is_lost) in [
            (vec![dropped(), dropped()], waited, 2, true),
            (vec![Answer::Late, dropped()], waited, 2, true),
            (vec![dropped()], waited, 1, false),
            (vec![dropped(), busy()], waited, 1, false),
            (vec![dropped(), dropped()], at_once, 0, false),
        ] {
            let trust = Trust::default();
            assert_eq!((trust.judge(&answers, after), trust.is_lost()), (late, is_lost), "{answers:?}");
        }
    }
}
