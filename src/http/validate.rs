//! Whether a text of a request may be what it is meant for.

use crate::domain::time::Timestamp;
use crate::http::Problem;

/// Slugs and project names: 1 to 63 of a-z, 0-9, `-` and `_`.
pub fn check_name(field: &str, text: &str) -> Result<(), Problem> {
    let fits = (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_');
    if fits {
        Ok(())
    } else {
        Err(Problem::malformed(format!("`{field}` must be 1 to 63 characters from a-z, 0-9, - and _")))
    }
}

/// Refuses a text that is empty or longer than what the log keeps for ever of one field.
pub fn check_text(field: &str, value: &str, bytes_max: usize) -> Result<(), Problem> {
    let fits = (1..=bytes_max).contains(&value.len()) && !value.chars().any(char::is_control);
    fits.then_some(()).ok_or_else(|| {
        Problem::malformed(format!(
            "`{field}` must be 1 to {bytes_max} bytes long, without control characters"
        ))
    })
}

/// Checks a text that may be left out.
pub fn check_text_if_given(field: &str, value: Option<&String>, bytes_max: usize) -> Result<(), Problem> {
    value.map_or(Ok(()), |value| check_text(field, value, bytes_max))
}

pub fn parse_time(text: &str) -> Result<Timestamp, Problem> {
    let parsed = Timestamp::parse_rfc3339(text);
    parsed.ok_or_else(|| Problem::malformed("times must be RFC 3339, such as \"2026-12-31T00:00:00Z\""))
}

/// Refuses a reference that is empty, too long, or begins or ends with white space: the same one with a blank would count as
/// another, and one payment buy twice.
pub fn check_reference(field: &str, value: &str, bytes_max: usize) -> Result<(), Problem> {
    check_text(field, value, bytes_max)?;
    let is_trimmed = value.trim() == value;
    is_trimmed
        .then_some(())
        .ok_or_else(|| Problem::malformed(format!("`{field}` must not begin or end with white space")))
}

/// Refuses what is not one mail address, where there is one.
pub fn check_email_if_given(field: &str, value: Option<&String>, bytes_max: usize) -> Result<(), Problem> {
    let Some(value) = value else { return Ok(()) };
    check_text(field, value, bytes_max)?;
    is_mail_address(value).then_some(()).ok_or_else(|| {
        Problem::malformed(format!(
            "`{field}` must be a single e-mail address, such as \"billing@acme.example\""
        ))
    })
}

/// One address without a display name: a local part and a domain, without what would make a list of it or break a header.
fn is_mail_address(text: &str) -> bool {
    let is_plain = |part: &str| {
        !part.is_empty()
            && !part.contains(|c: char| c.is_whitespace() || c.is_control() || ",;:<>()[]\"\\".contains(c))
    };
    let dots_fit = |part: &str| !part.starts_with('.') && !part.ends_with('.') && !part.contains("..");
    match text.split_once('@') {
        Some((local, domain)) => {
            [local, domain].into_iter().all(|part| is_plain(part) && dots_fit(part)) && !domain.contains('@')
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mail_address_is_one_and_whole() {
        for address in ["billing@acme.example", "a.b+c@localhost", "jürgen@bücher.example"] {
            assert!(is_mail_address(address), "{address}");
        }
        for text in [
            "",
            "acme",
            "@acme.example",
            "billing@",
            "a@b@c",
            "a@b.example, c@d.example",
            "a b@c.example",
            "Ada <ada@c.example>",
            "a@c.example\n",
            "a@.example",
            "a..b@c.example",
            "a@c.example.",
            "a;b@c.example",
        ] {
            assert!(!is_mail_address(text), "{text}");
        }
    }
}
