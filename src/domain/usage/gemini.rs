//! Gemini's counting: cached tokens lie inside the prompt; tool-use prompts lie beside it, and thoughts beside the candidates,
//! but for servers that count them inside: the total tells.
//!
//! Zeros are absent, the details by modality need not add up, and modalities may be numbers.

use serde_json::Value;

use crate::domain::usage::Usage;
use crate::domain::usage::count::{UsageAnomaly, count, no_output_of, reported};

/// The `usageMetadata` of an answer, or of the last chunk of a stream, which wins even when it is lower.
pub fn from_gemini(report: &Value) -> Result<Usage, UsageAnomaly> {
    let prompt = count(report, &["promptTokenCount"])?;
    let tool_use = count(report, &["toolUsePromptTokenCount"])?;
    let candidates = count(report, &["candidatesTokenCount"])?.max(count(report, &["responseTokenCount"])?);
    let reasoning_tokens = count(report, &["thoughtsTokenCount"])?;
    let inside = if has_thoughts_inside(report) { reasoning_tokens } else { 0 };
    let sum = prompt + tool_use + candidates + reasoning_tokens - inside;
    match reported(report, &["totalTokenCount"])? {
        Some(0) if sum == 0 => {}
        Some(_) | None if sum == 0 => return Err(UsageAnomaly::Missing { field: "token counts" }),
        Some(total) if total != sum => return Err(UsageAnomaly::SumsDiffer { total, parts: sum }),
        Some(_) | None => {}
    }
    let output = Modalities::of(report, &["candidatesTokensDetails", "responseTokensDetails"])?;
    no_output_of(output.image, "image output tokens")?;
    no_output_of(output.video, "video output tokens")?;
    let input = prompt_classes(report, prompt)?;
    Ok(Usage {
        input_tokens: input.input_tokens + tool_use,
        output_tokens: candidates
            .checked_sub(inside + output.audio)
            .ok_or(UsageAnomaly::PartExceedsWhole { part: "parts of the candidates", whole: "candidates" })?,
        reasoning_tokens,
        audio_output_tokens: output.audio,
        ..input
    })
}

/// Whether only so the total adds up. Counts that are none are for `from_gemini` to find.
pub fn has_thoughts_inside(report: &Value) -> bool {
    let count = |field: &str| report[field].as_u64().unwrap_or(0);
    let candidates = count("candidatesTokenCount").max(count("responseTokenCount"));
    let beside = count("promptTokenCount").saturating_add(count("toolUsePromptTokenCount"));
    count("thoughtsTokenCount") <= candidates
        && report["totalTokenCount"].as_u64() == Some(beside.saturating_add(candidates))
}

fn prompt_classes(report: &Value, prompt: u64) -> Result<Usage, UsageAnomaly> {
    let all = Modalities::of(report, &["promptTokensDetails", "promptTokenDetails"])?;
    let cached = Modalities::of(report, &["cacheTokensDetails"])?;
    let cached_total = count(report, &["cachedContentTokenCount"])?;
    let cached_audio = cached.audio.min(all.audio);
    let mut usage = Usage {
        cache_read_tokens: cached_total.saturating_sub(cached_audio),
        audio_input_tokens: all.audio - cached_audio,
        cached_audio_tokens: cached_audio,
        image_tokens: all.image.saturating_sub(cached.image),
        video_tokens: all.video.saturating_sub(cached.video),
        ..Usage::default()
    };
    // Media of which no detail says that they were cached: what the classes exceed the prompt by was.
    let mut overlap = usage.input_total().saturating_sub(prompt);
    for class in [&mut usage.image_tokens, &mut usage.video_tokens, &mut usage.audio_input_tokens] {
        let cached_too = overlap.min(*class).min(usage.cache_read_tokens);
        *class -= cached_too;
        overlap -= cached_too;
    }
    if overlap > 0 {
        return Err(UsageAnomaly::PartExceedsWhole { part: "parts of the prompt", whole: "prompt tokens" });
    }
    usage.input_tokens = prompt - usage.input_total();
    Ok(usage)
}

/// Token counts by modality; text and documents are plain input.
#[derive(Default)]
struct Modalities {
    audio: u64,
    image: u64,
    video: u64,
}

