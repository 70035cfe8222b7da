//! OpenAI's counting, and that of providers who speak its dialects.
//!
//! Cached and cache-written tokens lie inside the prompt, reasoning inside the completion. xAI counts reasoning beside
//! the completion and inside the total; some gateways beside both. The figures themselves tell which.

use serde_json::Value;

use crate::domain::usage::Usage;
use crate::domain::usage::count::{UsageAnomaly, cache_writes, count, no_output_of, reported, required};

/// The `usage` of a chat completion, or of the last chunk of its stream.
pub fn from_openai_chat(report: &Value) -> Result<Usage, UsageAnomaly> {
    let prompt = |part| count(report, &["prompt_tokens_details", part]);
    let completion = |part| count(report, &["completion_tokens_details", part]);
    no_output_of(completion("image_tokens")?, "image output tokens")?;
    let input = Input {
        total: required(report, "prompt_tokens")?,
        cached: cached_of_chat(report)?,
        // All for half an hour: this usage tells no longer ones apart, and `pricing::input_bound` refuses them.
        written: (written_of_chat(report)?, 0),
        audio: prompt("audio_tokens")?,
        image: prompt("image_tokens")?,
        video: prompt("video_tokens")?,
    };
    let output = Output {
        total: required(report, "completion_tokens")?,
        reasoning: completion("reasoning_tokens")?,
        audio: completion("audio_tokens")?,
        grand_total: reported(report, &["total_tokens"])?,
    };
    let searches = count(report, &["server_tool_use_details", "web_search_requests"])?;
    let web_searches = searches.max(count(report, &["num_sources_used"])?);
    Ok(Usage { web_searches, ..disjoint(input, output)? })
}

/// The `usage` of a response. Web searches would not be in it, so that tools which search are refused
/// (`pricing::input_bound`).
pub fn from_openai_responses(report: &Value) -> Result<Usage, UsageAnomaly> {
    let part = |part| count(report, &["input_tokens_details", part]);
    let input = Input {
        total: required(report, "input_tokens")?,
        cached: part("cached_tokens")?,
        written: written_by_response(report)?,
        audio: part("audio_tokens")?,
        image: part("image_tokens")?,
        video: part("video_tokens")?,
    };
    let output = Output {
        total: required(report, "output_tokens")?,
        reasoning: count(report, &["output_tokens_details", "reasoning_tokens"])?,
        audio: count(report, &["output_tokens_details", "audio_tokens"])?,
        grand_total: reported(report, &["total_tokens"])?,
    };
    disjoint(input, output)
}

/// Cache writes that live for half an hour, and those for twelve.
fn written_by_response(report: &Value) -> Result<(u64, u64), UsageAnomaly> {
    let part = |ttl| count(report, &["input_tokens_details", "cache_write_tokens_details", ttl]);
    let all = reported(report, &["input_tokens_details", "cache_write_tokens"])?;
    Ok(cache_writes(all, part("ttl_30m_tokens")?, part("ttl_12h_tokens")?))
}

/// The usage of a response whose request asked for writes that live long: where the report does not split them, all do.
pub fn with_long_cache_writes(report: &Value, usage: Usage) -> Usage {
    if !report["input_tokens_details"]["cache_write_tokens_details"].is_null() {
        return usage;
    }
    let cache_write_1h_tokens = usage.cache_write_1h_tokens.saturating_add(usage.cache_write_5m_tokens);
    Usage { cache_write_5m_tokens: 0, cache_write_1h_tokens, ..usage }
}

/// The `usage` of an embedding call: input alone, so that its total says the same.
pub fn from_openai_embeddings(report: &Value) -> Result<Usage, UsageAnomaly> {
    let total = reported(report, &["total_tokens"])?;
    let input_tokens = match (reported(report, &["prompt_tokens"])?, total) {
        (Some(prompt), _) => prompt,
        (None, Some(total)) => total,
        (None, None) => return Err(UsageAnomaly::Missing { field: "prompt_tokens" }),
    };
    match total {
        Some(total) if total != input_tokens => Err(UsageAnomaly::SumsDiffer { total, parts: input_tokens }),
        Some(_) | None => Ok(Usage { input_tokens, ..Usage::default() }),
    }
}

