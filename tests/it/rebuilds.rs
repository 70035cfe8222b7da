//! Projections that are cut off while they are folded or rebuilt, at random, while callers are at work: in the end they are
//! the fold of the log (I7). `TOLLGATE_REBUILD_ROUNDS` makes it long, `TOLLGATE_REBUILD_SEED` repeats a run.

use tollgate::clock::Clock;
use tollgate::domain::views::View;
use tollgate::simulator::chance::Chance;
use tollgate::store::StoreError;

use crate::support::TestApp;
use crate::traffic::Traffic;
use crate::waiting::until;

const ROUNDS: u64 = 40;
const CALLERS: u64 = 4;
/// Pairs that are done before a fold is cut off, below this.
const PAIRS_MAX: u64 = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i7_projections_that_are_cut_off_and_rebuilt_under_traffic_are_the_fold() {
    let from_environment = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let rounds = from_environment("TOLLGATE_REBUILD_ROUNDS").unwrap_or(ROUNDS);
    let seed =
        from_environment("TOLLGATE_REBUILD_SEED").unwrap_or_else(|| Clock::system().uuid().as_u64_pair().1);
    println!("TOLLGATE_REBUILD_ROUNDS={rounds} TOLLGATE_REBUILD_SEED={seed}");
    let app = TestApp::start().await;
    let acme = app.funded("acme", "100000").await;
    let traffic = Traffic::new("acme", vec![acme]);
    let callers = traffic.start(CALLERS, seed);
    let mut chance = Chance::of(seed, CALLERS);

    let (mut cut_off, mut whole) = (0, 0);
    for _ in 0..rounds {
        let view = View::ALL[chance.below(View::ALL.len() as u64) as usize];
        let (projector, is_rebuilt) = (app.ledger().projector().clone(), chance.below(2) == 0);
        let fold = tokio::spawn(async move {
            match is_rebuilt {
                true => projector.rebuild(view).await,
                false => projector.catch_up_all().await,
            }
        });
        let goal = traffic.done() + chance.below(PAIRS_MAX) as usize;
        until("more pairs, or the fold", async || traffic.done() >= goal || fold.is_finished()).await;
        fold.abort();
        match fold.await {
            Ok(Ok(())) => whole += 1,
            // The server may still be at what was cut off before: it then stands in the way, and says so.
            Ok(Err(StoreError::Unavailable(why))) if why.contains("another process") => cut_off += 1,
            Ok(Err(error)) => panic!("{error}"),
            Err(_) => cut_off += 1,
        }
    }

    traffic.stop(callers).await;
    traffic.check(&app).await;
    println!("{cut_off} folds cut off, {whole} whole, {} pairs meanwhile", traffic.done());
    assert!(cut_off > 0, "none was cut off");
    app.finish().await;
}
