//! The loop is open, the figures are honest, and all of it ends.

use std::time::Duration;

use clap::Parser;

use super::pace::{Figures, Pace, Plan, Sent, drive};
use super::stop::Stop;
use super::traffic::{Request, Sizes};
use super::{LoadArgs, LoadError, plan, plot, report, request, trace};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    load: LoadArgs,
}

/// One connection; each operation takes as many seconds as `seconds` gives for it.
async fn driven(
    plan: Plan,
    seconds: impl Fn(u64) -> f64 + Clone + Send + 'static,
    stops: &'static [u64],
) -> Figures {
    let send = move |number| {
        let took = Duration::from_secs_f64(seconds(number));
        async move {
            tokio::time::sleep(took).await;
            let failure = (number == 3).then(|| "503".to_owned());
            Sent { steps: vec![("call", took)], failure }
        }
    };
    drive(&plan, send, stop_at(stops)).await.unwrap()
}

/// Asked to stop after so many seconds each.
fn stop_at(seconds: &'static [u64]) -> Stop {
    let started = tokio::time::Instant::now();
    let mut left = seconds.iter();
    Stop::by(move || {
        let at = left.next().map(|seconds| started + Duration::from_secs(*seconds));
        async move {
            match at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        }
    })
}

fn plan_of(rate: f64, operations: u64) -> Plan {
    Plan { pace: Pace::Rate(rate), operations, connections: 1, timeout: Duration::from_secs(60) }
}

/// To the three digits that are recorded.
fn about(micros: u64, millis: u64) -> bool {
    micros.abs_diff(millis * 1_000) <= millis * 2 + 2_000
}

