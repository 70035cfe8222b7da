//! A stream on its way from an upstream to a client: metered, and re-framed where the dialects differ.

mod ending;

use bytes::Bytes;
use serde_json::Value;

use super::conversation::Delta;
use super::frames::FrameParser;
use super::sse::{Frame, SseError, data_frame, event_frame};
use super::{
    Dialect, Family, anthropic, content, gemini, is_json, openai_chat, openai_responses, pieces, same,
};
use crate::gateway::dialects::relay::ending::Ending;
use crate::gateway::providers;
use crate::gateway::providers::classify::{UpstreamFailure, classify_answer, classify_event};

/// What was delivered so far, for the case that the provider's own report never comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    /// Output steps with text in them; providers send about one token in each.
    pub deltas: u64,
    pub text_bytes: u64,
    /// Sound included: what has too many will not end.
    pub bytes: u64,
    /// The provider has run tools of its own, whose costs it tells at the end alone.
    pub has_run_tools: bool,
}

impl Delivered {
    fn add(&mut self, output: &str) {
        self.deltas += 1;
        self.text_bytes += output.len() as u64;
        self.bytes += output.len() as u64;
    }

    /// Counts apart from text: a token of sound takes far more base64 letters.
    fn add_sound(&mut self, base64: &str) {
        self.deltas += 1;
        self.bytes += base64.len() as u64;
    }
}

/// What the provider and the client at the two ends of a stream speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamEnds {
    pub upstream: Family,
    pub client: Dialect,
    /// Whether the client asked for the usage (`wants_stream_usage` of its own request).
    pub client_wants_usage: bool,
    /// Dates the chunks of dialects that date them.
    pub created_at_seconds: i64,
}

/// One stream. Push the upstream's bytes, send on what comes back.
///
/// An error that the upstream reports within the stream is not passed on: see `failure`.
#[derive(Debug)]
pub struct StreamRelay {
    ends: StreamEnds,
    parser: FrameParser,
    reader: Reader,
    writer: Writer,
    /// A response repeats its instructions: they are left out where they are the operator's.
    hides_instructions: bool,
    usage: Option<Value>,
    served_model: Option<String>,
    service_tier: Option<String>,
    delivered: Delivered,
    ending: Ending,
    /// How many events came that are more than an envelope.
    contents: u64,
    /// What came since something was said.
    silent_bytes: u64,
    failure: Option<UpstreamFailure>,
}

#[derive(Debug)]
enum Reader {
    Chunks(openai_chat::ChunkReader),
    Items(openai_responses::ItemReader),
    Events(anthropic::EventReader),
    Candidates(gemini::CandidateReader),
}

#[derive(Debug)]
enum Writer {
    /// One dialect at both ends: frames go on as they came.
    Same,
    Chunks(openai_chat::ChunkWriter),
    Items(Box<openai_responses::ItemWriter>),
    Events(Box<anthropic::EventWriter>),
}

impl StreamRelay {
    pub fn new(ends: StreamEnds) -> Self {
        let reader = match ends.upstream {
            Family::OpenaiChat => Reader::Chunks(openai_chat::ChunkReader::default()),
            Family::OpenaiResponses => Reader::Items(openai_responses::ItemReader::default()),
            Family::Anthropic => Reader::Events(anthropic::EventReader::default()),
            Family::Gemini => Reader::Candidates(gemini::CandidateReader::default()),
        };
        let writer = if ends.upstream == ends.client.into() { Writer::Same } else { Writer::of(ends) };
        Self {
            ends,
            parser: FrameParser::default(),
            reader,
            writer,
            hides_instructions: false,
            usage: None,
            served_model: None,
            service_tier: None,
            delivered: Delivered::default(),
            ending: Ending::of_choices(1),
            contents: 0,
            silent_bytes: 0,
            failure: None,
        }
    }

    /// For a stream of several answers: it is finished when all of them are.
    pub fn of_choices(self, choices: u64) -> Self {
        Self { ending: Ending::of_choices(choices), ..self }
    }

    /// In answer to this request, of which some dialects repeat a part.
    pub fn answering(mut self, request: &Value) -> Self {
        self.hides_instructions = same::hides_instructions(self.ends.client, request);
        if let Writer::Items(writer) = &mut self.writer {
            writer.answers(request);
        }
        self
    }