/// DeepSeek, Mistral and Moonshot name cached tokens in their own ways besides OpenAI's.
pub fn cached_of_chat(report: &Value) -> Result<u64, UsageAnomaly> {
    let names: [&[&str]; 4] = [
        &["prompt_tokens_details", "cached_tokens"],
        &["prompt_cache_hit_tokens"],
        &["num_cached_tokens"],
        &["cached_tokens"],
    ];
    for name in names {
        if let Some(cached) = reported(report, name)? {
            return Ok(cached);
        }
    }
    Ok(0)
}

/// Cache writes of a chat: as OpenAI says it, and as servers do that count by Anthropic's name.
///
/// # Errors
/// A count that is none.
pub fn written_of_chat(report: &Value) -> Result<u64, UsageAnomaly> {
    let names: [&[&str]; 3] = [
        &["prompt_tokens_details", "cache_write_tokens"],
        &["prompt_tokens_details", "cache_creation_input_tokens"],
        &["cache_creation_input_tokens"],
    ];
    names.into_iter().try_fold(0, |most, name| Ok(count(report, name)?.max(most)))
}

struct Input {
    total: u64,
    cached: u64,
    /// To the short-lived cache, and to the long-lived one.
    written: (u64, u64),
    audio: u64,
    image: u64,
    video: u64,
}

struct Output {
    total: u64,
    reasoning: u64,
    audio: u64,
    grand_total: Option<u64>,
}

fn disjoint(input: Input, output: Output) -> Result<Usage, UsageAnomaly> {
    // Cached media are reported both as cached and as media; what the parts exceed the whole by is that overlap. Of pictures
    // and video it counts as cached alone; cached audio is a class of its own.
    let (written_short, written_long) = input.written;
    let parts = input.cached + written_short + written_long + input.audio + input.image + input.video;
    let overlap = parts.saturating_sub(input.total);
    let cached_images = overlap.min(input.image).min(input.cached);
    let cached_video = (overlap - cached_images).min(input.video).min(input.cached - cached_images);
    let cached_audio = overlap - cached_images - cached_video;
    if cached_audio > input.audio.min(input.cached - cached_images - cached_video) {
        return Err(UsageAnomaly::PartExceedsWhole { part: "parts of the prompt", whole: "prompt tokens" });
    }
    let sum = input.total + output.total;
    let beside = output.reasoning_is_beside(sum);
    let reasoning_inside = if beside { 0 } else { output.reasoning };
    let output_tokens =
        output.total.checked_sub(reasoning_inside + output.audio).ok_or(UsageAnomaly::PartExceedsWhole {
            part: "parts of the completion",
            whole: "completion tokens",
        })?;
    match output.grand_total {
        Some(total) if total != sum && !(beside && total == sum + output.reasoning) => {
            return Err(UsageAnomaly::SumsDiffer { total, parts: sum });
        }
        Some(_) | None => {}
    }
    Ok(Usage {
        input_tokens: input.total - (parts - overlap),
        cache_read_tokens: input.cached - cached_audio,
        cache_write_5m_tokens: written_short,
        cache_write_1h_tokens: written_long,
        output_tokens,
        reasoning_tokens: output.reasoning,
        audio_input_tokens: input.audio - cached_audio,
        cached_audio_tokens: cached_audio,
        audio_output_tokens: output.audio,
        image_tokens: input.image - cached_images,
        video_tokens: input.video - cached_video,
        ..Usage::default()
    })
}

