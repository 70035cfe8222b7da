//! The events of a stream, however it is framed: server-sent events, the elements of one JSON array as they come, or
//! objects one after the other, as of a server that answers in one piece where a stream was asked for.

use bytes::Bytes;

use super::sse::{FRAME_BYTES_MAX, Frame, SseError, SseParser};
use crate::domain::json_weight::{ANSWER_WEIGHT_MAX, is_heavier};

/// Splits pushed bytes into events, by what the first of them shows.
#[derive(Debug, Default)]
pub enum FrameParser {
    #[default]
    Unknown,
    Sse(SseParser),
    Objects(ObjectParser),
}

impl FrameParser {
    /// Takes the next bytes and returns the events that they complete.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<Frame>, SseError> {
        if let FrameParser::Unknown = self {
            *self = match bytes.iter().find(|byte| !byte.is_ascii_whitespace()) {
                Some(b'[' | b'{') => FrameParser::Objects(ObjectParser::default()),
                Some(_) => FrameParser::Sse(SseParser::default()),
                None => return Ok(Vec::new()),
            };
        }
        let frames = match self {
            FrameParser::Unknown => Vec::new(),
            FrameParser::Sse(parser) => parser.push(bytes)?,
            FrameParser::Objects(parser) => parser.push(bytes)?,
        };
        frames.iter().try_for_each(weigh)?;
        Ok(frames)
    }

    /// What is left at the end of the stream, if it is an event.
    pub fn finish(&mut self) -> Result<Option<Frame>, SseError> {
        let frame = match self {
            FrameParser::Sse(parser) => parser.finish()?,
            FrameParser::Unknown | FrameParser::Objects(_) => None,
        };
        frame.iter().try_for_each(weigh)?;
        Ok(frame)
    }

    /// Whether events come as server-sent ones. Others may be whole answers, and are no frames for a client.
    pub fn is_framed(&self) -> bool {
        matches!(self, FrameParser::Sse(_))
    }
}

fn weigh(frame: &Frame) -> Result<(), SseError> {
    if frame.data.as_ref().is_some_and(|data| is_heavier(data.as_bytes(), ANSWER_WEIGHT_MAX)) {
        return Err(SseError::FrameTooComplex);
    }
    Ok(())
}

/// Finds objects by their braces.
#[derive(Debug, Default)]
pub struct ObjectParser {
    object: Vec<u8>,
    depth: u32,
    in_string: bool,
    after_backslash: bool,
}

impl ObjectParser {
    fn push(&mut self, bytes: &[u8]) -> Result<Vec<Frame>, SseError> {
        let mut frames = Vec::new();
        for &byte in bytes {
            if self.depth == 0 && byte != b'{' {
                // An array's own brackets and commas.
                continue;
            }
            self.object.push(byte);
            if self.object.len() > FRAME_BYTES_MAX {
                return Err(SseError::FrameTooLarge);
            }
            match byte {
                _ if self.after_backslash => self.after_backslash = false,
                b'\\' if self.in_string => self.after_backslash = true,
                b'"' => self.in_string = !self.in_string,
                b'{' if !self.in_string => self.depth += 1,
                b'}' if !self.in_string => self.depth -= 1,
                _ => {}
            }
            if self.depth == 0 {
                let raw = Bytes::from(std::mem::take(&mut self.object));
                let data = std::str::from_utf8(&raw).map_err(|_| SseError::NotUtf8)?.to_owned();
                frames.push(Frame { raw, event: String::new(), data: Some(data) });
            }
        }
        Ok(frames)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(stream: &str, step: usize) -> Vec<String> {
        let mut parser = FrameParser::default();
        let mut frames = Vec::new();
        for bytes in stream.as_bytes().chunks(step) {
            frames.extend(parser.push(bytes).unwrap());
        }
        frames.extend(parser.finish().unwrap());
        frames.into_iter().filter_map(|frame| frame.data).collect()
    }

    #[test]
    fn an_array_gives_its_objects_wherever_it_is_split() {
        let stream = "[{\"a\": \"}{ \\\" [\"}\n,\r\n{\"b\": {\"c\": [{}]}}\n]\n";
        for step in [1, 2, 7, 1_000] {
            assert_eq!(events(stream, step), ["{\"a\": \"}{ \\\" [\"}", "{\"b\": {\"c\": [{}]}}"]);
        }
        assert_eq!(events("data: {\"a\": 1}\n\n", 3), ["{\"a\": 1}"]);
        assert_eq!(events(" {\"a\": {}}\n", 2), ["{\"a\": {}}"], "one that stands alone");
        assert_eq!(events("[{\"a\": 1", 1), [""; 0], "half an object is none");
    }

    #[test]
    fn an_event_that_would_take_many_times_its_length_in_memory_is_none() {
        let list = "[],".repeat(1_000_000);
        for (stream, is_read) in [
            (format!("data: [{list}[]]\n\n"), false),
            (format!("[{{\"a\": [{list}[]]}}]"), false),
            (format!("data: \"{list}\"\n\n"), true),
        ] {
            let read = FrameParser::default().push(stream.as_bytes());

            assert_eq!(read.is_ok(), is_read, "{}", &stream[..9]);
        }
        let mut last = FrameParser::default();
        last.push(format!("data: [{list}[]]").as_bytes()).expect("has no end yet");
        assert!(last.finish().is_err());
    }
}
