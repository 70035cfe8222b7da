//! Keeps the projections of one shard up with its log, at the node that owns the shard. Where that is another one, this
//! node only looks how far it has come; should two run at once, the checkpoints let one of them pass.

use std::time::Duration;

use tokio::time::Instant;

use crate::ledger::Ledger;
use crate::store::StoreError;
use crate::workers::leftovers::Leftovers;

/// Between two rounds of which the first failed.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);
/// Rows of one org or reservation that come close together are written once, and so is each page that they share.
/// Whoever needs a current row does not wait for this.
const GATHER_INTERVAL: Duration = Duration::from_millis(500);
/// How long a runner leaves the shard to another one that was first: two that both believe that they own it would each
/// read and fold all of it, for nothing.
const OVERTAKEN_PAUSE: Duration = Duration::from_secs(2);
/// How soon a node notices that a shard has become its own, though nobody writes to it.
const OWNERSHIP_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How often a node looks at the projections of a shard though nobody writes to it: rows that another node dropped, as after a
/// restore, are folded again.
const REST_MAX: Duration = Duration::from_secs(30);

/// What a round came to.
enum Round {
    AllFolded,
    /// The shard's owner has not folded everything yet.
    OwnerBehind,
    /// Another runner folded the shard meanwhile.
    Overtaken,
}

pub(super) async fn run(ledger: Ledger, shard: i32) {
    let projector = ledger.projector().clone();
    let mut leftovers = Leftovers::default();
    // Since when everything is folded, and whether this node had to see to it: nothing is asked meanwhile.
    let mut at_rest: Option<(Instant, bool)> = None;
    loop {
        let owns = ledger.owns(shard);
        if at_rest.is_none_or(|(since, owned)| owned != owns || since.elapsed() > REST_MAX) {
            match round(&ledger, shard, owns, &mut leftovers).await {
                Ok(Round::AllFolded) => at_rest = Some((Instant::now(), owns)),
                Ok(Round::OwnerBehind) => {}
                Ok(Round::Overtaken) => tokio::time::sleep(OVERTAKEN_PAUSE).await,
                Err(error) => {
                    tracing::warn!(%error, shard, "the projections fall behind");
                    tokio::time::sleep(FAILURE_PAUSE).await;
                    continue;
                }
            }
        }
        // Late or early, the next round folds what there is.
        let written = match ledger.log().is_shared() {
            true => tokio::time::timeout(OWNERSHIP_CHECK_INTERVAL, projector.written(shard)).await.is_ok(),
            false => {
                projector.written(shard).await;
                true
            }
        };
        at_rest = at_rest.filter(|_| !written);
        tokio::time::sleep(GATHER_INTERVAL).await;
    }
}

async fn round(
    ledger: &Ledger,
    shard: i32,
    owns: bool,
    leftovers: &mut Leftovers,
) -> Result<Round, StoreError> {
    let projector = ledger.projector();
    if owns {
        let was_first = projector.run(shard).await?;
        leftovers.drop_stale(projector, shard, Instant::now()).await?;
        return Ok(if was_first { Round::AllFolded } else { Round::Overtaken });
    }
    projector.observe(shard).await?;
    Ok(if ledger.is_folded(shard) { Round::AllFolded } else { Round::OwnerBehind })
}
