//! Events are kept for ever: each kind has its schema, a golden payload that is read and written byte for byte, and a
//! section in `docs/EVENTS.md`.
//!
//! A golden file is never written again: where today's code does not read it, the code is wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use schemars::schema_for;
use serde_json::Value;
use tollgate::domain::event::Payload;

use crate::schemas;

/// The version that is written today. Files of an older one stay, and are read, as they are.
const VERSION: i32 = 1;

#[test]
fn the_schema_of_every_kind_is_current_and_there_is_none_else() {
    let made = payload_schemas();
    for (kind, schema) in &made {
        schemas::current(&format!("events/{kind}.v{VERSION}.json"), schema);
    }

    let written = names("schemas/events", &format!(".v{VERSION}.json"));
    let extra: Vec<&String> = written.iter().filter(|kind| !made.contains_key(*kind)).collect();
    assert!(
        extra.is_empty(),
        "{extra:?} have a schema and are no kinds of Event; a kind is never taken away"
    );
}

#[test]
fn every_golden_payload_is_read_and_written_byte_for_byte() {
    let schemas = payload_schemas();
    let golden = names("schemas/events/golden", &format!(".v{VERSION}.json"));
    for kind in schemas.keys() {
        assert!(
            golden.contains(kind),
            "write schemas/events/golden/{kind}.v{VERSION}.json: one payload, on one line, as the log stores it"
        );
    }
    let extra: Vec<&String> = golden.iter().filter(|kind| !schemas.contains_key(*kind)).collect();
    assert!(extra.is_empty(), "{extra:?} are golden and no kinds of Event; a kind is never taken away");

    for (kind, schema) in &schemas {
        let stored = read(&format!("schemas/events/golden/{kind}.v{VERSION}.json"));
        let payload: Payload =
            serde_json::from_str(&stored).unwrap_or_else(|error| panic!("{kind}: {error}"));

        assert_eq!(format!("{}\n", serde_json::to_string(&payload).unwrap()), stored, "{kind}");
        assert_eq!((payload.event.kind(), payload.event.schema_version()), (kind.as_str(), VERSION));
        let validator = jsonschema::validator_for(schema).unwrap();
        let broken: Vec<String> = validator
            .iter_errors(&serde_json::from_str(&stored).unwrap())
            .map(|error| format!("{}: {error}", error.instance_path))
            .collect();
        assert!(broken.is_empty(), "{kind}: {broken:?}");
    }
}

#[test]
fn a_schema_refuses_every_other_kind_and_a_payload_without_its_fields() {
    let schemas = payload_schemas();
    let stored = |kind: &str| -> Value {
        serde_json::from_str(&read(&format!("schemas/events/golden/{kind}.v{VERSION}.json"))).unwrap()
    };

    for (kind, schema) in &schemas {
        let validator = jsonschema::validator_for(schema).unwrap();
        let others = schemas.keys().filter(|other| *other != kind);
        assert!(others.into_iter().all(|other| !validator.is_valid(&stored(other))), "{kind}");
        let mut emptied = stored(kind);
        let data = emptied["event"]["data"].as_object_mut().unwrap();
        if !data.is_empty() {
            data.clear();
            assert!(!validator.is_valid(&emptied), "{kind} without data");
        }
    }
}

#[test]
fn every_kind_has_its_section_which_says_who_emits_and_who_reads_it() {
    let page = read("docs/EVENTS.md");
    let sections: BTreeMap<String, &str> = page
        .split("\n### ")
        .skip(1)
        .filter_map(|section| section.split_once('\n'))
        .map(|(kind, text)| (kind.to_owned(), text))
        .collect();

    let kinds = payload_schemas();
    for kind in kinds.keys() {
        assert!(sections.contains_key(kind), "docs/EVENTS.md has no section on {kind}");
    }
    for kind in sections.keys() {
        assert!(
            kinds.contains_key(kind),
            "docs/EVENTS.md has a section on {kind}, which is no kind of Event"
        );
    }
    for (kind, text) in sections {
        let says = |who: &str| text.lines().any(|line| line.starts_with(who) && line.len() > who.len() + 3);
        assert!(says("Emitted by:") && says("Read by:"), "{kind}: say who emits it and who reads it");
    }
}

/// The schema of the payload of every kind of `Event`: that of all payloads, with the one kind's data.
fn payload_schemas() -> BTreeMap<String, Value> {
    let all = Value::from(schema_for!(Payload));
    let kinds = all["$defs"]["Event"]["oneOf"].as_array().unwrap();
    let of_kind = |one: &Value| {
        let kind = one["properties"]["kind"]["const"].as_str().unwrap().to_owned();
        let mut schema = all.clone();
        schema["title"] = kind.clone().into();
        schema["properties"]["event"] = one.clone();
        keep_what_is_referred_to(&mut schema);
        (kind, schema)
    };
    kinds.iter().map(of_kind).collect()
}

/// Drops the definitions that nothing in the schema leads to.
fn keep_what_is_referred_to(schema: &mut Value) {
    let Some(Value::Object(mut definitions)) =
        schema.as_object_mut().and_then(|schema| schema.shift_remove("$defs"))
    else {
        return;
    };
    let mut reached = BTreeSet::new();
    let mut ahead = references(schema);
    while let Some(name) = ahead.pop() {
        if reached.insert(name.clone()) {
            ahead.extend(references(&definitions[&name]));
        }
    }
    definitions.retain(|name, _| reached.contains(name));
    schema["$defs"] = definitions.into();
}

fn references(schema: &Value) -> Vec<String> {
    match schema {
        Value::Object(fields) => {
            let own = fields.get("$ref").and_then(Value::as_str);
            let own = own.and_then(|path| path.strip_prefix("#/$defs/")).map(str::to_owned);
            own.into_iter().chain(fields.values().flat_map(references)).collect()
        }
        Value::Array(items) => items.iter().flat_map(references).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => vec![],
    }
}

/// The files of a folder, without the ending that they share.
fn names(folder: &str, ending: &str) -> BTreeSet<String> {
    let files = std::fs::read_dir(root().join(folder)).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    names.filter_map(|name| name.strip_suffix(ending).map(str::to_owned)).collect()
}

fn read(file: &str) -> String {
    std::fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}