impl Output {
    /// Reasoning was counted beside the completion when it can't be inside, or when only so the total adds up.
    fn reasoning_is_beside(&self, sum: u64) -> bool {
        self.reasoning > self.total || (self.reasoning > 0 && self.grand_total == Some(sum + self.reasoning))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn parts_of_the_prompt_and_the_completion_become_classes_of_their_own() {
        let report = json!({
            "prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150,
            "prompt_tokens_details": {"cached_tokens": 30, "cache_write_tokens": 10, "audio_tokens": 5},
            "completion_tokens_details": {"reasoning_tokens": 20, "audio_tokens": 7},
        });

        let expected = Usage {
            input_tokens: 55,
            cache_read_tokens: 30,
            cache_write_5m_tokens: 10,
            audio_input_tokens: 5,
            output_tokens: 23,
            reasoning_tokens: 20,
            audio_output_tokens: 7,
            ..Usage::default()
        };
        assert_eq!(from_openai_chat(&report), Ok(expected));
    }

    #[test]
    fn cached_tokens_are_found_under_every_name_that_servers_of_chats_give_them() {
        for cached in [
            json!({"prompt_tokens_details": {"cached_tokens": 29_900}}),
            json!({"prompt_cache_hit_tokens": 29_900, "prompt_cache_miss_tokens": 100}),
            json!({"num_cached_tokens": 29_900}),
            json!({"cached_tokens": 29_900}),
            json!({"cached_tokens": 29_900, "prompt_tokens_details": {"cached_tokens": 29_900}}),
            json!({"cached_tokens": 29_900, "prompt_tokens_details": null}),
        ] {
            let mut report = json!({"prompt_tokens": 30_000, "completion_tokens": 9, "total_tokens": 30_009});
            report.as_object_mut().expect("fields").extend(cached.as_object().expect("fields").clone());

            let usage = from_openai_chat(&report).expect("a usage");

            assert_eq!((usage.input_tokens, usage.cache_read_tokens), (100, 29_900), "{report}");
        }
    }

    #[test]
    fn cache_writes_of_a_chat_are_told_in_three_ways() {
        for written in [
            json!({"prompt_tokens_details": {"cache_write_tokens": 29_000}}),
            json!({"prompt_tokens_details": {"cached_tokens": 0, "cache_creation_input_tokens": 29_000}}),
            json!({"cache_creation_input_tokens": 29_000}),
            json!({"cache_creation_input_tokens": 29_000, "prompt_tokens_details": {"cache_write_tokens": 0}}),
        ] {
            let mut report = json!({"prompt_tokens": 30_000, "completion_tokens": 9});
            report.as_object_mut().expect("fields").extend(written.as_object().expect("fields").clone());

            let usage = from_openai_chat(&report).expect("a usage");

            assert_eq!((usage.input_tokens, usage.cache_write_5m_tokens), (1_000, 29_000), "{report}");
        }
    }

    #[test]
    fn cache_writes_of_a_response_are_told_apart_by_how_long_they_live() {
        for (all, short, long, expected) in [
            (json!(80), json!(30), json!(50), (30, 50)),
            (json!(80), json!(0), json!(80), (0, 80)),
            (json!(80), json!(null), json!(70), (0, 80)),
            (json!(80), json!(80), json!(0), (80, 0)),
            (json!(80), json!(null), json!(null), (80, 0)),
            (json!(null), json!(30), json!(50), (30, 50)),
        ] {
            let split = json!({"ttl_30m_tokens": short, "ttl_12h_tokens": long});
            let details = json!({"cache_write_tokens": all, "cache_write_tokens_details": split});
            let report = json!({"input_tokens": 100, "output_tokens": 1, "input_tokens_details": details});

            let usage = from_openai_responses(&report).expect("a usage");

            assert_eq!((usage.cache_write_5m_tokens, usage.cache_write_1h_tokens), expected, "{report}");
            assert_eq!(usage.input_total(), 100);
            assert_eq!(with_long_cache_writes(&report, usage.clone()), usage, "as it is split");
        }
        let unsplit = json!({"input_tokens": 100, "output_tokens": 1, "input_tokens_details": {"cache_write_tokens": 80}});
        let usage = from_openai_responses(&unsplit).expect("a usage");
        let long = with_long_cache_writes(&unsplit, usage);
        assert_eq!((long.cache_write_5m_tokens, long.cache_write_1h_tokens), (0, 80));
    }

    #[test]
    fn an_embeddings_total_is_its_input() {
        let of = |report: Value| from_openai_embeddings(&report).map(|usage| usage.input_tokens);

        assert_eq!(of(json!({"prompt_tokens": 7, "total_tokens": 7})), Ok(7));
        assert_eq!(of(json!({"total_tokens": 7})), Ok(7));
        assert_eq!(of(json!({})), Err(UsageAnomaly::Missing { field: "prompt_tokens" }));
        assert!(of(json!({"prompt_tokens": 7, "total_tokens": 8})).is_err());
    }

    #[test]
    fn the_figures_tell_where_reasoning_was_counted() {
        for (completion, reasoning, total, output, why) in [
            (50, 20, Some(60), 30, "inside, as OpenAI counts"),
            (50, 20, Some(80), 50, "beside, inside the total, as xAI counts"),
            (9, 61, Some(19), 9, "beside both: it can't be inside"),
            (50, 20, None, 30, "inside when nothing says otherwise"),
        ] {
            let report = json!({
                "prompt_tokens": 10, "completion_tokens": completion, "total_tokens": total,
                "completion_tokens_details": {"reasoning_tokens": reasoning},
            });

            let usage = from_openai_chat(&report).expect(why);

            assert_eq!((usage.output_tokens, usage.reasoning_tokens), (output, reasoning), "{why}");
        }
    }

    #[test]
    fn cached_audio_is_counted_once() {
        let details = json!({"cached_tokens": 60, "audio_tokens": 80});
        let report = json!({"prompt_tokens": 100, "completion_tokens": 0, "prompt_tokens_details": details});

        let usage = from_openai_chat(&report).expect("a usage");

        assert_eq!(
            (usage.cache_read_tokens, usage.audio_input_tokens, usage.cached_audio_tokens),
            (20, 40, 40)
        );
        assert_eq!(usage.input_total(), 100);
    }

    #[test]
    fn cached_pictures_and_video_are_counted_once() {
        for (cached, image, video, audio, classes) in [
            (60, 80, 0, 0, [60, 40, 0, 0, 0]),
            (60, 30, 50, 0, [60, 0, 40, 0, 0]),
            (60, 20, 20, 40, [60, 0, 0, 40, 0]),
            (60, 20, 20, 50, [50, 0, 0, 40, 10]),
        ] {
            let details = json!({"cached_tokens": cached, "image_tokens": image, "video_tokens": video, "audio_tokens": audio});
            let report =
                json!({"prompt_tokens": 100, "completion_tokens": 0, "prompt_tokens_details": details});

            let usage = from_openai_chat(&report).expect("a usage");

            let found = [
                usage.cache_read_tokens,
                usage.image_tokens,
                usage.video_tokens,
                usage.audio_input_tokens,
                usage.cached_audio_tokens,
            ];
            assert_eq!((found, usage.input_total()), (classes, 100), "{details}");
        }
    }

    #[test]
    fn what_cannot_be_true_is_an_anomaly() {
        for (report, what) in [
            (json!({}), "nothing"),
            (json!(null), "null"),
            (json!({"prompt_tokens": -1, "completion_tokens": 1}), "negative"),
            (json!({"prompt_tokens": 1.5, "completion_tokens": 1}), "a fraction"),
            (json!({"prompt_tokens": "1", "completion_tokens": 1}), "a text"),
            (json!({"prompt_tokens": 1_000_000_001, "completion_tokens": 1}), "absurd"),
            (json!({"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 3}), "another total"),
            (
                json!({"prompt_tokens": 1, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 2}}),
                "more cached than prompt",
            ),
            (
                json!({"prompt_tokens": 1, "completion_tokens": 1, "completion_tokens_details": {"image_tokens": 1}}),
                "a picture without a price",
            ),
        ] {
            assert!(from_openai_chat(&report).is_err(), "{what}");
        }
        let zero = json!({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0});
        assert_eq!(from_openai_chat(&zero), Ok(Usage::default()));
    }
}
