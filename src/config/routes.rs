//! The routes of the file: every mistake in them is reported at once, with its line.

use std::fmt;
use std::path::PathBuf;

use figment::value::Value;
use figment::{Figment, Source};
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use toml_edit::{ImDocument, Item};

use crate::domain::routing::{Mistake, Route, Step};

/// A mistake in the routes, as the operator reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocatedMistake {
    /// The file and the line in it, where it came from a file.
    pub place: Option<(PathBuf, usize)>,
    pub mistake: Mistake,
}

pub(super) struct Lines<'a>(pub &'a [LocatedMistake]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "the routes have {} mistake(s):", self.0.len())?;
        for LocatedMistake { place, mistake } in self.0 {
            match place {
                Some((file, line)) => write!(out, "\n  {}:{line}: {}", file.display(), mistake.why)?,
                None => write!(out, "\n  {}: {}", mistake.path.join("."), mistake.why)?,
            }
        }
        Ok(())
    }
}

pub(super) fn read_apart<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Route>, D::Error> {
    IgnoredAny::deserialize(deserializer).map(|_| Vec::new())
}

/// The routes, each field and each target read by itself: one that is not understood hides no mistake in another.
pub(super) fn read_routes(figment: &Figment) -> (Vec<Route>, Vec<Mistake>) {
    let mut mistakes = Vec::new();
    let routes = match figment.find_value("routes") {
        Ok(Value::Array(_, written)) => {
            let route = |(place, written)| {
                read_route(vec!["routes".into(), format!("{place}")], written, &mut mistakes)
            };
            (0..).zip(&written).map(route).collect()
        }
        Ok(_) => {
            let why = "routes must be written as [[routes]]".to_owned();
            mistakes.push(Mistake { path: vec!["routes".into()], why });
            Vec::new()
        }
        Err(_) => Vec::new(),
    };
    (routes, mistakes)
}

fn read_route(path: Vec<String>, written: &Value, mistakes: &mut Vec<Mistake>) -> Route {
    let Value::Dict(tag, fields) = written else {
        mistakes.push(Mistake { path, why: "a route must be a table".into() });
        return Route::default();
    };
    let mut understood = fields.clone();
    understood.retain(|field, value| {
        let mut note = |more: &[String], error: figment::Error| {
            mistakes.push(Mistake { path: [&path, more].concat(), why: error.kind.to_string() });
        };
        if let (Value::Array(_, steps), "chain") = (&mut *value, field.as_str()) {
            for (place, step) in steps.iter_mut().enumerate() {
                if let Err(error) = step.deserialize::<Step>() {
                    note(&[field.clone(), place.to_string()], error);
                    // Left in place, so that the others keep their positions.
                    *step = Value::from("");
                }
            }
        }
        let alone = Value::Dict(*tag, [(field.clone(), value.clone())].into());
        alone.deserialize::<Route>().map_err(|error| note(std::slice::from_ref(field), error)).is_ok()
    });
    Value::Dict(*tag, understood).deserialize().unwrap_or_default()
}

/// The mistakes with the lines of the file where they are, ordered by line.
pub(super) fn locate(figment: &Figment, mistakes: Vec<Mistake>) -> Vec<LocatedMistake> {
    let text_of = |key: &str| {
        let source = figment.find_metadata(key)?.source.clone()?;
        let Source::File(file) = source else { return None };
        Some((std::fs::read_to_string(&file).ok()?, file))
    };
    let place = |mistake: &Mistake| {
        let (text, file) = text_of(mistake.path.first()?)?;
        Some((file, line(&text, &mistake.path)?))
    };
    let located = |mistake| LocatedMistake { place: place(&mistake), mistake };
    let mut located: Vec<LocatedMistake> = mistakes.into_iter().map(located).collect();
    located.sort_by_key(|located| located.place.as_ref().map(|(_, line)| *line));
    located
}

/// The line on which what the path leads to begins, as far as the path can be followed.
fn line(text: &str, path: &[String]) -> Option<usize> {
    let document = ImDocument::parse(text).ok()?;
    let mut item = document.as_item();
    let mut at = None;
    for part in path {
        let next = match part.parse::<usize>() {
            Ok(place) => item.get(place),
            Err(_) => item.get(part.as_str()),
        };
        let Some(next) = next else { break };
        item = next;
        at = span_of(item).or(at);
    }
    Some(text[..at?].lines().count().max(1))
}

fn span_of(item: &Item) -> Option<usize> {
    item.span().map(|span| span.start + 1)
}
