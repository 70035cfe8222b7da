//! A recorded trace of requests: when each came, and how large it was.
//!
//! A file of comma-separated values: a line of names, which may be absent, then a row for each request in the order of time:
//! when it came (in milliseconds, or as `2023-11-16 18:15:46.68`, with or without an offset), its input tokens, and its
//! output tokens; columns after that are not read. This is how the Azure traces come, and others can be brought into it.

use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, NaiveDateTime};
use csv::StringRecord;

use crate::load::LoadError;

const TIMES: [&str; 2] = ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f"];
/// More than any context window; each is a word of a text that is held in memory.
const TOKENS_MAX: u32 = 4_000_000;
/// Longer than any trace.
const AFTER_MAX: Duration = Duration::from_secs(10 * 366 * 86_400);

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Since the first one.
    pub after: Duration,
    pub input_tokens: u32,
    pub output_tokens: u32,
}

/// The requests of a file, as if time went `speed` times as fast.
///
/// # Errors
/// `Trace` with the line that can't be read, or where there is none to send.
pub fn read(file: &Path, speed: f64) -> Result<Vec<Row>, LoadError> {
    let error = |why: String| LoadError::Trace(format!("{}: {why}", file.display()));
    let reader = csv::ReaderBuilder::new().has_headers(false).from_path(file);
    let mut reader = reader.map_err(|why| error(why.to_string()))?;
    let mut rows: Vec<Row> = Vec::new();
    let mut first_micros = None;
    for (place, record) in reader.records().enumerate() {
        let record = record.map_err(|why| error(why.to_string()))?;
        let line = record.position().map_or(0, csv::Position::line);
        if place == 0 && is_of_names(&record) {
            continue;
        }
        let row =
            row(&record, &mut first_micros, speed).map_err(|why| error(format!("line {line}: {why}")))?;
        if rows.last().is_some_and(|before| before.after > row.after) {
            return Err(error(format!("line {line}: earlier than the one before it")));
        }
        rows.push(row);
    }
    if rows.is_empty() { Err(error("no requests".to_owned())) } else { Ok(rows) }
}

fn is_of_names(record: &StringRecord) -> bool {
    (0..3).all(|column| cell(record, column).parse::<i64>().is_err()) && micros(cell(record, 0)).is_none()
}

fn cell(record: &StringRecord, column: usize) -> &str {
    record.get(column).unwrap_or_default().trim()
}

fn row(record: &StringRecord, first_micros: &mut Option<i64>, speed: f64) -> Result<Row, String> {
    let at = micros(cell(record, 0)).ok_or(
        "no time: it is written in milliseconds, or as 2023-11-16 18:15:46.68, or with an offset (+00:00)",
    )?;
    let after = at.checked_sub(*first_micros.get_or_insert(at)).ok_or("too far from the first")?;
    let after = u64::try_from(after).map_err(|_| "earlier than the first")?;
    let after = Duration::try_from_secs_f64(Duration::from_micros(after).as_secs_f64() / speed);
    let after = after.ok().filter(|after| *after <= AFTER_MAX).ok_or("too far from the first")?;
    Ok(Row {
        after,
        input_tokens: tokens(record, 1, "input tokens")?,
        output_tokens: tokens(record, 2, "output tokens")?,
    })
}

fn tokens(record: &StringRecord, column: usize, name: &str) -> Result<u32, String> {
    let count = cell(record, column).parse().ok().filter(|count| *count <= TOKENS_MAX);
    count.ok_or_else(|| format!("{name} are a number up to {TOKENS_MAX}"))
}

fn micros(text: &str) -> Option<i64> {
    if let Ok(millis) = text.parse::<i64>() {
        return millis.checked_mul(1_000);
    }
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Some(time.timestamp_micros());
    }
    let time = TIMES.iter().find_map(|form| NaiveDateTime::parse_from_str(text, form).ok())?;
    Some(time.and_utc().timestamp_micros())
}