impl Modalities {
    fn of(report: &Value, names: &[&'static str]) -> Result<Modalities, UsageAnomaly> {
        let mut found = Modalities::default();
        let details = names.iter().filter_map(|name| report.get(name)?.as_array()).flatten();
        for detail in details {
            let tokens = count(detail, &["tokenCount"])?;
            match Modality::of(detail.get("modality")) {
                Modality::Plain => {}
                Modality::Image => found.image += tokens,
                Modality::Video => found.video += tokens,
                Modality::Audio => found.audio += tokens,
            }
        }
        Ok(found)
    }
}

enum Modality {
    Plain,
    Image,
    Video,
    Audio,
}

impl Modality {
    /// By name, or by the number that the enumeration has on the wire.
    fn of(value: Option<&Value>) -> Modality {
        let number = value.and_then(Value::as_u64);
        match (value.and_then(Value::as_str), number) {
            (Some("IMAGE"), _) | (_, Some(2)) => Modality::Image,
            (Some("VIDEO"), _) | (_, Some(3)) => Modality::Video,
            (Some("AUDIO"), _) | (_, Some(4)) => Modality::Audio,
            (Some(_) | None, Some(_) | None) => Modality::Plain,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn thoughts_and_tool_use_lie_beside_and_cached_inside() {
        let report = json!({
            "promptTokenCount": 100, "cachedContentTokenCount": 40, "toolUsePromptTokenCount": 9,
            "candidatesTokenCount": 20, "thoughtsTokenCount": 5, "totalTokenCount": 134,
            "promptTokensDetails": [
                {"modality": "TEXT", "tokenCount": 50}, {"modality": 4, "tokenCount": 30},
                {"modality": "IMAGE", "tokenCount": 20}],
            "cacheTokensDetails": [{"modality": "TEXT", "tokenCount": 30}, {"modality": "AUDIO", "tokenCount": 10}],
        });

        let expected = Usage {
            input_tokens: 29,
            cache_read_tokens: 30,
            audio_input_tokens: 20,
            cached_audio_tokens: 10,
            image_tokens: 20,
            output_tokens: 20,
            reasoning_tokens: 5,
            ..Usage::default()
        };
        assert_eq!(from_gemini(&report), Ok(expected));
    }

    #[test]
    fn the_total_tells_where_thoughts_were_counted() {
        for (candidates, thoughts, total, output) in [
            (10, 5, Some(20), 5),
            (5, 5, Some(20), 5),
            (5, 5, None, 5),
            (5, 5, Some(15), 0),
            (10, 0, Some(20), 10),
        ] {
            let report = json!({"promptTokenCount": 10, "candidatesTokenCount": candidates,
                                "thoughtsTokenCount": thoughts, "totalTokenCount": total});

            let usage = from_gemini(&report).expect("a usage");

            assert_eq!((usage.output_tokens, usage.reasoning_tokens), (output, thoughts), "{report}");
        }
    }

    #[test]
    fn cached_media_without_details_are_counted_once() {
        let report = json!({
            "promptTokenCount": 100, "cachedContentTokenCount": 90, "totalTokenCount": 100,
            "promptTokensDetails": [{"modality": "VIDEO", "tokenCount": 80}],
        });

        let usage = from_gemini(&report).expect("a usage");

        assert_eq!((usage.cache_read_tokens, usage.video_tokens, usage.input_tokens), (90, 10, 0));
    }

    #[test]
    fn what_cannot_be_true_is_an_anomaly() {
        for report in [
            json!({}),
            json!({"trafficType": "ON_DEMAND"}),
            json!({"totalTokenCount": 6}),
            json!({"promptTokenCount": -1, "totalTokenCount": 5}),
            json!({"promptTokenCount": 5, "totalTokenCount": 6}),
            json!({"promptTokenCount": 5, "candidatesTokenCount": 3, "thoughtsTokenCount": 4, "totalTokenCount": 8}),
            json!({"promptTokenCount": 5, "cachedContentTokenCount": 6, "totalTokenCount": 5}),
            json!({"promptTokenCount": 5, "candidatesTokenCount": 3, "totalTokenCount": 8,
                   "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 3}]}),
        ] {
            assert!(from_gemini(&report).is_err(), "{report}");
        }
    }
}
