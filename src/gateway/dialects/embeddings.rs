//! Embeddings: callers speak OpenAI's, upstreams that or Gemini's.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Value, json};

use super::{Family, Malformed, Refused, Unsupported, UpstreamRequest};
use crate::gateway::providers;
use crate::gateway::token_estimate::BYTES_PER_TOKEN;

/// What rounding leaves of a vector of length one.
const LENGTH_TOLERANCE: f64 = 1e-3;

/// The caller's request as the upstream reads it.
///
/// # Errors
/// Where the upstream can't be told what is asked: tokens of another's tokenizer.
pub fn upstream_request(upstream: Family, body: &Value, model: &str) -> Result<UpstreamRequest, Refused> {
    match upstream {
        Family::Gemini => to_gemini(body, model),
        Family::OpenaiChat | Family::OpenaiResponses | Family::Anthropic => {
            let mut body = body.clone();
            body["model"] = model.into();
            Ok(UpstreamRequest { body, dropped: Vec::new() })
        }
    }
}

fn to_gemini(body: &Value, model: &str) -> Result<UpstreamRequest, Refused> {
    let name = format!("models/{model}");
    let request = |text: &Value| {
        let Value::String(text) = text else {
            let why = "tokens are OpenAI's own; send text";
            return Err(Unsupported::new("input", why));
        };
        let mut request = json!({"model": name, "content": {"parts": [{"text": text}]}});
        if !body["dimensions"].is_null() {
            request["outputDimensionality"] = body["dimensions"].clone();
        }
        Ok(request)
    };
    let requests: Vec<Value> = inputs(body).iter().map(request).collect::<Result<_, _>>()?;
    let known = ["model", "input", "dimensions", "encoding_format"];
    let fields = body.as_object().into_iter().flatten().map(|(field, _)| field);
    let dropped = fields.filter(|field| !known.contains(&field.as_str())).cloned().collect();
    Ok(UpstreamRequest { body: json!({ "requests": requests }), dropped })
}

/// Whether a whole body holds vectors; Gemini's are told apart by their places alone.
pub fn is_answer(upstream: Family, request: &Value, body: &Value) -> bool {
    match upstream {
        Family::Gemini => {
            let vectors = body["embeddings"].as_array().map_or(&[][..], Vec::as_slice);
            vectors.len() == inputs(request).len()
                && vectors.iter().all(|vector| is_numbers(&vector["values"]))
        }
        Family::OpenaiChat | Family::OpenaiResponses | Family::Anthropic => {
            body["data"].as_array().is_some_and(|vectors| !vectors.is_empty())
        }
    }
}

fn is_numbers(values: &Value) -> bool {
    values.as_array().is_some_and(|values| values.iter().all(Value::is_number))
}

/// A whole answer for the caller of that request.
///
/// # Errors
/// An answer that has not one vector for each input.
pub fn answer_for_client(
    upstream: Family,
    request: &Value,
    bytes: &Bytes,
    body: &Value,
) -> Result<Bytes, Malformed> {
    match upstream {
        Family::Gemini => of_gemini(request, body).map(|answer| Bytes::from(answer.to_string())),
        Family::OpenaiChat | Family::OpenaiResponses | Family::Anthropic => Ok(bytes.clone()),
    }
}

fn of_gemini(request: &Value, body: &Value) -> Result<Value, Malformed> {
    let vectors = body["embeddings"].as_array().map_or(&[][..], Vec::as_slice);
    if vectors.len() != inputs(request).len() {
        return Err(Malformed::new("embeddings", "must be one for each input"));
    }
    let as_base64 = request["encoding_format"] == "base64";
    let entry = |(index, vector): (usize, &Value)| {
        let values = vector["values"].as_array().filter(|values| values.iter().all(Value::is_number));
        let values = values.ok_or_else(|| Malformed::new("embeddings.values", "must be numbers"))?;
        let values = if request["dimensions"].is_null() { values.clone() } else { of_length_one(values) };
        let embedding = if as_base64 { packed(&values).into() } else { Value::from(values) };
        Ok(json!({"object": "embedding", "index": index, "embedding": embedding}))
    };
    let data: Vec<Value> = vectors.iter().enumerate().map(entry).collect::<Result<_, Malformed>>()?;
    let told =
        providers::usage_json(Family::Gemini, body).and_then(|usage| usage["promptTokenCount"].as_u64());
    let tokens = told.unwrap_or_else(|| counted_tokens(request));
    let usage = json!({"prompt_tokens": tokens, "total_tokens": tokens});
    Ok(json!({"object": "list", "data": data, "model": request["model"], "usage": usage}))
}