    /// Takes bytes of the upstream and returns those for the client, often none.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Bytes, SseError> {
        let frames = self.parser.push(bytes)?;
        Ok(self.relay(&frames))
    }

    /// The upstream closed its stream. Returns the last bytes for the client; a stream that is then not
    /// `is_whole` broke off.
    pub fn finish(&mut self) -> Result<Bytes, SseError> {
        let last = self.parser.finish()?.and_then(closed);
        let mut out = self.relay(last.as_slice()).to_vec();
        // Some servers close after the finish reason, without the mark of the end.
        if self.failure.is_none() {
            out.extend_from_slice(&self.end_finished());
        }
        Ok(Bytes::from(out))
    }

    /// The upstream says no more of an answer that had its finish reason: returns the end for the client, which would
    /// wait for it, or take what it has for half an answer. Nothing where there was no finish, or the end was there.
    pub fn end_finished(&mut self) -> Bytes {
        let mut text = String::new();
        if self.ending.is_finished() && !self.ending.has_ended() {
            self.end(&mut text);
            if self.writer.is_same() {
                text.push_str(self.ends.client.end_of_stream());
            }
        }
        Bytes::from(text)
    }

    /// Whether the upstream has said that there will be an answer; comments and keep-alives say nothing.
    pub fn is_announced(&self) -> bool {
        self.served_model.is_some() || self.has_begun()
    }

    /// Whether any part of the answer itself is there, or its end. Providers send an envelope as soon as they have read the
    /// request, and may fail or fall silent after it.
    pub fn has_begun(&self) -> bool {
        self.contents > 0 || self.delivered.deltas > 0 || self.is_whole()
    }

    /// Grows with each part of the answer, and with its end.
    pub fn said(&self) -> u64 {
        self.contents.saturating_add(self.delivered.bytes).saturating_add(u64::from(self.is_whole()))
    }

    /// The bytes of whole events that came since something was said.
    pub fn silent_bytes(&self) -> u64 {
        self.silent_bytes
    }

    /// Whether the provider's policy has left nothing of the answer.
    pub fn is_blocked(&self) -> bool {
        self.ending.is_finished()
            && self.ending.is_filtered()
            && self.contents == 0
            && self.delivered.deltas == 0
    }

    /// Whether the answer came to its end.
    pub fn is_whole(&self) -> bool {
        self.ending.is_whole()
    }

    /// Whether the upstream itself ended it.
    pub fn has_failed(&self) -> bool {
        self.ending.has_failed()
    }

    pub fn has_ended(&self) -> bool {
        self.ending.has_ended()
    }

    /// The error that the upstream reported within the stream.
    pub fn failure(&self) -> Option<&UpstreamFailure> {
        self.failure.as_ref()
    }

    /// The provider's last usage report: final when the stream `is_whole`, else cumulative so far.
    pub fn usage_json(&self) -> Option<&Value> {
        self.usage.as_ref()
    }

    pub fn delivered(&self) -> Delivered {
        self.delivered
    }

    /// The model that the provider says answered.
    pub fn served_model(&self) -> Option<&str> {
        self.served_model.as_deref()
    }

    /// The tier in which the provider says it answered; it sets the price.
    pub fn service_tier(&self) -> Option<&str> {
        self.service_tier.as_deref()
    }

    fn relay(&mut self, frames: &[Frame]) -> Bytes {
        let mut out = Vec::new();
        for frame in frames {
            if self.failure.is_none() {
                let said = self.said();
                self.relay_frame(frame, &mut out);
                self.silent_bytes = match self.said() > said {
                    true => 0,
                    false => self.silent_bytes.saturating_add(frame.raw.len() as u64),
                };
            }
        }
        Bytes::from(out)
    }

    fn relay_frame(&mut self, frame: &Frame, out: &mut Vec<u8>) {
        let data = frame.data.as_deref().unwrap_or("");
        if data.trim() == "[DONE]" {
            let mut text = String::new();
            self.end(&mut text);
            out.extend_from_slice(if self.writer.is_same() { &frame.raw } else { text.as_bytes() });
            return;
        }
        let is_framed = self.parser.is_framed();
        if let (true, Reader::Chunks(_), Writer::Same) = (is_framed, &self.reader, &self.writer)
            && let Some(chunk) = openai_chat::TextChunk::read(data)
        {
            self.note_text(&chunk);
            out.extend_from_slice(&frame.raw);
            return;
        }
        let Ok(event) = serde_json::from_str::<Value>(data) else {
            // Comments, keep-alives and what we can't read mean nothing in another dialect.
            if self.writer.is_same() && is_framed {
                out.extend_from_slice(&frame.raw);
            }
            return;
        };
        if is_framed {
            self.relay_event(event, Some(&frame.raw), out);
        } else {
            self.relay_unframed(event, out);
        }
    }

    /// Some servers answer in one piece, or with an error, where they were asked for a stream: the client gets a stream of
    /// it.
    fn relay_unframed(&mut self, event: Value, out: &mut Vec<u8>) {
        self.failure = classify_answer(&event);
        if self.failure.is_some() {
            // What it has cost all the same.
            self.note(&event);
            return;
        }
        let Some(pieces) = pieces::of_whole(self.ends.upstream, &event) else {
            self.relay_event(event, None, out);
            return;
        };
        for piece in pieces {
            self.relay_event(piece, None, out);
        }
        if self.failure.is_none() {
            self.ending.finish();
            out.extend_from_slice(&self.end_finished());
        }
    }

    /// `raw` is the frame in which it came.
    fn relay_event(&mut self, event: Value, raw: Option<&Bytes>, out: &mut Vec<u8>) {
        self.note(&event);
        self.contents += u64::from(content::is_in(self.ends.upstream, &event));
        self.delivered.has_run_tools |= content::is_of_providers_tool(self.ends.upstream, &event);
        let deltas = match &mut self.reader {
            Reader::Chunks(reader) => reader.read(&event),
            Reader::Items(reader) => reader.read(&event),
            Reader::Events(reader) => reader.read(&event),
            Reader::Candidates(reader) => reader.read(&event),
        };
        if let Reader::Events(reader) = &self.reader
            && deltas.iter().any(|delta| matches!(delta, Delta::Usage(_)))
        {
            self.usage = reader.usage();
        }
        let mut text = String::new();
        for delta in deltas {
            self.relay_delta(delta, &mut text);
        }
        if self.failure.is_some() {
            return;
        }
        // An error may bring a finish reason too: it is no end of an answer.
        if let Reader::Chunks(_) = &self.reader {
            self.ending.note_chunk(&event);
        }
        if self.writer.is_same() {
            self.forward(raw, event, out);
        } else {
            out.extend_from_slice(text.as_bytes());
        }
    }

    /// Keeps what the settle needs of a raw event.
    fn note(&mut self, event: &Value) {
        let within =
            ["message", "response"].into_iter().map(|field| &event[field]).find(|inner| inner.is_object());
        let message = within.unwrap_or(event);
        if let Some(model) = providers::served_model(message) {
            self.served_model = Some(model.to_owned());
        }
        if let Some(tier) = providers::served_tier(message) {
            self.service_tier = Some(tier.to_owned());
        }
        // Anthropic's is put together from several events; a choice's own is not that of several.
        let is_of_all = self.ending.is_of_one() || message["usage"].is_object();
        if self.ends.upstream != Family::Anthropic
            && is_of_all
            && let Some(usage) = providers::usage_json(self.ends.upstream, message)
        {
            self.usage = Some(usage.clone());
        }
    }

    /// Keeps the same of a chunk that goes on as it came.
    fn note_text(&mut self, chunk: &openai_chat::TextChunk<'_>) {
        for (known, told) in
            [(&mut self.served_model, chunk.model()), (&mut self.service_tier, chunk.service_tier())]
        {
            if let Some(told) =
                told.map(providers::bounded_name).filter(|told| known.as_deref() != Some(told))
            {
                *known = Some(told.to_owned());
            }
        }
        chunk.texts().for_each(|text| self.delivered.add(text));
    }

    fn relay_delta(&mut self, delta: Delta, text: &mut String) {
        if let Some(output) = delta.output().filter(|output| !output.is_empty()) {
            self.delivered.add(output);
        }
        match delta {
            Delta::Sound(base64) => self.delivered.add_sound(&base64),
            Delta::Failed(event) => self.failure = Some(classify_event(&event)),
            Delta::End => self.end(text),
            Delta::Finish(reason) => {
                self.ending.note(reason);
                self.writer.write(delta, text);
            }
            Delta::Start { .. }
            | Delta::Thinking(_)
            | Delta::Text(_)
            | Delta::Refusal(_)
            | Delta::ToolCall { .. }
            | Delta::ToolArguments { .. }
            | Delta::Usage(_) => self.writer.write(delta, text),
        }
    }

    fn end(&mut self, text: &mut String) {
        if self.ending.end() {
            self.writer.write(Delta::End, text);
        }
    }

    /// The usage that we asked for must not reach a client that did not, nor what an operator's prompt says.
    fn forward(&self, raw: Option<&Bytes>, mut event: Value, out: &mut Vec<u8>) {
        let has_hidden =
            self.hides_instructions && event.get_mut("response").is_some_and(same::hide_instructions);
        let hides = self.ends.client == Dialect::OpenaiChat
            && !self.ends.client_wants_usage
            && event["usage"].is_object();
        if let (false, Some(raw)) = (hides || has_hidden, raw) {
            out.extend_from_slice(raw);
            return;
        }
        if hides {
            let usage_only = event["choices"].as_array().is_none_or(Vec::is_empty);
            let Some(chunk) = event.as_object_mut().filter(|_| !usage_only) else { return };
            chunk.shift_remove("usage");
        }
        let frame = match self.ends.client {
            Dialect::OpenaiChat => data_frame(&event.to_string()),
            Dialect::OpenaiResponses | Dialect::AnthropicMessages => {
                event_frame(event["type"].as_str().unwrap_or_default(), &event.to_string())
            }
        };
        out.extend_from_slice(frame.as_bytes());
    }
}

