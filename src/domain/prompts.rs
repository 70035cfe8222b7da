//! Prompt templates: texts that an operator keeps, by name and version, with variables that a request fills in.
//!
//! Strict: a request gives exactly the variables that the template has. A version is told once; what is charged for it can
//! be traced to its text for ever.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One version of a template, as it stands in the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Template {
    pub id: String,
    pub version: u32,
    /// The system prompt; `{{name}}` stands for a variable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// Messages that stand before the caller's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<Line>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    pub role: Speaker,
    pub content: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Speaker {
    User,
    Assistant,
}

/// All templates, by name and version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Templates(BTreeMap<String, BTreeMap<u32, Template>>);

/// A template with its variables filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filled {
    pub id: String,
    pub version: u32,
    pub system: Option<String>,
    pub messages: Vec<Line>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PromptError {
    #[error("`prompt` must be written as {{\"id\", \"version\", \"variables\"}}: {0}")]
    Malformed(&'static str),
    #[error("there is no prompt {0:?}")]
    Unknown(String),
    #[error("prompt {id:?} has no version {version}; it has {known}")]
    UnknownVersion { id: String, version: u64, known: String },
    #[error("prompt {id:?} needs the variable {name:?}")]
    Missing { id: String, name: String },
    #[error("prompt {id:?} has no variable {name:?}")]
    NotThere { id: String, name: String },
    #[error("the variable {0:?} must be a text, a number, true or false")]
    NotAText(String),
}

impl Templates {
    /// # Errors
    /// A version that is told twice, a name that is empty, or braces that never close.
    pub fn new(templates: Vec<Template>) -> Result<Templates, String> {
        let mut all = Templates::default();
        for template in templates {
            let name = format!("prompt {:?} version {}", template.id, template.version);
            if template.id.is_empty() {
                return Err("a prompt needs an id".into());
            }
            for text in template.texts() {
                variables(text).map_err(|why| format!("{name}: {why}"))?;
            }
            let versions = all.0.entry(template.id.clone()).or_default();
            if versions.insert(template.version, template).is_some() {
                return Err(format!("{name} is there twice"));
            }
        }
        Ok(all)
    }

    /// Fills in what a request asks for: `{"id", "version", "variables"}`, the highest version where it names none.
    ///
    /// # Errors
    /// What of it is not there, or not understood.
    pub fn fill(&self, asked: &Value) -> Result<Filled, PromptError> {
        let id = asked["id"].as_str().ok_or(PromptError::Malformed("`id` is missing"))?;
        let versions = self.0.get(id).ok_or_else(|| PromptError::Unknown(id.to_owned()))?;
        let template = match &asked["version"] {
            Value::Null => versions.values().next_back(),
            version => {
                let number = version.as_u64().or_else(|| version.as_str()?.parse().ok());
                let number = number.ok_or(PromptError::Malformed("`version` must be a number"))?;
                let known = || versions.keys().map(u32::to_string).collect::<Vec<_>>().join(", ");
                let found = u32::try_from(number).ok().and_then(|number| versions.get(&number));
                Some(found.ok_or_else(|| PromptError::UnknownVersion {
                    id: id.to_owned(),
                    version: number,
                    known: known(),
                })?)
            }
        };
        let template = template.ok_or_else(|| PromptError::Unknown(id.to_owned()))?;
        let nothing = Map::new();
        let given = match &asked["variables"] {
            Value::Null => &nothing,
            Value::Object(given) => given,
            _ => return Err(PromptError::Malformed("`variables` must be an object")),
        };
        template.fill(given)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Filled {
    /// The name by which reports know it.
    pub fn name(&self) -> String {
        format!("{}@{}", self.id, self.version)
    }
}

impl Template {
    fn texts(&self) -> impl Iterator<Item = &str> {
        self.system.iter().map(String::as_str).chain(self.messages.iter().map(|line| line.content.as_str()))
    }

    fn fill(&self, given: &Map<String, Value>) -> Result<Filled, PromptError> {
        let known: BTreeSet<&str> = self.texts().filter_map(|text| variables(text).ok()).flatten().collect();
        let mut values = BTreeMap::new();
        for (name, value) in given {
            if !known.contains(name.as_str()) {
                return Err(PromptError::NotThere { id: self.id.clone(), name: name.clone() });
            }
            let text = match value {
                Value::String(text) => text.clone(),
                Value::Number(_) | Value::Bool(_) => value.to_string(),
                _ => return Err(PromptError::NotAText(name.clone())),
            };
            values.insert(name.as_str(), text);
        }
        if let Some(name) = known.into_iter().find(|name| !values.contains_key(name)) {
            return Err(PromptError::Missing { id: self.id.clone(), name: name.to_owned() });
        }
        let line = |line: &Line| Line { content: filled(&line.content, &values), ..line.clone() };
        Ok(Filled {
            id: self.id.clone(),
            version: self.version,
            system: self.system.as_deref().map(|text| filled(text, &values)),
            messages: self.messages.iter().map(line).collect(),
        })
    }
}

/// The names between braces.
fn variables(text: &str) -> Result<Vec<&str>, &'static str> {
    let after = text.split("{{").skip(1);
    after.map(|rest| rest.split_once("}}").map(|(name, _)| name.trim()).ok_or("{{ without }}")).collect()
}

/// What a variable's value holds is text, whatever it looks like: it is not looked at again.
fn filled(text: &str, values: &BTreeMap<&str, String>) -> String {
    let mut parts = text.split("{{");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        if let Some((name, rest)) = part.split_once("}}") {
            out.push_str(values.get(name.trim()).map_or("", String::as_str));
            out.push_str(rest);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn templates() -> Templates {
        let greeting =
            |version: u32, system: &str| json!({"id": "greet", "version": version, "system": system});
        let mut second = greeting(2, "You greet {{ name }} in {{language}}.");
        second["messages"] = json!([{"role": "user", "content": "Greet {{name}}."}]);
        let written = json!([greeting(1, "You greet."), second]);
        Templates::new(serde_json::from_value(written).unwrap()).unwrap()
    }

    #[test]
    fn variables_are_filled_in_and_never_read_again() {
        let asked = json!({"id": "greet", "variables": {"name": "{{language}}", "language": 7}});

        let filled = templates().fill(&asked).unwrap();

        assert_eq!(filled.name(), "greet@2");
        assert_eq!(filled.system.as_deref(), Some("You greet {{language}} in 7."));
        assert_eq!(filled.messages[0].content, "Greet {{language}}.");
        assert_eq!(templates().fill(&json!({"id": "greet", "version": "1"})).unwrap().version, 1);
    }

    #[test]
    fn what_is_missing_or_not_there_is_told_by_name() {
        for (asked, told) in [
            (json!({}), "`id` is missing"),
            (json!({"id": "gret"}), "\"gret\""),
            (json!({"id": "greet", "version": 3}), "no version 3; it has 1, 2"),
            (json!({"id": "greet", "variables": {"name": "x"}}), "needs the variable \"language\""),
            (json!({"id": "greet", "version": 1, "variables": {"name": "x"}}), "no variable \"name\""),
            (json!({"id": "greet", "variables": {"name": [], "language": "x"}}), "\"name\" must be a text"),
        ] {
            let error = templates().fill(&asked).unwrap_err().to_string();
            assert!(error.contains(told), "{asked}: {error}");
        }
    }

    #[test]
    fn a_version_is_told_once_and_braces_close() {
        let template = |system: &str| {
            serde_json::from_value::<Template>(json!({"id": "a", "version": 1, "system": system})).unwrap()
        };
        assert!(Templates::new(vec![template("x"), template("y")]).unwrap_err().contains("twice"));
        assert!(Templates::new(vec![template("{{x")]).unwrap_err().contains("without }}"));
    }
}
