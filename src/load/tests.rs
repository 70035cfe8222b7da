//! The loop is open, the figures are honest, and all of it ends.

use std::time::Duration;

use clap::Parser;

use super::pace::{Figures, Plan, Sent, drive};
use super::{LoadArgs, LoadError, plan, plot, report};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    load: LoadArgs,
}

/// One connection; each operation takes as many seconds as it is told to.
async fn driven(
    plan: Plan,
    seconds: impl Fn(u64) -> f64 + Clone + Send + 'static,
    stop_seconds: f64,
) -> Figures {
    let send = move |number| {
        let took = Duration::from_secs_f64(seconds(number));
        async move {
            tokio::time::sleep(took).await;
            let failure = (number == 3).then(|| "503".to_owned());
            Sent { steps: vec![("call", took)], failure }
        }
    };
    drive(&plan, send, tokio::time::sleep(Duration::from_secs_f64(stop_seconds))).await.unwrap()
}

fn plan_of(rate: f64, operations: u64) -> Plan {
    Plan { rate, operations, connections: 1 }
}

/// To the three digits that are kept.
fn about(micros: u64, millis: u64) -> bool {
    micros.abs_diff(millis * 1_000) <= millis * 2 + 2_000
}

#[tokio::test(start_paused = true)]
async fn a_stall_is_charged_with_the_wait_of_all_that_it_kept_waiting() {
    let figures = driven(plan_of(10.0, 10), |number| if number == 0 { 1.0 } else { 0.0 }, 100.0).await;

    assert_eq!((figures.sent(), figures.unsent, figures.done()), (10, 0, 9));
    // Due at 0, 100 … 900 ms, and all of them answered after a second.
    for (quantile, millis) in [(0.1, 100), (0.5, 500), (0.9, 900), (1.0, 1_000)] {
        let micros = figures.latency.value_at_quantile(quantile);
        assert!(about(micros, millis), "{quantile}: {micros} µs and not {millis} ms");
    }
    let closed_loop = figures.from_sending.value_at_quantile(0.9);
    assert!(closed_loop < 2_000, "a closed loop would tell of one slow call alone, not {closed_loop} µs");
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_sent_counts_with_its_wait() {
    let figures = driven(plan_of(1.0, 5), |_| 10.0, 100.0).await;

    assert_eq!((figures.sent(), figures.unsent), (1, 4));
    assert_eq!(figures.latency.len(), 5);
    assert!(about(figures.latency.min(), 6_000), "{}", figures.latency.min());
    assert!(about(figures.latency.max(), 10_000), "{}", figures.latency.max());
}

#[tokio::test(start_paused = true)]
async fn a_stopped_load_ends_with_what_it_has() {
    let figures = driven(plan_of(0.1, 1_000), |_| 0.0, 25.0).await;

    assert_eq!((figures.sent(), figures.unsent), (3, 0));
    assert!(figures.elapsed < Duration::from_secs(26), "{:?}", figures.elapsed);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_keeps_up_is_charged_with_its_own_time_alone() {
    let figures = driven(plan_of(100.0, 300), |_| 0.005, 100.0).await;

    assert_eq!((figures.sent(), figures.unsent), (300, 0));
    assert!(figures.latency.max() < 9_000, "{} µs", figures.latency.max());
    assert_eq!(figures.slices.iter().map(|slice| slice.len()).collect::<Vec<_>>(), [100, 100, 100]);
}

#[tokio::test(start_paused = true)]
async fn the_figures_are_told_as_a_table_as_json_and_as_a_picture() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("load.svg");
    let plan = plan_of(10.0, 10);
    let figures = driven(plan, |number| if number == 0 { 1.0 } else { 0.01 }, 100.0).await;

    let table = report::table(&plan, &figures);
    let json = report::json(&plan, &figures);
    plot::draw(&file, &figures).unwrap();

    assert!(table.contains("9 done, 1 failed, 0 not sent"), "{table}");
    assert!(table.contains("1 × 503"), "{table}");
    assert!(table.lines().any(|line| line.starts_with("from due")), "{table}");
    assert_eq!((&json["done"], &json["failures"]["503"]), (&9.into(), &1.into()));
    assert_eq!(json["latency_micros"]["call"]["count"], 10);
    let svg = std::fs::read_to_string(&file).unwrap();
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{svg}");
    for text in ["Latency by percentile", "from due", "p99", "90 %"] {
        assert!(svg.contains(text), "{text} is not in the picture");
    }
    assert!(matches!(plot::draw(folder.path(), &figures), Err(LoadError::Plot(_))), "a folder is no file");
}

#[test]
fn a_load_is_bounded_in_count_and_time() {
    let asked = |line: &str| {
        let words = ["load", "pairs"].into_iter().chain(line.split_whitespace());
        Cli::try_parse_from(words).map(|cli| plan(&cli.load).map(|plan| plan.operations))
    };

    for (line, operations) in [
        ("", 1_000),
        ("--rate 5", 50),
        ("--rate 5 --seconds 2", 10),
        ("--rate 5 --count 7", 7),
        ("--rate 5 --count 7 --seconds 1", 5),
        ("--rate 0.01 --seconds 1", 1),
    ] {
        assert_eq!(asked(line).unwrap().unwrap(), operations, "{line}");
    }
    assert!(matches!(asked("--rate 1000000 --seconds 60").unwrap(), Err(LoadError::TooMany(60_000_000))));
    for line in [
        "--rate 0",
        "--rate NaN",
        "--rate inf",
        "--rate -1",
        "--seconds 0",
        "--count 0",
        "--connections 0",
        "--orgs 0",
    ] {
        assert!(asked(line).is_err(), "{line}");
    }
}
