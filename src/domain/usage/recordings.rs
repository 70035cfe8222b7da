//! The recorded provider traffic, for tests: every exchange whose usage must come out right.

use std::path::PathBuf;

use serde_json::Value;

use crate::domain::usage::{
    AnthropicStream, Usage, UsageAnomaly, anthropic_other_models, from_anthropic, from_gemini,
    from_openai_chat, from_openai_embeddings, from_openai_responses,
};

/// One recorded exchange, and the file that holds it.
pub(crate) struct Exchange {
    pub file: String,
    pub line: Value,
}

impl Exchange {
    pub fn id(&self) -> &str {
        self.line["id"].as_str().unwrap_or("")
    }

    pub fn report(&self) -> Option<&Value> {
        self.line.get("usage_raw").filter(|usage| usage.is_object())
    }

    fn counts_like(&self) -> Dialect {
        let report = self.report().unwrap_or(&Value::Null);
        let has = |key: &str| report.get(key).is_some();
        if self.file.starts_with("gemini") || has("totalTokenCount") || has("promptTokenCount") {
            Dialect::Gemini
        } else if self.file.starts_with("anthropic") || self.line["provider"] == "anthropic" {
            Dialect::Anthropic
        } else if self.file.contains("embeddings") || (has("prompt_tokens") && !has("completion_tokens")) {
            Dialect::Embeddings
        } else if has("prompt_tokens") {
            Dialect::Chat
        } else {
            Dialect::Responses
        }
    }

