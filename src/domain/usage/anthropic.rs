//! Anthropic's counting: cached tokens lie beside the input, thinking inside the output.
//!
//! A call may run in several iterations. Those of kind `message` are in the top-level counts; a compaction is not, nor
//! is an advisor or a refused first message, which are other models' and priced as such.

use serde_json::{Map, Value};

use crate::domain::usage::Usage;
use crate::domain::usage::count::{self, UsageAnomaly, count, reported, required};

/// The `usage` of a message: what the model that answered consumed, compactions included.
pub fn from_anthropic(report: &Value) -> Result<Usage, UsageAnomaly> {
    let mut usage = one_iteration(report)?;
    for own in unlisted(report)?.iter().filter(|iteration| model_of(iteration).is_none()) {
        usage = usage.plus(&one_iteration(own)?);
    }
    usage.web_searches = count(report, &["server_tool_use", "web_search_requests"])?;
    Ok(usage)
}

/// How many calls of other models a settle names one by one.
const OTHER_MODELS_MAX: usize = 8;

/// What other models consumed within the call (an advisor, a model that was fallen back from), with their names:
/// further attempts of the same settle. Where there are too many, the last one stands for all that follow.
pub fn anthropic_other_models(report: &Value) -> Result<Vec<(String, Usage)>, UsageAnomaly> {
    let mut others: Vec<(String, Usage)> = Vec::new();
    for iteration in unlisted(report)? {
        let Some(model) = model_of(iteration) else { continue };
        let usage = one_iteration(iteration)?;
        match others.get_mut(OTHER_MODELS_MAX - 1) {
            Some((_, last)) => *last = last.plus(&usage),
            None => others.push((model.to_owned(), usage)),
        }
    }
    Ok(others)
}

/// Iterations whose tokens the top-level counts lack.
fn unlisted(report: &Value) -> Result<Vec<&Value>, UsageAnomaly> {
    let iterations = report.get("iterations").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let kind_of = |iteration: &Value| iteration.get("type").and_then(Value::as_str).map(str::to_owned);
    let is_message = |iteration: &Value| {
        matches!(kind_of(iteration).as_deref(), None | Some("message" | "fallback_message"))
    };
    let mut messages = Usage::default();
    for message in iterations.iter().filter(|iteration| is_message(iteration)) {
        messages = messages.plus(&one_iteration(message)?);
    }
    let top = one_iteration(report)?;
    let all_messages_listed =
        messages.input_total() == top.input_total() && messages.output_total() == top.output_total();
    // After a fallback the top level shows the last message alone.
    let last_message = iterations.iter().rposition(is_message);
    Ok(iterations
        .iter()
        .enumerate()
        .filter(|(place, iteration)| {
            !is_message(iteration) || !(all_messages_listed || Some(*place) == last_message)
        })
        .map(|(_, iteration)| iteration)
        .collect())
}

fn model_of(iteration: &Value) -> Option<&str> {
    iteration.get("model").and_then(Value::as_str)
}

fn one_iteration(report: &Value) -> Result<Usage, UsageAnomaly> {
    let (cache_write_5m_tokens, cache_write_1h_tokens) = cache_writes(report)?;
    let output = required(report, "output_tokens")?;
    let reasoning_tokens = count(report, &["output_tokens_details", "thinking_tokens"])?;
    Ok(Usage {
        input_tokens: required(report, "input_tokens")?,
        cache_read_tokens: count(report, &["cache_read_input_tokens"])?,
        cache_write_5m_tokens,
        cache_write_1h_tokens,
        output_tokens: output
            .checked_sub(reasoning_tokens)
            .ok_or(UsageAnomaly::PartExceedsWhole { part: "thinking tokens", whole: "output tokens" })?,
        reasoning_tokens,
        ..Usage::default()
    })
}

/// Writes to the 5-minute and to the 1-hour cache.
fn cache_writes(report: &Value) -> Result<(u64, u64), UsageAnomaly> {
    let short = count(report, &["cache_creation", "ephemeral_5m_input_tokens"])?;
    let long = count(report, &["cache_creation", "ephemeral_1h_input_tokens"])?;
    Ok(count::cache_writes(reported(report, &["cache_creation_input_tokens"])?, short, long))
}

/// The usage of a stream: `message_start` opens it, each `message_delta` brings cumulative counts.
///
/// A count never falls: some servers that speak this dialect send zeros for what they told at the start.
#[derive(Clone, Debug, Default)]
pub struct AnthropicStream {
    report: Map<String, Value>,
    is_final: bool,
}

impl AnthropicStream {
    /// Takes one event's data; anything but the two that carry usage changes nothing.
    pub fn observe(&mut self, event: &Value) {
        let kind = event.get("type").and_then(Value::as_str);
        let usage = match kind {
            Some("message_start") => event.pointer("/message/usage"),
            Some("message_delta") => event.get("usage"),
            Some(_) | None => None,
        };
        if let Some(usage) = usage.and_then(Value::as_object) {
            self.is_final |= kind == Some("message_delta");
            merge(&mut self.report, usage);
        }
    }

    /// Whether the counts are the provider's last word, rather than those of the start.
    pub fn is_final(&self) -> bool {
        self.is_final
    }

