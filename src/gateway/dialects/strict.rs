//! OpenAI's strict mode of tools, which takes a part of JSON Schema and refuses the whole request for the rest.
//!
//! Source: <https://platform.openai.com/docs/guides/structured-outputs#supported-schemas>.

use serde_json::{Map, Value};

use super::conversation::Tool;
use super::dropped::Dropped;

const REFUSED: [&str; 9] = [
    "allOf",
    "oneOf",
    "not",
    "if",
    "then",
    "else",
    "dependentRequired",
    "dependentSchemas",
    "patternProperties",
];

/// Tools that were written for another's strict mode, which takes more, are not held to where OpenAI's would refuse them.
pub fn loosen(tools: &mut [Tool], dropped: &mut Dropped) {
    for tool in tools.iter_mut().filter(|tool| tool.strict == Some(true) && !takes(&tool.schema)) {
        tool.strict = Some(false);
        dropped.add("tools[].strict");
    }
}

fn takes(schema: &Value) -> bool {
    let Some(fields) = schema.as_object() else { return false };
    let named = ["properties", "$defs", "definitions"].into_iter().filter_map(|list| fields.get(list));
    let named = named.filter_map(Value::as_object).flat_map(Map::values);
    let any_of = fields.get("anyOf").and_then(Value::as_array).into_iter().flatten();
    !REFUSED.iter().any(|name| fields.contains_key(*name))
        && (!is_object(fields) || is_whole(fields))
        && named.chain(any_of).chain(fields.get("items")).all(takes)
}

pub fn is_object(fields: &Map<String, Value>) -> bool {
    let is_named = |kind: &Value| {
        kind == "object" || kind.as_array().is_some_and(|kinds| kinds.iter().any(|kind| kind == "object"))
    };
    fields.get("type").is_some_and(is_named) || fields.contains_key("properties")
}

/// Whether it must have all the properties that it names, and may have no others.
fn is_whole(fields: &Map<String, Value>) -> bool {
    let required = fields.get("required").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let mut names = fields.get("properties").and_then(Value::as_object).into_iter().flat_map(Map::keys);
    fields.get("additionalProperties") == Some(&Value::Bool(false))
        && names.all(|name| required.iter().any(|one| one == name))
}