    pub fn usage(&self) -> Option<Result<Usage, UsageAnomaly>> {
        let report = self.report()?;
        Some(match self.counts_like() {
            Dialect::Gemini => from_gemini(report),
            Dialect::Anthropic => from_anthropic(report),
            Dialect::Embeddings => from_openai_embeddings(report),
            Dialect::Chat => from_openai_chat(report),
            Dialect::Responses => from_openai_responses(report),
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    Chat,
    Responses,
    Embeddings,
    Anthropic,
    Gemini,
}

/// All recordings in files whose names pass; none where they may be lacking.
pub(crate) fn exchanges(wanted: impl Fn(&str) -> bool) -> Vec<Exchange> {
    let Some(folder) = shared("wire") else { return Vec::new() };
    let files = std::fs::read_dir(folder).expect("a folder");
    let mut files: Vec<PathBuf> = files.filter_map(|file| Some(file.ok()?.path())).collect();
    files.sort();
    let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let found: Vec<Exchange> = files
        .iter()
        .filter(|path| wanted(&name(path)))
        .flat_map(|path| {
            let text = std::fs::read_to_string(path).expect("a recording");
            text.lines()
                .map(|line| Exchange { file: name(path), line: serde_json::from_str(line).expect("json") })
                .collect::<Vec<_>>()
        })
        .collect();
    enough(found.len(), 1);
    found
}

/// What stands in the folder of shared recordings and prices. Without that folder tests fail; where
/// `TOLLGATE_MAY_LACK_RECORDINGS` says that it may be lacking, there is none.
pub(crate) fn shared(path: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("TOLLGATE_SHARED")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared")), PathBuf::from);
    let (is_there, wanted) = (folder.is_dir(), folder.join(path));
    if !is_there && std::env::var_os("TOLLGATE_MAY_LACK_RECORDINGS").is_some() {
        eprintln!("NOT RUN: there is no {}", wanted.display());
        return None;
    }
    assert!(
        wanted.exists(),
        "there is no {}: set TOLLGATE_SHARED to the folder of recordings, or TOLLGATE_MAY_LACK_RECORDINGS=1 where \
         there is none",
        wanted.display()
    );
    Some(wanted)
}

/// A test of recordings that has seen few of them proves little; none at all is said where they may be lacking.
pub(crate) fn enough(seen: usize, least: usize) {
    assert!(seen >= least || shared("wire").is_none(), "only {seen} of what was recorded was looked at");
}

/// The shared price map, where it is.
pub(crate) fn price_map_text() -> Option<String> {
    let file = shared("prices/litellm_prices_subset.json")?;
    Some(std::fs::read_to_string(file).expect("a price map"))
}

/// Each model of it, as it stands there.
pub(crate) fn price_map() -> serde_json::Map<String, Value> {
    let text = price_map_text().unwrap_or_else(|| "{}".to_owned());
    serde_json::from_str(&text).expect("a map")
}

/// Reports that no usage vector comes from, and why not.
const EXCEPTIONS: &[(&str, &str)] = &[
    ("589b536b10a9e6b3", "the answer was blocked and reports a traffic type, but no count"),
    ("063739bca479c0ec", "a transcription, counted in seconds on a route that is not offered"),
];

#[test]
fn the_classes_of_every_recorded_usage_add_up_to_what_the_provider_reports() {
    let (mut seen, mut wrong) = (0, Vec::new());
    for exchange in exchanges(|file| !file.contains("count_tokens")) {
        let Some(usage) = exchange.usage() else { continue };
        seen += 1;
        let excepted = EXCEPTIONS.iter().any(|(id, _)| *id == exchange.id());
        let outcome = match usage {
            Ok(usage) => {
                let found = (usage.input_total(), usage.output_total());
                let told = reported_totals(&exchange);
                if found == told { "adds up".into() } else { format!("{found:?} against {told:?}") }
            }
            Err(anomaly) if excepted => format!("excepted: {anomaly}"),
            Err(anomaly) => anomaly.to_string(),
        };
        let right = if excepted { outcome.starts_with("excepted") } else { outcome == "adds up" };
        if !right {
            wrong.push(format!(
                "{} {}: {outcome}: {}",
                exchange.file,
                exchange.id(),
                exchange.line["usage_raw"]
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    enough(seen, 500);
}

/// Input and output as the provider sums them, read without the parsers.
fn reported_totals(exchange: &Exchange) -> (u64, u64) {
    let report = exchange.report().expect("a report");
    let read = |key: &str| report.get(key).and_then(Value::as_u64).unwrap_or(0);
    let inside = |outer: &str, key: &str| report[outer][key].as_u64().unwrap_or(0);
    match exchange.counts_like() {
        Dialect::Chat => {
            let reasoning = inside("completion_tokens_details", "reasoning_tokens");
            let beside = match exchange.line["provider"].as_str() {
                Some("compat:api.x.ai" | "compat:ai-gateway.vercel.sh") => reasoning,
                Some(_) | None => 0,
            };
            (read("prompt_tokens"), read("completion_tokens") + beside)
        }
        Dialect::Embeddings => (read("prompt_tokens"), 0),
        Dialect::Responses => (read("input_tokens"), read("output_tokens")),
        Dialect::Anthropic => {
            let compactions = report["iterations"].as_array().into_iter().flatten();
            let (more_in, more_out) = compactions
                .filter(|iteration| iteration["type"] == "compaction")
                .map(|i| (i["input_tokens"].as_u64().unwrap_or(0), i["output_tokens"].as_u64().unwrap_or(0)))
                .fold((0, 0), |(a, b), (c, d)| (a + c, b + d));
            let input = ["input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens"];
            (input.iter().map(|key| read(key)).sum::<u64>() + more_in, read("output_tokens") + more_out)
        }
        Dialect::Gemini => (
            read("promptTokenCount") + read("toolUsePromptTokenCount"),
            read("candidatesTokenCount") + read("responseTokenCount") + read("thoughtsTokenCount"),
        ),
    }
}

#[test]
fn a_recorded_stream_of_anthropic_gives_what_its_events_say_in_the_end() {
    let mut seen = 0;
    for exchange in exchanges(|file| file.starts_with("anthropic.messages") || file.starts_with("vercel")) {
        if exchange.line["provider"] != "anthropic" {
            continue;
        }
        let Some(stream) = exchange.line["sse"].as_str() else { continue };
        let mut merged = AnthropicStream::default();
        for data in stream.lines().filter_map(|line| line.strip_prefix("data:")) {
            let Ok(event) = serde_json::from_str::<Value>(data) else { continue };
            // One fixture holds two answers, of which its usage is the last.
            if event["type"] == "message_start" {
                merged = AnthropicStream::default();
            }
            merged.observe(&event);
        }
        if let Some(whole) = exchange.report().filter(|_| merged.report().is_some()) {
            assert!(merged.is_final(), "{}", exchange.id());
            assert_eq!(merged.usage(), from_anthropic(whole), "{}", exchange.id());
            let report = merged.report().expect("a report");
            assert_eq!(anthropic_other_models(&report), anthropic_other_models(whole), "{}", exchange.id());
            seen += 1;
        }
    }
    enough(seen, 50);
}
