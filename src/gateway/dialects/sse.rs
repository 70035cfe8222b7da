//! Server-sent events, parsed as bytes arrive: split anywhere, with any line ending, bounded in memory.

use bytes::Bytes;

/// One frame larger than this breaks the stream: no provider sends one, and memory is everyone's.
pub const FRAME_BYTES_MAX: usize = 16 * 1024 * 1024;

/// One frame of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The frame as it came, its closing blank line included, so that it can go on unchanged.
    pub raw: Bytes,
    /// Its `event:` field; empty where there is none.
    pub event: String,
    /// Its `data:` lines, joined by line feeds; `None` for comments and keep-alives.
    pub data: Option<String>,
}

/// Why a stream can't be read further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SseError {
    #[error("a frame of the stream exceeds {FRAME_BYTES_MAX} bytes")]
    FrameTooLarge,
    #[error("a frame of the stream has too many values")]
    FrameTooComplex,
    #[error("a frame of the stream is not UTF-8")]
    NotUtf8,
}

/// Splits pushed bytes into frames.
#[derive(Debug, Default)]
pub struct SseParser {
    frame: Vec<u8>,
    /// Where the line that is being read begins in `frame`.
    line_start: usize,
    /// The last byte was a carriage return that ended a line; a line feed now belongs to it.
    after_carriage_return: bool,
    /// A blank line ended the frame with a carriage return; it is complete once the next byte is known.
    awaits_line_feed: bool,
}

impl SseParser {
    /// Takes the next bytes and returns the frames that they complete.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<Frame>, SseError> {
        let mut frames = Vec::new();
        let mut rest = bytes;
        while let Some(&byte) = rest.first() {
            if std::mem::take(&mut self.awaits_line_feed) {
                if byte == b'\n' {
                    self.frame.push(byte);
                    rest = &rest[1..];
                }
                frames.push(self.take()?);
                continue;
            }
            // Nothing ends within a line, so that it is taken at once.
            let in_line = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')).unwrap_or(rest.len());
            let (part, after) = rest.split_at(in_line.max(1));
            rest = after;
            self.frame.extend_from_slice(part);
            if self.frame.len() > FRAME_BYTES_MAX {
                return Err(SseError::FrameTooLarge);
            }
            if self.ends_frame(byte) {
                frames.push(self.take()?);
            }
        }
        Ok(frames)
    }

    /// What is left at the end of the stream: a last frame whose blank line is missing, if any.
    pub fn finish(&mut self) -> Result<Option<Frame>, SseError> {
        if self.frame.is_empty() { Ok(None) } else { self.take().map(Some) }
    }

    fn ends_frame(&mut self, byte: u8) -> bool {
        match byte {
            b'\n' if self.after_carriage_return => {
                self.after_carriage_return = false;
                self.line_start = self.frame.len();
                false
            }
            b'\n' => {
                let blank = self.frame.len() - 1 == self.line_start;
                self.line_start = self.frame.len();
                blank
            }
            b'\r' => {
                let blank = self.frame.len() - 1 == self.line_start;
                self.line_start = self.frame.len();
                self.after_carriage_return = !blank;
                self.awaits_line_feed = blank;
                false
            }
            _ => {
                self.after_carriage_return = false;
                false
            }
        }
    }

    fn take(&mut self) -> Result<Frame, SseError> {
        let raw = Bytes::from(std::mem::take(&mut self.frame));
        *self = Self::default();
        let text = std::str::from_utf8(&raw).map_err(|_| SseError::NotUtf8)?;
        let mut event = String::new();
        let mut data: Option<String> = None;
        for line in text.split(['\n', '\r']) {
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match name {
                "event" => event = value.to_owned(),
                "data" => match &mut data {
                    Some(data) => {
                        data.push('\n');
                        data.push_str(value);
                    }
                    None => data = Some(value.to_owned()),
                },
                _ => {}
            }
        }
        Ok(Frame { raw, event, data })
    }
}

/// A frame as the OpenAI dialect writes it.
pub fn data_frame(data: &str) -> String {
    format!("data: {data}\n\n")
}

/// A frame as the Anthropic dialect writes it.
pub fn event_frame(event: &str, data: &str) -> String {
    format!("event: {event}\ndata: {data}\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STREAM: &str = ": hello\n\nevent: a\r\ndata: {\"é\":1}\r\n\r\ndata: x\ndata: y\n\n\
                          data:z\r\rdata\n\nid: 7\nevent: end\ndata: [DONE]";

    fn frames(chunks: &[&[u8]]) -> Vec<Frame> {
        let mut parser = SseParser::default();
        let mut frames = Vec::new();
        for chunk in chunks {
            frames.extend(parser.push(chunk).unwrap());
        }
        frames.extend(parser.finish().unwrap());
        frames
    }

    #[test]
    fn frames_are_read_with_any_line_ending() {
        let frames = frames(&[STREAM.as_bytes()]);

        let seen: Vec<_> = frames.iter().map(|frame| (frame.event.as_str(), frame.data.as_deref())).collect();
        assert_eq!(
            seen,
            [
                ("", None),
                ("a", Some("{\"é\":1}")),
                ("", Some("x\ny")),
                ("", Some("z")),
                ("", Some("")),
                ("end", Some("[DONE]")),
            ]
        );
        let raw: Vec<u8> = frames.iter().flat_map(|frame| frame.raw.to_vec()).collect();
        assert_eq!(raw, STREAM.as_bytes(), "the raw frames are the stream");
    }

    proptest! {
        #[test]
        fn where_the_bytes_are_split_does_not_matter(mut cuts in proptest::collection::vec(0..STREAM.len(), 0..20)) {
            cuts.sort_unstable();
            let mut chunks = Vec::new();
            let mut from = 0;
            for cut in cuts {
                chunks.push(&STREAM.as_bytes()[from..cut]);
                from = cut;
            }
            chunks.push(&STREAM.as_bytes()[from..]);

            prop_assert_eq!(frames(&chunks), frames(&[STREAM.as_bytes()]));
        }
    }

    #[test]
    fn an_endless_frame_breaks_the_stream() {
        let mut parser = SseParser::default();
        let chunk = vec![b'x'; FRAME_BYTES_MAX / 2 + 1];

        assert!(parser.push(&chunk).unwrap().is_empty());
        assert_eq!(parser.push(&chunk), Err(SseError::FrameTooLarge));
    }
}
