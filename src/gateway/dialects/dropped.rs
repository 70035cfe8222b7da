//! What a translation leaves out and the caller is told: each name once, however long the conversation.

use std::collections::BTreeSet;

use serde_json::Value;

/// Fields by their places, `messages[].content[].detail` for one of any message.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dropped(BTreeSet<String>);

impl Dropped {
    pub fn add(&mut self, field: &str) {
        if !self.0.contains(field) {
            self.0.insert(field.to_owned());
        }
    }

    /// A field of what stands at a place such as `messages[3]` or `messages.3.content.0`.
    pub fn add_at(&mut self, at: &str, field: &str) {
        self.add(&format!("{}.{field}", anywhere(at)));
    }

    /// The fields of an object that nobody here reads and that say something.
    pub fn add_unread(&mut self, at: &str, object: &Value, read: &[&str]) {
        for (field, value) in object.as_object().into_iter().flatten() {
            if !read.contains(&field.as_str()) && says_something(value) {
                self.add_at(at, field);
            }
        }
    }
}

impl From<Dropped> for Vec<String> {
    fn from(dropped: Dropped) -> Vec<String> {
        dropped.0.into_iter().collect()
    }
}

/// What an SDK writes of what was never set does not.
pub fn says_something(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::Bool(true) | Value::Number(_) | Value::String(_) => true,
    }
}

fn anywhere(at: &str) -> String {
    let mut place = String::new();
    for step in at.split(['.', '[']) {
        let name = step.trim_end_matches(']');
        if name.bytes().all(|byte| byte.is_ascii_digit()) {
            place.push_str("[]");
        } else {
            if !place.is_empty() {
                place.push('.');
            }
            place.push_str(name);
        }
    }
    place
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_field_is_named_once_by_its_place_in_any_message() {
        let mut dropped = Dropped::default();
        for at in ["messages[0]", "messages[17]", "messages.3", "tools[0].function", "system.0"] {
            let object = json!({"role": "user", "name": "ann", "a": null, "b": [], "c": {}, "d": false});
            dropped.add_unread(at, &object, &["role"]);
        }
        dropped.add_at("messages[1].content[2]", "detail");
        dropped.add_at("messages.1.content.2.content.0", "detail");

        assert_eq!(
            Vec::from(dropped),
            [
                "messages[].content[].content[].detail",
                "messages[].content[].detail",
                "messages[].name",
                "system[].name",
                "tools[].function.name",
            ]
        );
    }
}
