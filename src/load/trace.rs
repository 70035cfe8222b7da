//! A recorded trace of requests: when each came, and how large it was.
//!
//! A file of comma-separated values: a line of names, then a row for each request in the order of time: when it came (in
//! milliseconds, or as `2023-11-16 18:15:46.68`), its input tokens, and its output tokens; columns after that are not
//! read. This is how the Azure traces come, and others can be brought into it.

use std::path::Path;
use std::time::Duration;

use chrono::NaiveDateTime;

use crate::load::LoadError;

const TIME: &str = "%Y-%m-%d %H:%M:%S%.f";

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Since the first one.
    pub after: Duration,
    pub input_tokens: u32,
    pub output_tokens: u32,
}

/// The requests of a file, as if time went so many times as fast.
///
/// # Errors
/// `Trace` with the line that can't be read, or where there is none to send.
pub fn read(file: &Path, speed: f64) -> Result<Vec<Row>, LoadError> {
    let told = |why: String| LoadError::Trace(format!("{}: {why}", file.display()));
    let mut reader = csv::Reader::from_path(file).map_err(|why| told(why.to_string()))?;
    let mut rows = Vec::new();
    let mut first_micros = None;
    for (line, record) in (2..).zip(reader.records()) {
        let record = record.map_err(|why| told(why.to_string()))?;
        let read = |column: usize| record.get(column).unwrap_or_default().trim();
        let tokens = |column, name| {
            read(column).parse::<u32>().map_err(|_| told(format!("line {line}: {name} are a number")))
        };
        let at = micros(read(0)).ok_or_else(|| told(format!("line {line}: no time")))?;
        let after =
            at.checked_sub(*first_micros.get_or_insert(at)).and_then(|after| u64::try_from(after).ok());
        let after = after.ok_or_else(|| told(format!("line {line}: earlier than the first")))?;
        let after = Duration::from_micros(after).div_f64(speed);
        if rows.last().is_some_and(|before: &Row| before.after > after) {
            return Err(told(format!("line {line}: earlier than the one before it")));
        }
        let (input_tokens, output_tokens) = (tokens(1, "input tokens")?, tokens(2, "output tokens")?);
        rows.push(Row { after, input_tokens, output_tokens });
    }
    if rows.is_empty() { Err(told("no requests".to_owned())) } else { Ok(rows) }
}

fn micros(text: &str) -> Option<i64> {
    match text.parse::<i64>() {
        Ok(millis) => millis.checked_mul(1_000),
        Err(_) => Some(NaiveDateTime::parse_from_str(text, TIME).ok()?.and_utc().timestamp_micros()),
    }
}
