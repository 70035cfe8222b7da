//! What an operator has set and nothing heeds: variables that are no setting's, and settings that a reload leaves as they were.

use serde_json::Value;

use crate::config::{Config, ENVIRONMENT, OPERATOR_KEY};

/// Variables that other parts of Tollgate read.
const ELSEWHERE: [&str; 2] = ["TOLLGATE_LOG", "TOLLGATE_LOAD_KEY"];

/// What a reload takes over.
const RELOADED: [&str; 4] = ["routes", "prompts", "successors", "complexity_weights"];

impl Config {
    /// Those of these variables that are named like a setting and are none: misspelt, as a rule.
    pub fn unknown_variables(&self, names: impl Iterator<Item = String>) -> Vec<String> {
        let is_known = |name: &str| {
            let setting = name.strip_prefix("TOLLGATE_").unwrap_or_default().to_ascii_lowercase();
            ENVIRONMENT.contains(&setting.as_str())
                || name == OPERATOR_KEY
                || ELSEWHERE.contains(&name)
                || self.providers.iter().any(|provider| provider.api_key_env.as_deref() == Some(name))
        };
        let mut unknown: Vec<String> =
            names.filter(|name| name.starts_with("TOLLGATE_") && !is_known(name)).collect();
        unknown.sort_unstable();
        unknown
    }

    /// The settings that another reading has otherwise and that only a start takes over.
    pub fn changed_for_a_restart(&self, read_again: &Config) -> Vec<String> {
        let (now, then) = (self.settings(), read_again.settings());
        let names = now.keys().chain(then.keys().filter(|name| !now.contains_key(*name)));
        names
            .filter(|name| !RELOADED.contains(&name.as_str()) && now.get(*name) != then.get(*name))
            .cloned()
            .collect()
    }

    fn settings(&self) -> serde_json::Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(settings)) => settings,
            Ok(_) | Err(_) => serde_json::Map::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ProviderConfig, ProviderKind};

    #[test]
    fn a_misspelt_variable_is_told() {
        let mut provider = ProviderConfig::new("own", ProviderKind::Openai, "http://up".into());
        provider.api_key_env = Some("TOLLGATE_OWN_KEY".into());
        let config = Config { providers: vec![provider], ..Config::default() };
        let set = ["PATH", "TOLLGATE_LOG", "TOLLGATE_LISTEN", "TOLLGATE_OWN_KEY", OPERATOR_KEY];
        let misspelt = ["TOLLGATE_RATE_LIMIT", "TOLLGATE_DATABASE"];

        let told = config.unknown_variables(set.into_iter().chain(misspelt).map(str::to_owned));

        assert_eq!(told, ["TOLLGATE_DATABASE", "TOLLGATE_RATE_LIMIT"]);
    }

    #[test]
    fn a_reload_tells_what_needs_a_restart() {
        let provider = ProviderConfig::new("own", ProviderKind::Openai, "http://up".into());
        let now = Config { complexity_weights: None, ..Config::default() };
        let later = Config {
            drain_seconds: 1,
            operator_key: Some("k".into()),
            providers: vec![provider],
            complexity_weights: Some("other".into()),
            ..Config::default()
        };

        let mut changed = now.changed_for_a_restart(&later);
        changed.sort_unstable();

        assert_eq!(changed, ["drain_seconds", "operator_key", "providers"]);
        assert_eq!(later.changed_for_a_restart(&later.clone()), [""; 0]);
    }
}
