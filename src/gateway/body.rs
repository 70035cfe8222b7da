//! The body of a request: read only for authenticated callers, and only as far as a node has memory for.

use axum::body::Bytes;
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_ENCODING;
use bytes::BytesMut;
use futures_util::StreamExt;
use serde_json::Value;

use crate::domain::json_weight::{WEIGHT_BYTES, weight};
use crate::gateway::body_memory::BodyRoom;
use crate::gateway::failure::{Failure, FailureCode};

/// Pictures travel in bodies.
pub const BYTES_MAX: usize = 32 << 20;
/// What a body may weigh once it is read: forty megabytes. The largest request that makes sense is one of 300,000 tokens to
/// embed, OpenAI's own limit, each a number; long conversations with many tools weigh half of that.
const WEIGHT_MAX: usize = 400_000;
/// # Errors
/// A body that is compressed or too long, for which there is no room, or that does not come.
pub async fn read(headers: &HeaderMap, request: Request, room: &mut BodyRoom) -> Result<Bytes, Failure> {
    let coding = headers.get(CONTENT_ENCODING).map(|coding| coding.to_str().unwrap_or_default());
    if coding.is_some_and(|coding| !coding.eq_ignore_ascii_case("identity")) {
        return Err(Failure::new(415, FailureCode::UnsupportedMediaType, "the body must not be compressed"));
    }
    let unreadable = |status, why: String| Failure::new(status, FailureCode::BodyUnreadable, why);
    let (mut body, mut parts) = (BytesMut::new(), request.into_body().into_data_stream());
    while let Some(part) = parts.next().await {
        let part = part.map_err(|_| unreadable(400, "The body ended early.".to_owned()))?;
        if body.len().saturating_add(part.len()) > BYTES_MAX {
            return Err(unreadable(413, format!("the body must be at most {BYTES_MAX} bytes long")));
        }
        room.grow(part.len())?;
        body.extend_from_slice(&part);
    }
    Ok(body.freeze())
}

/// # Errors
/// What is not JSON, or takes too much memory as such, or more than there is: a few bytes of it may become a hundred.
pub fn parse(bytes: &[u8], room: &mut BodyRoom) -> Result<Value, Failure> {
    let weight = weight(bytes);
    if weight > WEIGHT_MAX {
        let why = "the body has too many values: send fewer messages, tools, fields or inputs at once";
        return Err(Failure::new(413, FailureCode::BodyTooComplex, why));
    }
    // Its texts have as many bytes as they came with.
    room.grow(weight.saturating_mul(WEIGHT_BYTES))?;
    serde_json::from_slice(bytes).map_err(|error| {
        Failure::new(400, FailureCode::InvalidJson, format!("the body is not JSON: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::ids::OrgId;
    use crate::gateway::body_memory::BodyMemory;

    fn room(bytes_max: usize) -> BodyRoom {
        BodyMemory::new(bytes_max).room(OrgId(Uuid::from_u128(1)))
    }

    fn list(item: &str, count: usize) -> String {
        format!("{{\"input\": [{}]}}", vec![item; count].join(","))
    }

    #[test]
    fn what_may_be_asked_is_read_whatever_its_length() {
        let tokens = list(&format!("[{}]", vec!["100000"; 146].join(",")), 2_048);
        let message =
            r#"{"role": "user", "content": [{"type": "text", "text": "[[[[[ {\"a\": \\\"1\\\", ,,,,,"}]}"#;
        for body in [tokens, list(message, 10_000), list(&format!("{:?}", "[],".repeat(1 << 20)), 4)] {
            assert!(parse(body.as_bytes(), &mut room(1 << 30)).is_ok(), "{}", &body[..200]);
        }
    }

    #[test]
    fn what_would_take_many_times_its_length_in_memory_is_not() {
        for item in ["{}", "[]", "[0]", "{\"a\":0}", "0", "\"\\\"\"", "[[[]]]"] {
            let body = list(item, (3 << 20) / item.len());

            let failure = parse(body.as_bytes(), &mut room(1 << 30)).expect_err(item);

            assert_eq!((failure.status, failure.code), (413, FailureCode::BodyTooComplex), "{item}");
        }
    }

    #[test]
    fn what_a_body_becomes_takes_room_too_and_a_text_takes_none_twice() {
        let text = list(&format!("{:?}", "a".repeat(100_000)), 1);
        let tokens = list(&format!("[{}]", vec!["100000"; 140].join(",")), 100);
        for (body, has_room) in [(text, true), (tokens, false)] {
            // Half of it is the org's.
            let mut room = room(1 << 20);
            room.grow(body.len()).expect("it came");

            let parsed = parse(body.as_bytes(), &mut room);

            let code = parsed.err().map(|failure| (failure.status, failure.code));
            assert_eq!(code, (!has_room).then_some((503, FailureCode::Overloaded)), "{} bytes", body.len());
        }
    }
}
