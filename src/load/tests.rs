//! The loop is open, the figures are honest, and all of it ends.

use std::time::Duration;

use clap::Parser;

use super::pace::{Figures, Pace, Plan, Sent, drive};
use super::{LoadArgs, LoadError, plan, plot, report, trace};

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
    Plan { pace: Pace::Rate(rate), operations, connections: 1 }
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
    let figures = driven(plan.clone(), |number| if number == 0 { 1.0 } else { 0.01 }, 100.0).await;

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
        Cli::try_parse_from(words).map(|cli| plan(&cli.load, None).map(|plan| plan.operations))
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

fn rows_of(text: &str, speed: f64) -> Result<Vec<trace::Row>, String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trace.csv");
    std::fs::write(&file, text).unwrap();
    trace::read(&file, speed).map_err(|why| why.to_string())
}

#[test]
fn a_trace_is_read_with_either_kind_of_time_and_sent_as_fast_as_told() {
    let azure = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n\
                 2023-11-16 18:15:51.6805900,396,109\n";
    let millis = "timestamp_ms,input_tokens,output_tokens,cached\n0,374,44,0\n5000,396,109,512\n";

    for text in [azure, millis] {
        let rows = rows_of(text, 50.0).unwrap();

        let seen: Vec<_> = rows.iter().map(|row| (row.after, row.input_tokens, row.output_tokens)).collect();
        assert_eq!(seen, [(Duration::ZERO, 374, 44), (Duration::from_millis(100), 396, 109)], "{text}");
    }
}

#[test]
fn a_trace_that_can_not_be_sent_says_which_line_is_wrong() {
    for (rows, says) in [
        ("", "no requests"),
        ("0,1,1\nsoon,1,1", "line 3: no time"),
        ("0,many,1", "line 2: input tokens"),
        ("0,1,-1", "line 2: output tokens"),
        ("5,1,1\n4,1,1", "line 3: earlier than the first"),
        ("5,1,1\n9,1,1\n8,1,1", "line 4: earlier than the one before"),
        ("0,1,1\n1,1", "line: 3"),
    ] {
        let why = rows_of(&format!("time,in,out\n{rows}"), 1.0).unwrap_err();
        assert!(why.contains("trace.csv") && why.contains(says), "{why}");
    }
}

#[test]
fn a_trace_ends_with_its_rows_or_before() {
    let rows = rows_of("time,in,out\n0,1,1\n900,1,1\n1000,1,1\n5000,1,1\n", 1.0).unwrap();
    let asked = |line: &str| {
        let words = ["load", "gateway"].into_iter().chain(line.split_whitespace());
        Cli::try_parse_from(words).map(|cli| plan(&cli.load, Some(&rows)).unwrap())
    };

    for (line, operations, millis) in
        [("", 4, 5_000), ("--count 2", 2, 1_000), ("--seconds 1", 2, 900), ("--seconds 2", 3, 1_000)]
    {
        let plan = asked(&format!("--trace t.csv {line}")).unwrap();
        assert_eq!((plan.operations, plan.duration()), (operations, Duration::from_millis(millis)), "{line}");
    }
    assert!(asked("--speed 2").is_err(), "a speed is a trace's");
    assert!(asked("--trace t.csv --rate 5").is_err(), "a trace has its own pace");
}

#[tokio::test(start_paused = true)]
async fn a_trace_is_sent_at_its_own_times() {
    let times = [0, 200, 2_000, 2_000].map(Duration::from_millis);
    let plan = Plan { pace: Pace::Times(times.into()), operations: 4, connections: 4 };

    let figures = driven(plan.clone(), |_| 0.5, 100.0).await;

    assert_eq!((figures.sent(), figures.unsent), (4, 0));
    assert!(about(figures.elapsed.as_micros() as u64, 2_500), "{:?}", figures.elapsed);
    assert!(about(figures.latency.max(), 500), "{}", figures.latency.max());
    assert_eq!(report::json(&plan, &figures)["rate"], 2.0);
}
