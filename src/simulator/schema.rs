//! A value that a JSON Schema accepts: what tool calls and structured answers are made of.
//!
//! Covers what providers accept in strict schemas; `pattern` and `not` are out of reach and are ignored.

use super::chance::Chance;
use super::tokens::prose;
use serde_json::{Map, Value, json};

/// Recursive schemas end here with their required fields left out.
const DEPTH_MAX: u32 = 12;
/// Lists within lists end here: each level multiplies the one above it. A long text counts as several.
const VALUES_MAX: usize = 10_000;
const CHARACTERS_PER_VALUE: usize = 64;
const ITEMS_MAX: u64 = 64;

pub fn sample(schema: &Value, chance: &mut Chance) -> Value {
    Sampler { root: schema, chance, values_left: VALUES_MAX }.value(schema, 0)
}

struct Sampler<'a> {
    root: &'a Value,
    chance: &'a mut Chance,
    values_left: usize,
}

impl Sampler<'_> {
    fn value(&mut self, schema: &Value, depth: u32) -> Value {
        if depth > DEPTH_MAX || self.values_left == 0 {
            return Value::Null;
        }
        self.values_left -= 1;
        if let Some(path) = schema["$ref"].as_str() {
            let target = self.root.pointer(path.trim_start_matches('#')).cloned().unwrap_or_default();
            return self.value(&target, depth + 1);
        }
        if let Some(constant) = schema.get("const") {
            return constant.clone();
        }
        if let Some(choices) = schema["enum"].as_array().filter(|choices| !choices.is_empty()) {
            return choices[self.chance.below(choices.len() as u64) as usize].clone();
        }
        if let Some(branches) = schema["anyOf"].as_array().or(schema["oneOf"].as_array()) {
            // Deep down a nullable branch ends the recursion.
            let end =
                branches.iter().find(|branch| branch["type"] == "null").filter(|_| depth > DEPTH_MAX / 2);
            let branch = end.or(branches.first()).cloned().unwrap_or_default();
            return self.value(&branch, depth + 1);
        }
        if let Some(parts) = schema["allOf"].as_array() {
            return self.merged(parts, depth);
        }
        match type_of(schema) {
            "object" => self.object(schema, depth),
            "array" => self.array(schema, depth),
            "string" => Value::String(self.string(schema)),
            "integer" => json!(integer(schema)),
            "number" => number(schema),
            "boolean" => Value::Bool(self.chance.below(2) == 1),
            _ => Value::Null,
        }
    }

    fn object(&mut self, schema: &Value, depth: u32) -> Value {
        let Some(properties) = schema["properties"].as_object() else { return json!({}) };
        let required = schema["required"].as_array();
        let wanted = |name: &str| required.is_none_or(|names| names.iter().any(|one| one == name));
        let fields: Map<String, Value> = properties
            .iter()
            .filter(|(name, _)| wanted(name))
            .map(|(name, field)| (name.clone(), self.value(field, depth + 1)))
            .collect();
        Value::Object(fields)
    }

    fn array(&mut self, schema: &Value, depth: u32) -> Value {
        let least = schema["minItems"].as_u64().unwrap_or(if depth > DEPTH_MAX / 2 { 0 } else { 1 });
        let most = schema["maxItems"].as_u64().unwrap_or(u64::MAX);
        let mut items = Vec::new();
        for _ in 0..least.min(most).min(ITEMS_MAX) {
            if self.values_left == 0 {
                break;
            }
            items.push(self.value(&schema["items"], depth + 1));
        }
        Value::Array(items)
    }

    fn string(&mut self, schema: &Value) -> String {
        let formatted = match schema["format"].as_str() {
            Some("date-time") => Some("2026-01-31T09:30:00Z"),
            Some("date") => Some("2026-01-31"),
            Some("time") => Some("09:30:00Z"),
            Some("duration") => Some("PT15M"),
            Some("email") => Some("ada@example.com"),
            Some("hostname") => Some("example.com"),
            Some("uri") => Some("https://example.com/"),
            Some("ipv4") => Some("192.0.2.1"),
            Some("ipv6") => Some("2001:db8::1"),
            Some("uuid") => Some("6f1c8a52-0d3e-4b8e-9a53-2f0f4d1c7e90"),
            _ => None,
        };
        if let Some(text) = formatted {
            return text.to_owned();
        }
        let least = schema["minLength"].as_u64().unwrap_or(0).min(10_000) as usize;
        let most = schema["maxLength"].as_u64().unwrap_or(u64::MAX) as usize;
        let mut text = prose(self.chance, 3).concat();
        while text.len() < least {
            text.push_str(" more");
        }
        text.truncate(most);
        self.values_left = self.values_left.saturating_sub(text.len() / CHARACTERS_PER_VALUE);
        text
    }

    fn merged(&mut self, parts: &[Value], depth: u32) -> Value {
        let mut whole = Value::Object(Map::new());
        for part in parts {
            match (&mut whole, self.value(part, depth + 1)) {
                (Value::Object(fields), Value::Object(more)) => fields.extend(more),
                (_, other) => return other,
            }
        }
        whole
    }
}

