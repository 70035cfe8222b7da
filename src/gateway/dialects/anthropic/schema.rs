//! Schemas as Claude takes them: its answers hold to types and names, not to bounds, and objects have no others than theirs.
//!
//! As Anthropic's own SDKs do, a bound goes into the description, where the model reads it.
//! Source: <https://platform.claude.com/docs/en/build-with-claude/structured-outputs#json-schema-limitations>.

use serde_json::{Map, Value};

use super::super::dropped::Dropped;
use super::super::strict::is_object;
use super::super::{Refused, unsupported};

/// What can't be held to.
const BOUNDS: [&str; 13] = [
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "maxItems",
    "uniqueItems",
    "contains",
    "minProperties",
    "maxProperties",
    "patternProperties",
];
/// The formats of texts that Claude knows; any other is treated as a bound.
const FORMATS: [&str; 10] =
    ["date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"];

/// Names what only the description still says.
pub fn for_claude(mut schema: Value, dropped: &mut Dropped) -> Result<Value, Refused> {
    fit(&mut schema, dropped)?;
    Ok(schema)
}

fn fit(schema: &mut Value, dropped: &mut Dropped) -> Result<(), Refused> {
    let Some(fields) = schema.as_object_mut() else { return Ok(()) };
    describe_bounds(fields, dropped);
    one_of_any(fields, dropped);
    refuse_joined(fields)?;
    if is_object(fields) {
        close(fields, dropped)?;
    }
    for (name, value) in fields {
        match name.as_str() {
            "properties" | "$defs" | "definitions" => {
                for schema in value.as_object_mut().into_iter().flat_map(Map::values_mut) {
                    fit(schema, dropped)?;
                }
            }
            "items" => fit(value, dropped)?,
            "anyOf" | "allOf" => {
                for schema in value.as_array_mut().into_iter().flatten() {
                    fit(schema, dropped)?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn describe_bounds(fields: &mut Map<String, Value>, dropped: &mut Dropped) {
    let is_bound = |name: &str, value: &Value| match name {
        "minItems" => !matches!(value.as_u64(), Some(0 | 1)),
        "format" => !value.as_str().is_some_and(|format| FORMATS.contains(&format)),
        _ => BOUNDS.contains(&name),
    };
    let names: Vec<String> =
        fields.iter().filter(|(name, value)| is_bound(name, value)).map(|(name, _)| name.clone()).collect();
    let mut told = Vec::new();
    for name in names {
        dropped.add(&format!("schema.{name}"));
        told.extend(fields.shift_remove(&name).map(|value| format!("{name}: {value}")));
    }
    if !told.is_empty() {
        let before = fields.get("description").and_then(Value::as_str).filter(|text| !text.is_empty());
        let before = before.map_or_else(String::new, |text| format!("{text}\n\n"));
        fields.insert("description".to_owned(), format!("{before}{{{}}}", told.join(", ")).into());
    }
}

/// That no second one fits too can't be held to.
fn one_of_any(fields: &mut Map<String, Value>, dropped: &mut Dropped) {
    if !fields.contains_key("anyOf")
        && let Some(schemas) = fields.shift_remove("oneOf")
    {
        dropped.add("schema.oneOf");
        fields.insert("anyOf".to_owned(), schemas);
    }
}

/// Refuses `allOf` of several objects: once each is closed, none allows the properties of the others, and no answer could
/// satisfy them all.
fn refuse_joined(fields: &Map<String, Value>) -> Result<(), Refused> {
    let Some(joined) = fields.get("allOf").and_then(Value::as_array) else { return Ok(()) };
    let may_be_object = |schema: &&Value| {
        schema.as_object().is_some_and(|fields| is_object(fields) || fields.contains_key("$ref"))
    };
    match joined.iter().filter(may_be_object).count() + usize::from(is_object(fields)) {
        0 | 1 => Ok(()),
        _ => unsupported(
            "schema.allOf",
            "the upstream of this model takes objects whose properties stand in one",
        ),
    }
}

fn close(fields: &mut Map<String, Value>, dropped: &mut Dropped) -> Result<(), Refused> {
    let is_named = fields.contains_key("properties");
    match fields.get("additionalProperties") {
        Some(Value::Bool(false)) => {}
        None if is_named => {}
        Some(Value::Bool(true)) if is_named => dropped.add("schema.additionalProperties"),
        // Closed, one that names none could only be empty.
        None | Some(_) => {
            let why = "the upstream of this model takes objects whose properties are named";
            return unsupported("schema.additionalProperties", why);
        }
    }
    fields.insert("additionalProperties".to_owned(), false.into());
    Ok(())
}
