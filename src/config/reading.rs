//! Errors of reading the configuration, without the values that it holds: any of them may be a secret.

use std::fmt;
use std::path::Path;

use figment::error::{Actual, Kind};
use toml_edit::{ImDocument, TomlError};

use crate::config::ConfigError;

/// Parses the file before figment does: figment's own error would quote the line that can't be parsed.
pub(super) fn check_syntax(file: &Path) -> Result<(), ConfigError> {
    let text =
        std::fs::read_to_string(file).map_err(|why| ConfigError::File { file: file.to_owned(), why })?;
    match ImDocument::parse(&text) {
        Ok(_) => Ok(()),
        Err(error) => Err(syntax_error(file, &text, &error)),
    }
}

/// The parser's message names keys and what was expected, never a value.
fn syntax_error(file: &Path, text: &str, error: &TomlError) -> ConfigError {
    let at = error.span().map_or(0, |span| span.start);
    let before = text.get(..at).unwrap_or(text);
    let line_begin = before.rfind('\n').map_or(0, |newline| newline + 1);
    ConfigError::Syntax {
        file: file.to_owned(),
        line: before.matches('\n').count() + 1,
        column: before[line_begin..].chars().count() + 1,
        why: match error.message().trim_end() {
            // The parser says nothing of a value that is not there.
            "" => "a value is missing or cut short here".into(),
            message => message.replace('\n', ", "),
        },
    }
}

/// Displays errors of figment with the values masked.
pub(super) struct Masked<'a>(pub &'a figment::Error);

impl fmt::Display for Masked<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut errors: Vec<figment::Error> = self.0.clone().into_iter().collect();
        for error in &mut errors {
            if let Kind::InvalidType(actual, _)
            | Kind::InvalidValue(actual, _)
            | Kind::Unsupported(actual)
            | Kind::UnsupportedKey(actual, _) = &mut error.kind
            {
                mask(actual);
            }
        }
        let errors: Vec<String> = errors.iter().map(figment::Error::to_string).collect();
        out.write_str(&errors.join("; "))
    }
}

fn mask(actual: &mut Actual) {
    let masked = match actual {
        Actual::Bool(_) => "a boolean",
        Actual::Unsigned(_) | Actual::Signed(_) => "an integer",
        Actual::Float(_) => "a float",
        Actual::Char(_) | Actual::Str(_) | Actual::Bytes(_) => "a string",
        _ => return,
    };
    *actual = Actual::Other(masked.to_owned());
}