/// OpenAI's vectors have this length, so that its callers rank by the dot product. Gemini's that are cut to fewer dimensions do
/// not: <https://ai.google.dev/gemini-api/docs/embeddings>.
fn of_length_one(values: &[Value]) -> Vec<Value> {
    let numbers: Vec<f64> = values.iter().filter_map(Value::as_f64).collect();
    let length = length(&numbers);
    if length == 0.0 || (length - 1.0).abs() <= LENGTH_TOLERANCE {
        return values.to_vec();
    }
    numbers.into_iter().map(|number| Value::from(number / length)).collect()
}

fn length(vector: &[f64]) -> f64 {
    vector.iter().map(|value| value * value).sum::<f64>().sqrt()
}

/// As OpenAI packs them, and its SDKs ask: 32-bit floats, the lowest byte first.
fn packed(values: &[Value]) -> String {
    let numbers = values.iter().filter_map(Value::as_f64);
    let bytes: Vec<u8> = numbers.flat_map(|number| (number as f32).to_le_bytes()).collect();
    STANDARD.encode(bytes)
}

/// An estimate of the tokens, where the provider does not say: some of Gemini's models never do.
pub fn counted_tokens(request: &Value) -> u64 {
    let tokens = |input: &Value| match input {
        Value::String(text) => (text.len() as u64).div_ceil(BYTES_PER_TOKEN),
        Value::Array(tokens) => tokens.len() as u64,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => 1,
    };
    inputs(request).iter().map(tokens).sum()
}

