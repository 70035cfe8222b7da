//! How large a picture is, by the head of its file: PNG, JPEG and WebP, as their standards lay them out.
//!
//! Promise: no decoder makes a larger picture of the same bytes. Whatever could be read in two ways is not read at all.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};

/// Letters of base64 in which most heads end.
const HEAD_LETTERS: usize = 4 << 10;
/// And in which that of a JPEG must: more than cameras and editors put before it.
const HEAD_LETTERS_MAX: usize = 256 << 10;

/// How every JPEG begins.
const JPEG: &[u8] = b"\xff\xd8";

/// Width and height in pixels of a picture in base64.
pub(super) fn dimensions(data: &str) -> Option<(u64, u64)> {
    let head = decoded(data, HEAD_LETTERS)?;
    let in_more = || if head.starts_with(JPEG) { jpeg(&decoded(data, HEAD_LETTERS_MAX)?) } else { None };
    let size = png(&head).or_else(|| jpeg(&head)).or_else(|| webp(&head)).or_else(in_more);
    size.filter(|(width, height)| *width > 0 && *height > 0)
}

/// As many of its first letters.
fn decoded(data: &str, letters_max: usize) -> Option<Vec<u8>> {
    let letters = data.len().min(letters_max);
    // Four letters are three bytes.
    let head = data.as_bytes().get(..letters - letters % 4)?;
    STANDARD.decode(head).or_else(|_| URL_SAFE.decode(head)).ok()
}

fn png(file: &[u8]) -> Option<(u64, u64)> {
    let header = file.strip_prefix(b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR")?;
    let [w0, w1, w2, w3, h0, h1, h2, h3] = *header.first_chunk()?;
    Some((u32::from_be_bytes([w0, w1, w2, w3]).into(), u32::from_be_bytes([h0, h1, h2, h3]).into()))
}

fn jpeg(file: &[u8]) -> Option<(u64, u64)> {
    let mut rest = file.strip_prefix(JPEG)?;
    loop {
        let [0xff, marker, high, low] = *rest.first_chunk()? else { return None };
        let segment = rest.get(2..)?.split_at_checked(u16::from_be_bytes([high, low]).into());
        let (segment, after) = segment?;
        match marker {
            // A frame. Decoders refuse a second one.
            0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf => {
                let [_, _, _, h0, h1, w0, w1] = *segment.first_chunk()?;
                return Some((u16::from_be_bytes([w0, w1]).into(), u16::from_be_bytes([h0, h1]).into()));
            }
            // Tables, restarts, what applications write, comments.
            0xc4 | 0xdb | 0xdd | 0xe0..=0xef | 0xfe => rest = after,
            _ => return None,
        }
    }
}

fn webp(file: &[u8]) -> Option<(u64, u64)> {
    let chunk = file.strip_prefix(b"RIFF")?.get(4..)?.strip_prefix(b"WEBP")?;
    let (kind, chunk) = chunk.split_first_chunk::<4>()?;
    let data = chunk.get(4..)?;
    match kind {
        b"VP8 " => {
            let [w0, w1, h0, h1] = *data.get(3..)?.strip_prefix(b"\x9d\x01\x2a")?.first_chunk()?;
            // The two bits above are how it is to be shown.
            let pixels = |low, high| u64::from(u16::from_le_bytes([low, high]) & 0x3fff);
            Some((pixels(w0, w1), pixels(h0, h1)))
        }
        b"VP8L" => {
            let bits = u32::from_le_bytes(*data.strip_prefix(b"\x2f")?.first_chunk()?);
            let pixels = |bits: u32| u64::from(bits & 0x3fff) + 1;
            Some((pixels(bits), pixels(bits >> 14)))
        }
        b"VP8X" => {
            let [flags, _, _, _, w0, w1, w2, h0, h1, h2] = *data.first_chunk()?;
            let is_animated = flags & 2 != 0;
            let pixels =
                |bytes: [u8; 3]| bytes.into_iter().rev().fold(0, |sum, byte| sum * 256 + u64::from(byte)) + 1;
            (!is_animated).then(|| (pixels([w0, w1, w2]), pixels([h0, h1, h2])))
        }
        _ => None,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A PNG of this size, as far as its header.
    pub(crate) fn png_of(width: u32, height: u32) -> String {
        let head =
            [b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR", &width.to_be_bytes()[..], &height.to_be_bytes()].concat();
        STANDARD.encode([&head[..], b"\x08\x06\0\0\0....IDAT"].concat())
    }

    fn webp_of(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
        [b"RIFF....WEBP", &kind[..], b"....", data, b"more"].concat()
    }

    #[test]
    fn a_pictures_size_stands_in_its_head_or_is_not_known() {
        let frame = |marker: u8| [&[0xff, marker, 0, 17, 8, 1, 2, 3, 4][..], &[0; 10]].concat();
        let jpeg = |segments: &[&[u8]]| [&b"\xff\xd8"[..], &segments.concat()].concat();
        let (tables, comment) = (&b"\xff\xdb\0\x04AB"[..], &b"\xff\xfe\0\x03!"[..]);
        let thumbnail = [&b"\xff\xe1\xc8\0"[..], &[7; 0xc800 - 2]].concat();
        for (claim, file, expected) in [
            ("a JPEG", jpeg(&[b"\xff\xe0\0\x02", &frame(0xc0)]), Some((772, 258))),
            ("one with a thumbnail", jpeg(&[&thumbnail, &thumbnail, &frame(0xc0)]), Some((772, 258))),
            ("one with too many", jpeg(&[&thumbnail.repeat(5), &frame(0xc0)]), None),
            ("a progressive one", jpeg(&[tables, comment, &frame(0xc2)]), Some((772, 258))),
            ("one whose fill bytes readers take differently", jpeg(&[b"\xff", &frame(0xc0)]), None),
            ("one without a frame", jpeg(&[tables]), None),
            ("one with data before its frame", jpeg(&[b"\xff\xda\0\x02", &frame(0xc0)]), None),
            ("one whose height comes later", jpeg(&[b"\xff\xc0\0\x11\x08\0\0\x01\x01", &[0; 10]]), None),
            ("a WebP", webp_of(b"VP8 ", b"\0\0\0\x9d\x01\x2a\x03\x41\x02\0"), Some((259, 2))),
            ("a lossless one", webp_of(b"VP8L", b"\x2f\x03\xc0\0\0"), Some((4, 4))),
            ("an extended one", webp_of(b"VP8X", b"\x10\0\0\0\x01\0\0\x02\x01\0"), Some((2, 259))),
            ("one that moves", webp_of(b"VP8X", b"\x12\0\0\0\x01\0\0\x02\x01\0"), None),
            ("a GIF", b"GIF89a\x01\0\x01\0\0\0\0".to_vec(), None),
            ("half a PNG", b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0".to_vec(), None),
            ("nothing", Vec::new(), None),
        ] {
            assert_eq!(dimensions(&STANDARD.encode(&file)), expected, "{claim}");
            assert_eq!(dimensions(&URL_SAFE.encode(&file)), expected, "{claim}");
        }
        assert_eq!(dimensions(&png_of(640, 480)), Some((640, 480)));
        assert_eq!(dimensions(&png_of(0, 480)), None);
        assert_eq!(dimensions("no base64"), None);
    }
}