fn type_of(schema: &Value) -> &str {
    match &schema["type"] {
        Value::String(name) => name,
        Value::Array(names) => {
            names.iter().filter_map(Value::as_str).find(|name| *name != "null").unwrap_or("null")
        }
        _ if schema.get("properties").is_some() => "object",
        _ if schema.get("items").is_some() => "array",
        _ => "string",
    }
}

fn integer(schema: &Value) -> i64 {
    let least = schema["minimum"]
        .as_i64()
        .or(schema["exclusiveMinimum"].as_i64().map(|limit| limit.saturating_add(1)));
    let most = schema["maximum"]
        .as_i64()
        .or(schema["exclusiveMaximum"].as_i64().map(|limit| limit.saturating_sub(1)));
    let step = schema["multipleOf"].as_i64().filter(|step| *step > 0).unwrap_or(1);
    let start = least.unwrap_or(1.min(most.unwrap_or(1)));
    let up = start.div_euclid(step).saturating_mul(step);
    if up < start { up.saturating_add(step) } else { up }
}

fn number(schema: &Value) -> Value {
    let whole = integer(schema);
    let bounds = ["minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"];
    let fractional = bounds.iter().any(|name| schema[name].is_f64());
    if !fractional {
        return json!(whole);
    }
    let least = schema["minimum"].as_f64().or(schema["exclusiveMinimum"].as_f64());
    let most = schema["maximum"].as_f64().or(schema["exclusiveMaximum"].as_f64());
    match (least, most) {
        (Some(least), Some(most)) => json!((least + most) / 2.0),
        (Some(least), None) => json!(least + 1.0),
        (None, Some(most)) => json!(most - 1.0),
        (None, None) => json!(whole),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(schema: Value) {
        let validator = jsonschema::validator_for(&schema).unwrap();
        for seed in 0..20 {
            let value = sample(&schema, &mut Chance::of(seed, 1));
            assert!(validator.is_valid(&value), "{schema}\n{value}");
        }
    }

    #[test]
    fn the_ends_of_the_numbers_are_no_end_of_the_simulator() {
        for bounds in [
            json!({"type": "integer", "exclusiveMinimum": i64::MAX}),
            json!({"type": "integer", "exclusiveMaximum": i64::MIN}),
            json!({"type": "integer", "minimum": i64::MIN, "multipleOf": 3}),
            json!({"type": "integer", "minimum": i64::MAX, "multipleOf": 2}),
        ] {
            assert!(sample(&bounds, &mut Chance::of(1, 1)).is_i64(), "{bounds}");
        }
    }

    #[test]
    fn lists_within_lists_have_an_end() {
        let mut schema = json!({"type": "string", "minLength": 9_000});
        for _ in 0..10 {
            schema = json!({"type": "array", "minItems": 64, "items": schema});
        }

        let written = sample(&schema, &mut Chance::of(1, 1)).to_string();

        assert!(written.len() < VALUES_MAX * CHARACTERS_PER_VALUE * 2, "{}", written.len());
    }

    #[test]
    fn samples_are_valid_by_their_schemas() {
        check(json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"],
            "additionalProperties": false}));
        check(json!({"type": "object", "properties": {}, "additionalProperties": false}));
        check(
            json!({"type": "object", "properties": {"unit": {"enum": ["c", "f"]}, "days": {"type": "integer",
            "minimum": 3, "maximum": 4}, "note": {"type": ["string", "null"], "maxLength": 5}}}),
        );
        check(json!({"type": "array", "items": {"type": "number"}, "minItems": 3, "maxItems": 3}));
        check(
            json!({"$defs": {"step": {"type": "object", "properties": {"say": {"type": "string", "minLength": 40}},
            "required": ["say"]}}, "type": "object", "properties": {"steps": {"type": "array",
            "items": {"$ref": "#/$defs/step"}}}, "required": ["steps"]}),
        );
        check(json!({"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
            "required": ["next"]}));
        check(json!({"allOf": [{"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]},
            {"type": "object", "properties": {"b": {"type": "boolean"}}, "required": ["b"]}]}));
        check(json!({"type": "integer", "multipleOf": 5, "minimum": 7}));
        check(json!({"type": "integer", "maximum": -3}));
        check(json!({"type": "number", "exclusiveMinimum": 0.25, "maximum": 0.5}));
        check(json!({"type": "string", "format": "date-time"}));
    }
}