/// Each of what is to be embedded; a list of tokens is one.
fn inputs(request: &Value) -> &[Value] {
    match &request["input"] {
        Value::Array(items) if !items.iter().all(Value::is_u64) => items,
        one => std::slice::from_ref(one),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::usage::{from_gemini, recordings};

    #[test]
    fn requests_reach_gemini_as_it_reads_them() {
        let one = json!({"model": "r", "input": "Hi"});
        let many = json!({"model": "r", "input": ["Hi", "there"], "dimensions": 8, "encoding_format": "float", "user": "u"});

        let sent = upstream_request(Family::Gemini, &many, "g").expect("sound");

        let part = |text: &str| json!({"model": "models/g", "content": {"parts": [{"text": text}]}, "outputDimensionality": 8});
        assert_eq!(sent.body, json!({"requests": [part("Hi"), part("there")]}));
        assert_eq!(sent.dropped, ["user"]);
        let sent = upstream_request(Family::Gemini, &one, "g").expect("sound");
        assert_eq!(sent.body["requests"].as_array().map(Vec::len), Some(1));
        assert_eq!(
            upstream_request(Family::OpenaiChat, &one, "o").expect("sound").body,
            json!({"model": "o", "input": "Hi"})
        );
    }

    #[test]
    fn what_only_openai_reads_is_refused() {
        for input in [json!([1, 2]), json!([[1, 2], [3]])] {
            let refused =
                upstream_request(Family::Gemini, &json!({"input": input}), "g").expect_err("tokens");

            assert_eq!(refused.to_string(), "`input` is not supported: tokens are OpenAI's own; send text");
        }
    }

    #[test]
    fn vectors_come_back_as_they_were_asked_for() {
        let answer =
            json!({"embeddings": [{"values": [0.5, -2.0]}], "usageMetadata": {"promptTokenCount": 3}});
        let asked = json!({"model": "r", "input": "Hi"});
        let as_base64 = json!({"model": "r", "input": "Hi", "encoding_format": "base64"});

        let numbers = of_gemini(&asked, &answer).expect("sound");
        let text = of_gemini(&as_base64, &answer).expect("sound");

        assert_eq!(numbers["data"], json!([{"object": "embedding", "index": 0, "embedding": [0.5, -2.0]}]));
        assert_eq!(numbers["usage"], json!({"prompt_tokens": 3, "total_tokens": 3}));
        let bytes = STANDARD.decode(text["data"][0]["embedding"].as_str().expect("text")).expect("base64");
        assert_eq!(bytes, [0.5_f32.to_le_bytes(), (-2.0_f32).to_le_bytes()].concat());
        let cut = of_gemini(&json!({"model": "r", "input": "Hi", "dimensions": 2}), &answer).expect("sound");
        let (x, y) = (0.5 / 4.25_f64.sqrt(), -2.0 / 4.25_f64.sqrt());
        assert_eq!(cut["data"][0]["embedding"], json!([x, y]), "of length one, as OpenAI's are");
        assert_eq!(of_length_one(&[json!(0.0), json!(0.0)]), [0.0, 0.0], "it has no direction");
        for wrong in [json!({}), json!({"embeddings": []}), json!({"embeddings": [{"values": ["x"]}]})] {
            assert!(of_gemini(&asked, &wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_answer_without_vectors_is_none() {
        let asked = json!({"model": "r", "input": ["Hi", "there"]});
        let vector = json!({"values": [0.5]});
        for (family, body, expected) in [
            (Family::OpenaiChat, json!({"data": [{"embedding": [0.5]}, {"embedding": "AAAA"}]}), true),
            (Family::OpenaiChat, json!({"data": []}), false),
            (Family::OpenaiChat, json!({"detail": "Not Found"}), false),
            (Family::Gemini, json!({"embeddings": [vector, vector]}), true),
            (Family::Gemini, json!({"embeddings": [vector]}), false),
            (Family::Gemini, json!({"embeddings": [vector, {}]}), false),
            (Family::Gemini, json!({}), false),
        ] {
            assert_eq!(is_answer(family, &asked, &body), expected, "{family:?} {body}");
        }
    }

    #[test]
    fn tokens_are_counted_where_nobody_tells_them() {
        for (input, tokens) in [
            (json!("12345"), 2),
            (json!(["1234", "1"]), 2),
            (json!([7, 8, 9]), 3),
            (json!([[7, 8], [9]]), 3),
            (json!("日本語"), 3),
        ] {
            assert_eq!(counted_tokens(&json!({"input": input})), tokens, "{input}");
        }
    }

    #[test]
    fn recorded_exchanges_are_made_and_read_again() {
        let exchanges = recordings::exchanges(|name| name == "gemini.batchEmbedContents.jsonl");
        let (mut read, mut told) = (0, 0);
        for exchange in exchanges.iter().filter(|exchange| exchange.line["status"] == 200) {
            let line = &exchange.line;
            let (recorded, model) = (&line["request"]["requests"], line["model"].as_str().expect("a model"));
            let texts: Vec<&Value> = recorded
                .as_array()
                .expect("requests")
                .iter()
                .map(|one| &one["content"]["parts"][0]["text"])
                .collect();
            let asked =
                json!({"model": model, "input": texts, "dimensions": recorded[0]["outputDimensionality"]});

            let sent = upstream_request(Family::Gemini, &asked, model).expect("sound").body;
            let answer = of_gemini(&asked, &line["response_body"]).expect("sound");
            assert!(is_answer(Family::Gemini, &asked, &line["response_body"]), "{}", line["id"]);

            for (sent, recorded) in sent["requests"]
                .as_array()
                .expect("requests")
                .iter()
                .zip(recorded.as_array().expect("requests"))
            {
                for field in ["model", "outputDimensionality"] {
                    assert_eq!(sent.get(field), recorded.get(field), "{}", line["id"]);
                }
                assert_eq!(sent["content"]["parts"], recorded["content"]["parts"]);
            }
            let vectors = line["response_body"]["embeddings"].as_array().expect("vectors");
            assert_eq!(answer["data"].as_array().map(Vec::len), Some(vectors.len()));
            let numbers = |vector: &Value| -> Vec<f64> {
                vector.as_array().into_iter().flatten().filter_map(Value::as_f64).collect()
            };
            let (heard, came) = (numbers(&answer["data"][0]["embedding"]), numbers(&vectors[0]["values"]));
            assert!((length(&heard) - 1.0).abs() <= LENGTH_TOLERANCE, "{}", line["id"]);
            let is_same =
                |(one, other): (&f64, &f64)| (one / length(&heard) - other / length(&came)).abs() < 1e-9;
            assert!(heard.len() == came.len() && heard.iter().zip(&came).all(is_same), "{}", line["id"]);
            if let Some(report) = providers::usage_json(Family::Gemini, &line["response_body"]) {
                let usage = from_gemini(report).expect("sound");
                assert_eq!(
                    (usage.input_total(), usage.output_total()),
                    (answer["usage"]["prompt_tokens"].as_u64().expect("a count"), 0)
                );
                told += 1;
            }
            read += 1;
        }
        recordings::enough(read, 4);
        recordings::enough(told, 1);
    }
}