/// The last frame of a stream whose upstream closed it without a blank line: what follows must not run into it. Half a frame
/// is none.
fn closed(frame: Frame) -> Option<Frame> {
    let data = frame.data.as_deref()?;
    let is_whole = data.trim() == "[DONE]" || is_json(data);
    let raw = Bytes::from([&frame.raw[..], b"\n\n"].concat());
    is_whole.then_some(Frame { raw, ..frame })
}

impl Writer {
    fn of(ends: StreamEnds) -> Writer {
        let (created_at_seconds, tells_usage) = (ends.created_at_seconds, ends.client_wants_usage);
        match ends.client {
            Dialect::OpenaiChat => {
                Writer::Chunks(openai_chat::ChunkWriter::new(created_at_seconds, tells_usage))
            }
            Dialect::OpenaiResponses => {
                Writer::Items(Box::new(openai_responses::ItemWriter::new(created_at_seconds)))
            }
            Dialect::AnthropicMessages => Writer::Events(Box::default()),
        }
    }

    fn is_same(&self) -> bool {
        matches!(self, Writer::Same)
    }

    fn write(&mut self, delta: Delta, out: &mut String) {
        match self {
            Writer::Same => {}
            Writer::Chunks(writer) => writer.write(delta, out),
            Writer::Items(writer) => writer.write(delta, out),
            Writer::Events(writer) => writer.write(delta, out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENTS: [Dialect; 3] = [Dialect::OpenaiChat, Dialect::OpenaiResponses, Dialect::AnthropicMessages];

    /// A stream of a few words and its last event, whose blank line is missing, as each dialect writes it.
    fn stream(dialect: Dialect) -> (String, String) {
        let frames = match dialect {
            Dialect::OpenaiChat => [
                r#"data: {"id":"c","model":"m","choices":[{"index":0,"delta":{"content":"Yes"}}]}"#,
                r#"data: {"id":"c","model":"m","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#,
            ],
            Dialect::OpenaiResponses => [
                "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"Yes\"}",
                "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"status\":\"completed\"}}",
            ],
            Dialect::AnthropicMessages => [
                "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\
                 \"delta\":{\"type\":\"text_delta\",\"text\":\"Yes\"}}",
                "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"}}",
            ],
        };
        (format!("{}\n\n", frames[0]), frames[1].to_owned())
    }

    /// What a client reads, and whether the answer was whole.
    fn relayed(dialect: Dialect, stream: &str) -> (Vec<Value>, bool) {
        let mut relay = StreamRelay::new(StreamEnds {
            upstream: dialect.into(),
            client: dialect,
            client_wants_usage: true,
            created_at_seconds: 0,
        });
        let mut out = relay.push(stream.as_bytes()).unwrap().to_vec();
        out.extend_from_slice(&relay.finish().unwrap());
        // What the gateway says then.
        if !relay.is_whole() {
            out.extend_from_slice(data_frame("{\"error\":{}}").as_bytes());
        }
        let mut parser = FrameParser::default();
        let frames = parser.push(&out).unwrap();
        assert_eq!(parser.finish().unwrap(), None, "every frame has its blank line: {}", out.escape_ascii());
        let data = frames.into_iter().filter_map(|frame| frame.data);
        let read = |data: String| match &*data {
            "[DONE]" => Value::Null,
            data => serde_json::from_str(data).expect(data),
        };
        (data.map(read).collect(), relay.is_whole())
    }

    #[test]
    fn a_last_frame_without_its_blank_line_does_not_run_into_what_follows() {
        for dialect in CLIENTS {
            let (words, last) = stream(dialect);
            let mark = usize::from(dialect != Dialect::OpenaiResponses);
            for line_end in ["", "\n", "\r\n"] {
                let (events, is_whole) = relayed(dialect, &format!("{words}{last}{line_end}"));

                assert_eq!(
                    (events.len(), is_whole),
                    (2 + mark, true),
                    "{dialect:?} {line_end:?}: {events:?}"
                );
            }
        }
    }

    #[test]
    fn half_a_frame_is_left_out_and_the_error_that_follows_can_be_read() {
        for dialect in CLIENTS {
            let (words, last) = stream(dialect);
            for cut in 1..last.len() {
                let (events, is_whole) = relayed(dialect, &format!("{words}{}", &last[..cut]));

                assert_eq!((events.len(), is_whole), (2, false), "{dialect:?} {cut}: {events:?}");
                assert!(events[1]["error"].is_object(), "{dialect:?} {cut}: {events:?}");
            }
        }
    }
}
