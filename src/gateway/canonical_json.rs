//! Messages as bytes by which a conversation is recognised: JSON, without what clients change from turn to turn.

use serde_json::Value;

/// Where a cache should end moves from turn to turn, and is no part of what is said.
const CACHE_MARK: &str = "cache_control";

/// The turns of a conversation, in any dialect: a list, or the only text.
pub fn turns(body: &Value) -> &Value {
    if body["messages"].is_array() { &body["messages"] } else { &body["input"] }
}

/// Writes the value piece by piece. A text that is the only part of a message counts as the text alone, since only a part
/// can carry the mark.
pub fn write(value: &Value, out: &mut impl FnMut(&[u8])) {
    match value {
        Value::Array(items) => match lone_text(items) {
            Some(text) => write(text, out),
            None => {
                let items = items.iter().map(|item| (None, item));
                write_all(b"[", items, b"]", out);
            }
        },
        Value::Object(fields) => {
            let fields = fields.iter().filter(|(name, _)| *name != CACHE_MARK);
            write_all(b"{", fields.map(|(name, value)| (Some(name.as_str()), value)), b"}", out);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            out(value.to_string().as_bytes());
        }
    }
}

fn write_all<'a>(
    open: &[u8],
    parts: impl Iterator<Item = (Option<&'a str>, &'a Value)>,
    close: &[u8],
    out: &mut impl FnMut(&[u8]),
) {
    out(open);
    for (place, (name, value)) in parts.enumerate() {
        if place > 0 {
            out(b",");
        }
        if let Some(name) = name {
            out(Value::from(name).to_string().as_bytes());
            out(b":");
        }
        write(value, out);
    }
    out(close);
}

/// The text of parts that are one text and nothing more, in any dialect.
fn lone_text(parts: &[Value]) -> Option<&Value> {
    let [Value::Object(part)] = parts else { return None };
    let is_text = matches!(part.get("type")?.as_str()?, "text" | "input_text");
    let is_alone = part.keys().all(|name| ["type", "text", CACHE_MARK].contains(&name.as_str()));
    part.get("text").filter(|text| is_text && is_alone && text.is_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn written(value: &Value) -> String {
        let mut bytes = Vec::new();
        write(value, &mut |part| bytes.extend_from_slice(part));
        String::from_utf8(bytes).expect("text")
    }

    #[test]
    fn what_is_said_is_told_apart_and_marks_of_the_cache_are_not() {
        let said = json!({"role": "user", "content": [{"type": "text", "text": "Hello"}]});
        let mark = json!({"type": "ephemeral"});
        let marked = json!([{"type": "text", "text": "Hello", "cache_control": mark}]);

        for same in [
            json!({"role": "user", "content": marked}),
            json!({"role": "user", "content": "Hello"}),
            json!({"role": "user", "content": [{"type": "input_text", "text": "Hello"}]}),
        ] {
            assert_eq!(written(&said), written(&same));
        }
        for other in [
            json!({"role": "user", "content": [{"type": "text", "text": "Hello."}]}),
            json!({"role": "user", "content": [{"type": "refusal", "text": "Hello"}]}),
            json!({"role": "user", "content": [{"type": "text", "text": "Hello", "citations": []}]}),
            json!({"role": "user", "content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]}),
            json!({"role": "assistant", "content": [{"type": "text", "text": "Hello"}]}),
            json!(null),
            json!("null"),
            json!([]),
        ] {
            assert_ne!(written(&said), written(&other), "{other}");
        }
    }

    #[test]
    fn what_has_no_marks_is_its_json() {
        let said = json!({"role": "user", "content": ["\"a\"\n", 1.5, true, null, {}, []], "é": {"x": "y"}});

        assert_eq!(written(&said), said.to_string());
    }
}
