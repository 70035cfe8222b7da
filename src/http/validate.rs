//! Whether a text of a request may be what it is meant for.

use crate::http::Problem;
use crate::http::extract::text;

/// Refuses a reference that is empty, too long, or begins or ends with white space: the same one with a blank would count as
/// another, and one payment buy twice.
pub fn check_reference(field: &str, value: &str, bytes_max: usize) -> Result<(), Problem> {
    text(field, value, bytes_max)?;
    let is_trimmed = value.trim() == value;
    is_trimmed
        .then_some(())
        .ok_or_else(|| Problem::malformed(format!("`{field}` neither begins nor ends with white space")))
}

/// Refuses what is not one mail address, where there is one.
pub fn check_email_if_given(field: &str, value: Option<&String>, bytes_max: usize) -> Result<(), Problem> {
    let Some(value) = value else { return Ok(()) };
    text(field, value, bytes_max)?;
    is_mail_address(value).then_some(()).ok_or_else(|| {
        Problem::malformed(format!("`{field}` is one mail address, such as \"billing@acme.example\""))
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