#[tokio::test(start_paused = true)]
async fn a_stall_is_charged_with_the_wait_of_all_that_it_kept_waiting() {
    let figures = driven(plan_of(10.0, 10), |number| if number == 0 { 1.0 } else { 0.0 }, &[]).await;

    assert_eq!((figures.sent(), figures.unsent, figures.done()), (10, 0, 9));
    // Due at 0, 100 … 900 ms, and all of them answered after a second.
    for (quantile, millis) in [(0.1, 100), (0.5, 500), (0.85, 900), (1.0, 1_000)] {
        let micros = figures.latency.value_at_quantile(quantile);
        assert!(about(micros, millis), "{quantile}: {micros} µs and not {millis} ms");
    }
    let closed_loop = figures.from_sending.value_at_quantile(0.85);
    assert!(closed_loop < 2_000, "a closed loop would report one slow call alone, not {closed_loop} µs");
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_sent_counts_with_its_wait() {
    let figures = driven(plan_of(1.0, 5), |_| 10.0, &[]).await;

    assert_eq!((figures.sent(), figures.unsent), (1, 4));
    assert_eq!(figures.latency.len(), 5);
    assert!(about(figures.latency.min(), 6_000), "{}", figures.latency.min());
    assert!(about(figures.latency.max(), 10_000), "{}", figures.latency.max());
}

#[tokio::test(start_paused = true)]
async fn a_stopped_load_ends_with_what_it_has() {
    let figures = driven(plan_of(0.1, 1_000), |_| 0.0, &[25]).await;

    assert_eq!((figures.sent(), figures.unsent), (3, 0));
    assert!(figures.elapsed < Duration::from_secs(26), "{:?}", figures.elapsed);
}

#[tokio::test(start_paused = true)]
async fn a_stopped_load_tells_of_the_backlog_that_it_had() {
    let figures = driven(plan_of(1.0, 1_000), |_| 10.0, &[5]).await;

    // Due at 0, 1 … 5 s, the first one under way.
    assert_eq!((figures.sent(), figures.unsent, figures.waited), (1, 5, 5));
    assert!(about(figures.latency.max(), 10_000), "{}", figures.latency.max());
    assert!(about(figures.latency.value_at_quantile(0.8), 4_000), "the second waited from 1 s to 5 s");
    assert_eq!(figures.due_for, Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn a_second_stop_gives_up_what_is_under_way() {
    let figures = driven(plan_of(1.0, 1_000), |_| 3_600.0, &[5, 7]).await;

    assert_eq!((figures.sent(), figures.done(), figures.unsent), (1, 0, 5));
    assert_eq!(figures.failures["stopped before an answer"], 1);
    assert!(figures.elapsed < Duration::from_secs(8), "{:?}", figures.elapsed);
}

#[tokio::test(start_paused = true)]
async fn what_failed_is_no_latency_of_what_worked() {
    let figures = driven(plan_of(1.0, 10), |number| if number == 3 { 0.9 } else { 0.1 }, &[]).await;

    assert!(about(figures.latency.max(), 100), "{}", figures.latency.max());
    assert_eq!((figures.failed.len(), figures.steps[0].1.len()), (1, 9));
    assert!(about(figures.failed.max(), 900), "{}", figures.failed.max());
}

#[tokio::test(start_paused = true)]
async fn what_had_no_answer_in_time_counts_with_its_wait() {
    let plan = plan_of(1.0, 4);
    let figures = driven(plan.clone(), |number| if number == 3 { 60.0 } else { 0.1 }, &[]).await;

    assert_eq!(
        (figures.latency.len(), figures.failed.len(), figures.timed_out, figures.done()),
        (4, 1, 1, 3)
    );
    assert!(about(figures.latency.max(), 60_000), "{}", figures.latency.max());
    assert!(about(figures.slices[3].max(), 60_000), "{}", figures.slices[3].max());
    assert!(about(figures.from_sending.max(), 100), "{}", figures.from_sending.max());
    let table = report::table(&plan, &figures);
    assert!(table.contains("no answer in time"), "{table}");
    assert_eq!(report::json(&plan, &figures)["timed_out"], 1);
}

#[tokio::test(start_paused = true)]
async fn busy_connections_are_told_as_what_held_the_load_back_and_a_late_timer_only_of_free_ones() {
    let busy = plan_of(10.0, 40);
    let figures = driven(busy.clone(), |_| 0.3, &[]).await;
    let free = plan_of(10.0, 40);
    let unhindered = driven(free.clone(), |_| 0.01, &[]).await;

    let table = report::table(&busy, &figures);
    assert!(table.contains("All 1 connections were busy when 39 operations were due"), "{table}");
    assert_eq!(figures.timer_lateness.len(), 1, "the others found no free connection");
    let table = report::table(&free, &unhindered);
    assert!(!table.contains("busy"), "{table}");
    assert_eq!((unhindered.timer_lateness.len(), unhindered.waited), (40, 0));
}

#[tokio::test(start_paused = true)]
async fn ten_operations_at_one_a_second_are_one_a_second() {
    let plan = plan_of(1.0, 10);
    let figures = driven(plan.clone(), |_| 0.01, &[]).await;

    // One of them failed.
    assert_eq!(report::json(&plan, &figures)["per_second"], 0.9);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_keeps_up_is_charged_with_its_own_time_alone() {
    let figures = driven(plan_of(100.0, 300), |_| 0.005, &[]).await;

    assert_eq!((figures.sent(), figures.done(), figures.unsent), (300, 299, 0));
    assert!(figures.latency.max() < 9_000, "{} µs", figures.latency.max());
    assert_eq!(figures.slices.iter().map(|slice| slice.len()).collect::<Vec<_>>(), [99, 100, 100]);
}

#[tokio::test(start_paused = true)]
async fn the_figures_are_told_as_a_table_as_json_and_as_a_picture() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("load.svg");
    let plan = plan_of(10.0, 10);
    let figures = driven(plan.clone(), |number| if number == 0 { 1.0 } else { 0.01 }, &[]).await;

    let table = report::table(&plan, &figures);
    let json = report::json(&plan, &figures);
    plot::draw(&file, &figures).unwrap();

    assert!(table.contains("9 done, 1 failed, 0 not sent"), "{table}");
    assert!(table.contains("1 × 503"), "{table}");
    assert!(table.lines().any(|line| line.starts_with("from due")), "{table}");
    assert!(table.lines().any(|line| line.starts_with("failed ")), "{table}");
    assert!(table.contains("What failed otherwise"), "{table}");
    assert_eq!((&json["done"], &json["failures"]["503"]), (&9.into(), &1.into()));
    let counted = |row: &str| json["latency_micros"][row]["count"].as_u64();
    assert_eq!((counted("call"), counted("from_due"), counted("failed")), (Some(9), Some(9), Some(1)));
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
        "--timeout-seconds 0",
        "--server localhost:8080",
        "--server nonsense",
        "--org acme",
        "--key k --org acme --orgs 2",
    ] {
        assert!(asked(line).is_err(), "{line}");
    }
}

#[test]
fn pairs_have_no_options_of_the_gateway() {
    for option in ["--stream", "--model gpt-4o", "--words 100", "--output-tokens 40", "--trace t.csv"] {
        let words = ["load", "pairs"].into_iter().chain(option.split_whitespace());
        let refused = request(&Cli::try_parse_from(words).unwrap().load, None).unwrap_err().to_string();
        let name = option.split_whitespace().next().unwrap();
        assert!(refused.contains(&format!("load gateway {name}")), "{refused}");
    }
}

#[test]
fn no_two_requests_have_the_same_text_in_one_run_or_in_several() {
    let sizes = Sizes::All { words: 3, output_tokens: 5 };
    let request = Request::Chat { model: "m".to_owned(), sizes, is_streamed: false };
    let text = |run, number| request.body(run, number)["messages"][0]["content"].as_str().unwrap().to_owned();

    let texts = [text("0190-aaaa1111", 0), text("0190-aaaa1111", 1), text("0190-bbbb2222", 0)];

    assert!(texts[0] != texts[1] && texts[0] != texts[2], "{texts:?}");
    assert!(texts[2].starts_with("bbbb2222 "), "a cache by prefix ends with the run: {texts:?}");
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
    let without_names = "0,374,44\n5000,396,109\n";
    let offsets = "t,in,out\n2024-05-10 00:00:00.0099+02:00,374,44\n2024-05-09T22:00:05.0099Z,396,109\n";
    let of_iso = "t,in,out\n2024-05-10T00:00:00,374,44\n2024-05-10T00:00:05,396,109\n";

    for text in [azure, millis, without_names, offsets, of_iso] {
        let rows = rows_of(text, 50.0).unwrap();

        let seen: Vec<_> = rows.iter().map(|row| (row.after, row.input_tokens, row.output_tokens)).collect();
        assert_eq!(seen, [(Duration::ZERO, 374, 44), (Duration::from_millis(100), 396, 109)], "{text}");
    }
}

#[test]
fn a_trace_that_can_not_be_sent_says_which_line_is_wrong() {
    for (rows, says) in [
        ("", "no requests"),
        ("0,1,1\nsoon,1,1", "line 3: no time: it is written in milliseconds, or as 2023-11-16 18:15:46.68"),
        ("0,4000000000,1", "line 2: input tokens"),
        ("0,1,1\n9000000000000000,1,1", "line 3: too far"),
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
    let plan = Plan { pace: Pace::Times(times.into()), connections: 4, ..plan_of(1.0, 4) };

    let figures = driven(plan.clone(), |_| 0.5, &[]).await;

    assert_eq!((figures.sent(), figures.unsent), (4, 0));
    assert!(about(figures.elapsed.as_micros() as u64, 2_500), "{:?}", figures.elapsed);
    assert!(about(figures.latency.max(), 500), "{}", figures.latency.max());
    assert_eq!(report::json(&plan, &figures)["rate"], 2.0);
}
