//! What JSON takes of memory once it is parsed, told before it is: a few bytes of it may become a hundred.

/// What one of it takes: 60 to 95 bytes where it was measured, and up to 170 of a list of numbers or short texts whose room has
/// just doubled, half of it untouched.
pub const WEIGHT_BYTES: usize = 100;
/// What a provider's answer, or a frame of its stream, may weigh: 400 MB. Twenty likely tokens beside each of 10,000.
pub const ANSWER_WEIGHT_MAX: usize = 4_000_000;
/// Numbers of an answer that is vectors: of 2,048 texts, 4,096 each.
pub const VECTORS_WEIGHT_MAX: usize = 10_000_000;
/// An object or a list takes room for its first few values at once.
const HOLDER_WEIGHT: usize = 5;

pub fn is_heavier(bytes: &[u8], weight_max: usize) -> bool {
    // Short ones, as nearly all are, need no look.
    bytes.len() > weight_max / HOLDER_WEIGHT && weight(bytes) > weight_max
}

/// Weighs the structure outside of texts. What it says of what is not JSON does not matter.
pub fn weight(bytes: &[u8]) -> usize {
    let (mut weight, mut rest) = (0, bytes.iter());
    while let Some(byte) = rest.next() {
        match byte {
            b'{' | b'[' => weight += HOLDER_WEIGHT,
            b',' | b':' => weight += 1,
            b'"' => {
                while rest.find(|byte| matches!(byte, b'"' | b'\\')).is_some_and(|byte| *byte == b'\\') {
                    rest.next();
                }
            }
            _ => {}
        }
    }
    weight
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_weigh_nothing_and_end_where_they_end() {
        for (body, expected) in [
            (r#""[{,:""#, 0),
            (r#"["\"[", "\\", ["\\\""]]"#, 12),
            (r#"{"a": 1, "b": [1, 2, 3]}"#, 15),
            (r#"{"#, 5),
            (r#""no end \"#, 0),
        ] {
            assert_eq!(weight(body.as_bytes()), expected, "{body}");
        }
    }

    #[test]
    fn what_is_heavier_is_told_whatever_its_length() {
        for (item, is_expected) in [("[]", true), ("{}", true), ("0", false), ("\"[[[[[[[[\"", false)] {
            let items = vec![item; 1_000].join(",");

            assert_eq!(is_heavier(items.as_bytes(), 3_000), is_expected, "{item}");
        }
        assert!(!is_heavier(b"[[[[", 20) && is_heavier(b"[[[[[", 24));
    }
}
