//! Token counts: what was sent is counted with OpenAI's public tokenizer, what is said is built token by token,
//! so that a reported count is always the count of the text beside it.

use bpe_openai::o200k_base;
use serde_json::Value;

use super::chance::Chance;

/// Each is one token of o200k, alone and after a space (a test holds it).
const WORDS: &[&str] = &[
    "account", "after", "again", "all", "amount", "and", "answer", "are", "as", "at", "balance", "because",
    "before", "between", "both", "but", "by", "can", "card", "change", "clear", "close", "cost", "count",
    "credit", "day", "each", "end", "every", "exact", "fair", "few", "first", "for", "from", "full", "given",
    "good", "hold", "hour", "how", "in", "is", "it", "keep", "last", "less", "line", "list", "long", "many",
    "may", "model", "month", "more", "most", "name", "never", "new", "next", "no", "not", "number", "of",
    "on", "once", "one", "only", "open", "or", "order", "other", "paid", "part", "past", "plan", "point",
    "price", "rate", "read", "report", "request", "rest", "right", "same", "second", "short", "simple",
    "small", "so", "some", "still", "sum", "than", "that", "the", "then", "time", "to", "token", "total",
    "true", "two", "under", "until", "use", "value", "very", "way", "week", "what", "when", "while", "whole",
    "with", "word", "work", "year",
];

/// No answer is longer, whatever a header asks: it is held in memory.
pub const OUTPUT_TOKENS_MAX: u64 = 200_000;

/// An image without a published formula here counts as a low-detail one.
const IMAGE_TOKENS: u64 = 85;

pub fn count(text: &str) -> u64 {
    o200k_base().count(text) as u64
}

/// Loads the tokenizer's table ahead of the first request.
pub fn warm_up() {
    o200k_base();
}

/// A text cut into its tokens. A character that takes several stands in the piece of its last one.
pub fn pieces_of(text: &str) -> Vec<String> {
    let tokenizer = o200k_base();
    let mut left = Vec::new();
    let piece = |token| {
        left.extend(tokenizer.bpe.decode_tokens(&[token]));
        let whole = match std::str::from_utf8(&left) {
            Ok(text) => text.len(),
            Err(broken) => broken.valid_up_to(),
        };
        let rest = left.split_off(whole);
        String::from_utf8(std::mem::replace(&mut left, rest)).unwrap_or_default()
    };
    tokenizer.encode(text).into_iter().map(piece).collect()
}

/// Prose of exactly this many tokens, one piece per token.
pub fn prose(chance: &mut Chance, tokens: u64) -> Vec<String> {
    let mut pieces: Vec<String> = Vec::with_capacity(tokens as usize);
    let mut sentence_left = 0;
    while (pieces.len() as u64) < tokens {
        if pieces.is_empty() {
            pieces.push(chance.pick(WORDS).to_owned());
            sentence_left = 6 + chance.below(9);
        } else if sentence_left == 0 {
            pieces.push(".".to_owned());
            sentence_left = 6 + chance.below(9);
        } else {
            pieces.push(format!(" {}", chance.pick(WORDS)));
            sentence_left -= 1;
        }
    }
    pieces
}

/// The input tokens of a request: its texts as counted, a few for each message's frame, tools by their JSON.
/// Works on every dialect: messages differ only in names.
pub fn count_prompt(request: &Value) -> u64 {
    const MESSAGE_FRAME_TOKENS: u64 = 3;
    const ANSWER_PRIMER_TOKENS: u64 = 3;
    let said: u64 = ["messages", "contents", "input"]
        .into_iter()
        .map(|field| match &request[field] {
            Value::Array(items) => items.iter().map(|item| MESSAGE_FRAME_TOKENS + count_content(item)).sum(),
            other => count_content(other),
        })
        .sum();
    let system: u64 = ["system", "systemInstruction", "instructions"]
        .into_iter()
        .map(|field| count_content(&request[field]))
        .sum();
    let tools = match &request["tools"] {
        Value::Array(tools) if !tools.is_empty() => count(&request["tools"].to_string()),
        _ => 0,
    };
    said + system + tools + ANSWER_PRIMER_TOKENS
}

fn count_content(content: &Value) -> u64 {
    match content {
        Value::String(text) => count(text),
        Value::Array(parts) => parts.iter().map(count_content).sum(),
        Value::Object(fields) => match fields.get("type").and_then(Value::as_str) {
            Some("image_url" | "image" | "input_image") => IMAGE_TOKENS,
            _ if fields.contains_key("inlineData") => IMAGE_TOKENS,
            _ => {
                fields.iter().filter(|(name, _)| *name != "type").map(|(_, value)| count_content(value)).sum()
            }
        },
        Value::Number(_) | Value::Bool(_) => 1,
        Value::Null => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_word_is_one_token_alone_and_after_a_space() {
        let broken: Vec<_> =
            WORDS.iter().filter(|word| count(word) != 1 || count(&format!(" {word}")) != 1).collect();
        assert!(broken.is_empty(), "{broken:?}");
    }

    #[test]
    fn prose_has_exactly_the_tokens_asked_for() {
        for tokens in [0, 1, 2, 40, 777] {
            let text = prose(&mut Chance::of(5, tokens), tokens).concat();
            assert_eq!(count(&text), tokens, "{text}");
        }
    }

    #[test]
    fn pieces_put_a_text_together_again() {
        for text in [r#"{"city":"Bern","days":[1,2,3]}"#, r#"{"city":"Zürich, 𠮷野家","mood":"🫠🏳️‍🌈"}"#]
        {
            let pieces = pieces_of(text);
            assert_eq!(pieces.concat(), text);
            assert_eq!(pieces.len() as u64, count(text));
        }
    }

    #[test]
    fn a_longer_prompt_counts_more_and_tools_count_too() {
        let short = json!({"messages": [{"role": "user", "content": "Hello"}]});
        let long = json!({"messages": [{"role": "user", "content": "Hello, how are you today?"}]});
        let parts = json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]});
        let tools = json!({"messages": short["messages"], "tools": [{"type": "function", "function": {"name": "f"}}]});

        assert!(count_prompt(&long) > count_prompt(&short));
        assert_eq!(count_prompt(&parts), count_prompt(&short));
        assert!(count_prompt(&tools) > count_prompt(&short));
    }
}
