//! What a load came to, as a table for people and as JSON for programs.

use std::fmt::Write;

use serde_json::{Map, Value, json};

use crate::load::pace::{Figures, Latencies, Plan};

/// Waits that are rarer than one in this many operations are not reported.
const WAITS_TOLD_OF: u64 = 100;
/// A timer that is later than this by its p99 says that the machine of the load is short of CPU.
const TIMER_LATENESS_MICROS_MAX: u64 = 5_000;

pub fn table(plan: &Plan, figures: &Figures) -> String {
    let mut text = String::new();
    // Writing into a text can't fail.
    let _ = lines(&mut text, plan, figures);
    text
}

fn lines(text: &mut String, plan: &Plan, figures: &Figures) -> std::fmt::Result {
    writeln!(
        text,
        "{} of {} operations in {:.1} s: {:.1} a second, where {:.1} were asked for",
        figures.sent(),
        plan.operations,
        figures.elapsed.as_secs_f64(),
        per_second(figures),
        plan.rate(),
    )?;
    writeln!(text, "{} done, {} failed, {} not sent", figures.done(), failed(figures), figures.unsent)?;
    for (what, count) in &figures.failures {
        writeln!(text, "  {count} × {what}")?;
    }
    let header = ["ms", "p50", "p90", "p99", "p99.9", "max"];
    writeln!(
        text,
        "\n{:<24} {:>10} {:>10} {:>10} {:>10} {:>10}",
        header[0], header[1], header[2], header[3], header[4], header[5]
    )?;
    for (name, latencies) in rows(figures) {
        let [p50, p90, p99, p999, max] = quantiles(latencies).map(millis);
        writeln!(text, "{name:<24} {p50:>10.3} {p90:>10.3} {p99:>10.3} {p999:>10.3} {max:>10.3}")?;
    }
    writeln!(
        text,
        "\nFrom due: as long as a caller at that rate waits, waiting for a free connection included."
    )?;
    if figures.timed_out > 0 {
        writeln!(
            text,
            "What had no answer in time is among those that failed, and counts there with its wait."
        )?;
    }
    if failed(figures) > figures.timed_out {
        writeln!(
            text,
            "What failed otherwise waited as long as \"failed\" says, from due too, and is not among those."
        )?;
    }
    if is_held_back(figures) {
        writeln!(
            text,
            "All {} connections were busy when {} operations were due: the server, this machine or --connections took less than \
             the rate.",
            plan.connections, figures.waited,
        )?;
    }
    if figures.unsent > 0 {
        writeln!(text, "What was not sent counts with the wait that it had.")?;
    }
    if is_short_of_cpu(figures) {
        writeln!(
            text,
            "This machine woke the load late by {:.1} ms (p99): it is short of CPU, and its figures say less of the server.",
            millis(figures.timer_lateness.value_at_quantile(0.99)),
        )?;
    }
    Ok(())
}

/// Latencies in microseconds.
pub fn json(plan: &Plan, figures: &Figures) -> Value {
    let latencies: Map<String, Value> = rows(figures)
        .map(|(name, latencies)| {
            let [p50, p90, p99, p999, max] = quantiles(latencies);
            let row = json!({"p50": p50, "p90": p90, "p99": p99, "p99_9": p999, "max": max, "count": latencies.len()});
            (name.replace(' ', "_"), row)
        })
        .collect();
    json!({
        "rate": plan.rate(),
        "connections": plan.connections,
        "operations": plan.operations,
        "sent": figures.sent(),
        "done": figures.done(),
        "failed": failed(figures),
        "timed_out": figures.timed_out,
        "unsent": figures.unsent,
        "waited_for_connection": figures.waited,
        "failures": figures.failures,
        "seconds": figures.elapsed.as_secs_f64(),
        "per_second": per_second(figures),
        "latency_micros": latencies,
        "timer_lateness_p99_micros": figures.timer_lateness.value_at_quantile(0.99),
        "is_short_of_cpu": is_short_of_cpu(figures),
    })
}

fn rows(figures: &Figures) -> impl Iterator<Item = (&'static str, &Latencies)> {
    let whole = [("from due", &figures.latency), ("from sending", &figures.from_sending)];
    let steps = figures.steps.iter().map(|(name, latencies)| (*name, latencies));
    let failed = (!figures.failed.is_empty()).then_some(("failed", &figures.failed));
    whole.into_iter().chain(steps).chain(failed)
}

fn quantiles(latencies: &Latencies) -> [u64; 5] {
    [0.5, 0.9, 0.99, 0.999, 1.0].map(|quantile| latencies.value_at_quantile(quantile))
}

pub fn millis(micros: u64) -> f64 {
    micros as f64 / 1_000.0
}

fn failed(figures: &Figures) -> u64 {
    figures.sent() - figures.done()
}

/// The last operation's share of the time counts too: ten at one a second take ten seconds, not nine.
fn per_second(figures: &Figures) -> f64 {
    figures.done() as f64 / figures.elapsed.max(figures.due_for).as_secs_f64().max(0.001)
}

fn is_held_back(figures: &Figures) -> bool {
    figures.waited * WAITS_TOLD_OF >= (figures.sent() + figures.unsent).max(1)
}

fn is_short_of_cpu(figures: &Figures) -> bool {
    figures.timer_lateness.value_at_quantile(0.99) > TIMER_LATENESS_MICROS_MAX
}