    /// The merged report, as `from_anthropic` and `anthropic_other_models` read it; `None` before the first one.
    pub fn report(&self) -> Option<Value> {
        (!self.report.is_empty()).then(|| Value::Object(self.report.clone()))
    }

    pub fn usage(&self) -> Result<Usage, UsageAnomaly> {
        from_anthropic(&Value::Object(self.report.clone()))
    }
}

fn merge(into: &mut Map<String, Value>, later: &Map<String, Value>) {
    for (key, value) in later {
        let known = into.entry(key.clone()).or_insert(Value::Null);
        match (known, value) {
            (_, Value::Null) => {}
            (Value::Object(known), Value::Object(value)) => merge(known, value),
            // A smaller count is stale; one that is no count at all stays, so that it is found out.
            (known, value) => match (known.as_u64(), value.as_u64()) {
                (Some(before), Some(now)) if now < before => {}
                (Some(_) | None, Some(_) | None) => *known = value.clone(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_flat_count_of_cache_writes_rules_over_a_stale_split() {
        for (flat, short, long, expected) in [
            (json!(10), 4, 6, (4, 6)),
            (json!(3337), 3068, 0, (3337, 0)),
            (json!(10), 0, 6, (0, 10)),
            (json!(null), 4, 6, (4, 6)),
            (json!(5), 4, 6, (0, 5)),
        ] {
            let split = json!({"ephemeral_5m_input_tokens": short, "ephemeral_1h_input_tokens": long});
            let report = json!({
                "input_tokens": 1, "output_tokens": 1, "cache_creation_input_tokens": flat, "cache_creation": split,
            });

            let usage = from_anthropic(&report).expect("a usage");

            assert_eq!((usage.cache_write_5m_tokens, usage.cache_write_1h_tokens), expected, "{report}");
        }
    }

    #[test]
    fn iterations_that_the_top_level_lacks_are_charged_to_whoever_consumed_them() {
        let iteration = |kind: &str, model: Option<&str>, input: u64, output: u64| json!({"type": kind, "model": model, "input_tokens": input, "output_tokens": output});
        for (top, iterations, own, others) in [
            (
                (30, 3),
                vec![
                    iteration("message", None, 10, 1),
                    iteration("advisor_message", Some("a"), 99, 9),
                    iteration("message", None, 20, 2),
                ],
                (30, 3),
                vec![("a", 99, 9)],
            ),
            (
                (6, 1),
                vec![iteration("compaction", None, 100, 50), iteration("message", None, 6, 1)],
                (106, 51),
                vec![],
            ),
            (
                (12, 4),
                vec![iteration("message", Some("a"), 8, 0), iteration("fallback_message", Some("b"), 12, 4)],
                (12, 4),
                vec![("a", 8, 0)],
            ),
        ] {
            let report = json!({"input_tokens": top.0, "output_tokens": top.1, "iterations": iterations});

            let usage = from_anthropic(&report).expect("a usage");
            let other = anthropic_other_models(&report).expect("usages");

            assert_eq!((usage.input_tokens, usage.output_tokens), own, "{report}");
            let other: Vec<_> =
                other.iter().map(|(m, u)| (m.as_str(), u.input_tokens, u.output_tokens)).collect();
            assert_eq!(other, others, "{report}");
        }
    }

    #[test]
    fn many_calls_of_other_models_are_all_counted_in_few_attempts() {
        let call = json!({"type": "advisor_message", "model": "a", "input_tokens": 9, "output_tokens": 1});
        let report = json!({"input_tokens": 30, "output_tokens": 3, "iterations": vec![call; 1_000]});

        let others = anthropic_other_models(&report).expect("usages");

        assert_eq!(others.len(), OTHER_MODELS_MAX);
        assert_eq!(others.iter().map(|(_, usage)| usage.input_tokens).sum::<u64>(), 9_000);
    }

    #[test]
    fn a_stream_takes_the_larger_of_start_and_delta() {
        let mut stream = AnthropicStream::default();
        stream.observe(&json!({"type": "message_start", "message": {"usage":
            {"input_tokens": 50, "cache_read_input_tokens": 7, "output_tokens": 1}}}));
        stream.observe(&json!({"type": "content_block_delta"}));
        assert!(!stream.is_final());
        stream.observe(&json!({"type": "message_delta", "usage": {"input_tokens": 90, "output_tokens": 20}}));
        stream.observe(&json!({"type": "message_delta", "usage": {"input_tokens": 0, "output_tokens": 33}}));

        let usage = stream.usage().expect("a usage");

        assert_eq!((usage.input_tokens, usage.cache_read_tokens, usage.output_tokens), (90, 7, 33));
        assert!(stream.is_final());
    }

    #[test]
    fn what_cannot_be_true_is_an_anomaly() {
        for report in [
            json!({}),
            json!({"input_tokens": 1}),
            json!({"input_tokens": -5, "output_tokens": 1}),
            json!({"input_tokens": 1, "output_tokens": 1, "output_tokens_details": {"thinking_tokens": 2}}),
            json!({"input_tokens": 1, "output_tokens": 1, "iterations": [{"type": "compaction"}]}),
        ] {
            assert!(from_anthropic(&report).is_err(), "{report}");
        }
        let mut stream = AnthropicStream::default();
        stream.observe(&json!({"type": "message_delta", "usage": {"input_tokens": 5, "output_tokens": -3}}));
        assert!(stream.usage().is_err());
    }
}
