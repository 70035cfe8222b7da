//! Bounds of requests as they are sent, and of the recorded ones.

use super::dimensions::tests::png_of;
use super::*;
use crate::domain::credits::Credits;
use crate::domain::pricing::rate::Rate;
use crate::domain::pricing::rate_card::tests::card;
use crate::domain::pricing::{PricedDemand, cost, litellm};
use crate::domain::time::Timestamp;
use crate::domain::usage::from_openai_responses;
use crate::domain::usage::recordings::{enough, exchanges, price_map_text};
use serde_json::json;
use std::collections::BTreeMap;

#[test]
fn a_model_that_always_searches_is_bounded_with_a_search_for_each_answer_or_refused() {
    let bound = |model: &str, card: &RateCard, n: u64| {
        let request = json!({"model": model, "n": n, "messages": [{"role": "user", "content": "hi"}]});
        let demand = input_bound(&request, 100, Dialect::OpenAiChat, card).map(|bound| bound.demand);
        demand.map(|demand| (demand.web_searches_max, demand.input_tokens_max))
    };
    let plain = card("1", "1");
    let window = plain.context_window_tokens.expect("known");
    let mut priced = plain.clone();
    priced.units.web_search = Rate::new(Decimal::ONE).ok();
    let any = RateCard { model: RateCard::ANY.into(), ..plain.clone() };

    for (model, card, n, expected) in [
        ("gpt-4o-search-preview", &priced, 1, Ok((1, 132))),
        ("gpt-4o-mini-search-preview-2025-03-11", &priced, 2, Ok((2, 132))),
        ("gpt-5-search-api", &priced, 1, Ok((1, window))),
        ("sonar-pro", &priced, 1, Ok((1, 132))),
        ("perplexity/sonar-pro", &priced, 1, Ok((1, 132))),
        ("openai/gpt-4o:online", &any, 1, Err(Unboundable::SearchWithoutPrice)),
        ("sonar-deep-research", &priced, 1, Err(Unboundable::EndlessSearch)),
        ("perplexity/sonar-pro-search", &priced, 1, Err(Unboundable::EndlessSearch)),
        ("groq/compound-mini", &any, 1, Err(Unboundable::EndlessSearch)),
        ("gpt-4o", &priced, 1, Ok((0, 132))),
        ("gpt-4o-search-preview", &plain, 1, Ok((0, 132))),
        ("gpt-4o-search-preview", &any, 1, Err(Unboundable::SearchWithoutPrice)),
        ("gpt-4o", &any, 1, Ok((0, 132))),
    ] {
        assert_eq!(bound(model, card, n), expected, "{model}");
    }
}

fn bound_of(request: &Value, dialect: Dialect) -> Result<RequestBound, Unboundable> {
    input_bound(request, request.to_string().len() as u64, dialect, &card("1", "1"))
}

#[test]
fn a_plain_request_is_bounded_by_its_bytes_and_a_little() {
    let request = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}], "n": 2});

    let bound = bound_of(&request, Dialect::OpenAiChat).expect("a bound");

    assert_eq!(bound.demand.input_tokens_max, request.to_string().len() as u64 + FRAMING_TOKENS);
    assert_eq!((bound.demand.n, bound.tier), (2, ServiceTier::Standard));
}

#[test]
fn i2_a_prompt_that_a_server_adds_to_a_short_request_is_within_its_bound() {
    let chat = |model: &str, text: &str| json!({"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 10});
    // Input tokens that were reported and published for such requests.
    for (provider, model, text, reported) in [
        ("xai", "grok-4", "Hello", 686),
        ("openrouter", "x-ai/grok-4", "Hello", 686),
        ("azure", "Grok-4", "Hello", 686),
        ("xai", "grok-code-fast-1", "Who are you?", 206),
        ("xai", "grok-4-1-fast-non-reasoning", "Who are you?", 174),
        ("xai", "grok-4-fast", "Say hi in Portuguese", 165),
        ("deepseek", "deepseek-chat", "Hi", 10),
    ] {
        for named in [model, RateCard::ANY] {
            let card = RateCard { provider: provider.into(), model: named.into(), ..card("1", "1") };
            let request = chat(model, text);
            let bytes = request.to_string().len() as u64;

            let bound = input_bound(&request, bytes, Dialect::OpenAiChat, &card).expect("a bound").demand;

            assert!(bound.input_tokens_max >= reported, "{model}: {}", bound.input_tokens_max);
        }
    }
    let plain = bound_of(&chat("llama-3.3-70b-versatile", "Hello"), Dialect::OpenAiChat).expect("a bound");
    assert!(plain.demand.input_tokens_max < 200, "others' are not raised: {}", plain.demand.input_tokens_max);
}

#[test]
fn what_lies_behind_a_reference_is_bounded_by_the_window() {
    let chat = |part: Value| json!({"messages": [{"role": "user", "content": [part]}]});
    let sound =
        |data: &str| chat(json!({"type": "input_audio", "input_audio": {"data": data, "format": "mp3"}}));
    for (request, dialect, least) in [
        (sound("https://x/long.mp3"), Dialect::OpenAiChat, 128_000),
        (sound(" HTTP://x/long.mp3"), Dialect::OpenAiChat, 128_000),
        (sound("oss://x/long.mp3"), Dialect::OpenAiChat, 128_000),
        (sound("data:;base64,SUQz"), Dialect::OpenAiChat, 0),
        (sound("SUQz"), Dialect::OpenAiChat, 0),
        (chat(json!({"type": "file", "file": {"file_id": "f"}})), Dialect::OpenAiChat, 34 * 128_000),
        (chat(json!({"type": "image_url", "image_url": {"url": "https://x"}})), Dialect::OpenAiChat, 50_000),
        (json!({"input": "x", "previous_response_id": "r"}), Dialect::OpenAiResponses, 128_000),
        (json!({"contents": [], "cachedContent": "c"}), Dialect::Gemini, 128_000),
        (
            json!({"messages": [], "tools": [{"type": "web_search_20250305", "max_uses": 2}]}),
            Dialect::Anthropic,
            384_000,
        ),
    ] {
        let bound = bound_of(&request, dialect).expect("a bound").demand.input_tokens_max;

        assert!((least..least + 1_000).contains(&bound), "{request}: {bound}");
    }
    let mut unknown = card("1", "1");
    unknown.context_window_tokens = None;
    let request = json!({"input": "x", "previous_response_id": "r"});
    assert_eq!(
        input_bound(&request, 10, Dialect::OpenAiResponses, &unknown),
        Err(Unboundable::WindowUnknown)
    );
}

#[test]
fn media_in_the_request_are_bounded_by_what_is_made_of_them_and_not_by_their_bytes() {
    let data = "A".repeat(2_000_000);
    let address = format!("data:image/png;base64,{data}");
    let chat = |part: Value| json!({"messages": [{"role": "user", "content": [part]}]});
    let inline = json!({"type": "base64", "media_type": "image/png", "data": data});
    let picture = json!({"type": "image", "source": inline});
    let result = json!({"type": "tool_result", "content": [picture.clone()]});
    let of = |request: &Value, dialect, model: &str, window| {
        let card = RateCard { model: model.into(), context_window_tokens: window, ..card("1", "1") };
        let bytes = request.to_string().len() as u64;
        input_bound(request, bytes, dialect, &card).map(|bound| bound.demand.input_tokens_max)
    };
    let elsewhere = RateCard { provider: "azure".into(), model: "gpt-small".into(), ..card("1", "1") };
    let request = chat(json!({"type": "image_url", "image_url": {"url": address}}));
    let bound = input_bound(&request, 2_000_200, Dialect::OpenAiChat, &elsewhere).expect("a bound");
    assert!(bound.demand.input_tokens_max >= 50_000, "a deployment's name may be of any model");
    let document = format!("data:application/pdf;base64,{data}");
    let in_its_place = chat(json!({"type": "image_url", "image_url": {"url": document}}));
    let bound = of(&in_its_place, Dialect::OpenAiChat, "gpt-4o", Some(200_000)).expect("a bound");
    assert!(bound > 2_000_000, "its pages are more than one picture: {bound}");
    let sound = chat(json!({"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}));
    for (request, dialect, model, least) in [
        (
            chat(json!({"type": "image_url", "image_url": {"url": address}})),
            Dialect::OpenAiChat,
            "gpt-4o",
            25_000,
        ),
        (
            chat(json!({"type": "image_url", "image_url": {"url": address}})),
            Dialect::OpenAiChat,
            "gpt-4o-mini",
            50_000,
        ),
        (
            json!({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": address}]}]}),
            Dialect::OpenAiResponses,
            "a-deployment",
            50_000,
        ),
        (chat(picture), Dialect::Anthropic, "claude-haiku-4-5", 5_000),
        (chat(result), Dialect::Anthropic, "claude-haiku-4-5", 5_000),
        (
            chat(json!({"type": "image", "source": inline})),
            Dialect::Anthropic,
            "another-with-its-api",
            50_000,
        ),
        (
            chat(json!({"type": "file", "file": {"file_data": address}})),
            Dialect::OpenAiChat,
            "gpt-4o-mini",
            34 * 200_000,
        ),
        (
            chat(json!({"type": "document", "source": inline})),
            Dialect::Anthropic,
            "claude-haiku-4-5",
            200_000,
        ),
        (
            chat(json!({"type": "file", "file": {"file_data": address}})),
            Dialect::OpenAiChat,
            "gpt-4o",
            200_000,
        ),
        (
            chat(json!({"type": "file", "file": {"file_data": address}})),
            Dialect::OpenAiChat,
            "gpt-5-nano-2025-08-07",
            3 * 200_000,
        ),
        (
            json!({"input": [{"role": "user", "content": [{"type": "input_file", "file_data": address}]}]}),
            Dialect::OpenAiResponses,
            "o4-mini",
            3 * 200_000,
        ),
        (sound.clone(), Dialect::OpenAiChat, "gpt-4o-audio-preview", 200_000),
        (
            json!({"contents": [{"parts": [{"inlineData": {"mimeType": "image/png", "data": data}}]}]}),
            Dialect::Gemini,
            "gemini-2.5-flash",
            200_000,
        ),
    ] {
        let bound = of(&request, dialect, model, Some(200_000)).expect("a bound");

        assert!((least..least + 1_000).contains(&bound), "{dialect:?} {model}: {bound}");
    }
    let unknown = of(&sound, Dialect::OpenAiChat, "m", None).expect("a bound");
    assert!(unknown > 2_000_000, "{unknown}");
    let text = chat(json!({"type": "text", "text": address}));
    assert!(of(&text, Dialect::OpenAiChat, "gpt-4o", Some(200_000)).expect("a bound") > 2_000_000);
}

#[test]
fn what_has_no_bound_is_refused() {
    for (request, dialect) in [
        (json!({"tools": [{"type": "web_search_20250305"}]}), Dialect::Anthropic),
        (json!({"tools": [{"type": "code_execution_20260120"}]}), Dialect::Anthropic),
        (json!({"tools": [{"type": "advisor_20260301"}]}), Dialect::Anthropic),
        (json!({"mcp_servers": [{}]}), Dialect::Anthropic),
        (json!({"context_management": {"edits": [{"type": "compact_20260112"}]}}), Dialect::Anthropic),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "container_upload"}]}]}),
            Dialect::Anthropic,
        ),
        (json!({"speed": "ludicrous"}), Dialect::Anthropic),
        (json!({"tools": [{"type": "web_search"}]}), Dialect::OpenAiResponses),
        (json!({"tools": [{"type": "mcp"}]}), Dialect::OpenAiResponses),
        (json!({"web_search_options": {}}), Dialect::OpenAiChat),
        (json!({"prediction": {"type": "content"}}), Dialect::OpenAiChat),
        (json!({"data_sources": [{"type": "azure_search"}]}), Dialect::OpenAiChat),
        (json!({"deferred": true}), Dialect::OpenAiChat),
        (json!({"models": ["a", "b"]}), Dialect::OpenAiChat),
        (json!({"provider": {"order": ["dear"]}}), Dialect::OpenAiChat),
        (json!({"preset": "p"}), Dialect::OpenAiResponses),
        (json!({"reasoning": {"mode": "pro"}}), Dialect::OpenAiResponses),
        (json!({"reasoning": {"Mode": "pro"}}), Dialect::OpenAiResponses),
        (json!({"reasoning": {"mode": "pro", "effort": "low"}}), Dialect::OpenAiChat),
        (json!({"reasoning": {"mode": ["pro"]}}), Dialect::OpenAiResponses),
        (json!({"plugins": [{"id": "web"}]}), Dialect::OpenAiChat),
        (json!({"context_management": [{"type": "compaction"}]}), Dialect::OpenAiResponses),
        (
            json!({"messages": [{"role": "user", "content": [
                {"type": "text", "cache_control": {"ttl": "1h"}}]}]}),
            Dialect::OpenAiChat,
        ),
        (json!({"service_tier": "scale"}), Dialect::OpenAiChat),
        (json!({"service_tier": "batch"}), Dialect::OpenAiChat),
        (json!({"service_tier": "batch"}), Dialect::Anthropic),
        (json!({"enable_search": true}), Dialect::OpenAiChat),
        (json!({"n_predict": 16_000}), Dialect::OpenAiChat),
        (json!({"num_predict": -1}), Dialect::OpenAiChat),
        (json!({"max_new_tokens": 16_000}), Dialect::OpenAiChat),
        (json!({"max_length": 0}), Dialect::OpenAiChat),
        (json!({"best_of": 20}), Dialect::OpenAiChat),
        (json!({"n_cmpl": 8}), Dialect::OpenAiChat),
        (json!({"n_predict": 16_000}), Dialect::OpenAiResponses),
        (json!({"n": 8}), Dialect::OpenAiResponses),
        (json!({"max_tokens": 16_000}), Dialect::OpenAiResponses),
        (json!({"search_options": {"forced_search": true}}), Dialect::OpenAiChat),
        (json!({"enable_code_interpreter": true}), Dialect::OpenAiChat),
        (json!({"fallbacks": ["dear"]}), Dialect::OpenAiChat),
        (json!({"extra_body": {"max_tokens": 100_000, "n": 8}}), Dialect::OpenAiChat),
        (json!({"num_retries": 9}), Dialect::OpenAiResponses),
        (json!({"fallbacks": [{"model": "dear"}]}), Dialect::Anthropic),
        (json!({"providerOptions": {"gateway": {"models": ["dear"]}}}), Dialect::OpenAiChat),
        (json!({"prompt_cache_options": {"ttl": "12h"}}), Dialect::OpenAiChat),
        (
            json!({"messages": [{"role": "user", "content": [
                {"type": "text", "text": "x", "prompt_cache_breakpoint": {"ttl": "12h"}}]}]}),
            Dialect::OpenAiChat,
        ),
        (json!({"prompt_cache_options": {"ttl": "24h"}}), Dialect::OpenAiResponses),
        (json!({"cache_control": {"ttl": "1h"}}), Dialect::OpenAiResponses),
        (json!({"cache_control": {"ttl": "1d"}}), Dialect::Anthropic),
        (json!({"modalities": ["text", "image"]}), Dialect::OpenAiChat),
        (json!({"n": 0}), Dialect::OpenAiChat),
        (json!({"n": "2"}), Dialect::OpenAiChat),
        (json!({"tools": [{"googleSearch": {}}]}), Dialect::Gemini),
    ] {
        assert!(bound_of(&request, dialect).is_err(), "{request}");
    }
    for harmless in [
        json!({"transforms": ["middle-out"], "deferred": false, "plugins": [], "enable_search": false}),
        json!({"providerOptions": {"openai": {"user": "u"}}, "prompt_cache_options": {"ttl": "30m"}}),
        json!({"reasoning": {"mode": "standard", "effort": "high"}}),
        json!({"reasoning": {"mode": null}}),
        json!({"messages": [{"role": "user", "content": [
            {"type": "text", "cache_control": {"type": "ephemeral"}}]}]}),
    ] {
        assert!(bound_of(&harmless, Dialect::OpenAiChat).is_ok(), "{harmless}");
    }
}

#[test]
fn i2_a_field_of_the_cost_is_known_in_any_case_and_every_other_name_is_nobodys() {
    for (name, known) in [
        ("Max_Tokens", Some("max_tokens")),
        ("MAX_OUTPUT_TOKENS", Some("max_output_tokens")),
        ("N", Some("n")),
        ("Service_Tier", Some("service_tier")),
        ("Web_Search_Options", Some("web_search_options")),
        ("Models", Some("models")),
        ("provideroptions", Some("providerOptions")),
        ("max_to\u{212a}ens", Some("max_tokens")),
        ("max_token\u{17f}", Some("max_tokens")),
        ("max_tokens", None),
        ("providerOptions", None),
        ("web_search_options", None),
        ("max-tokens", None),
        ("maxTokens", None),
        ("temperature", None),
        ("", None),
    ] {
        assert_eq!(field_in_another_case(name), known, "{name}");
    }
}

#[test]
fn content_without_a_type_is_refused_in_every_dialect() {
    let picture = json!({"image_url": {"url": "https://x/huge.png"}});
    let source = json!({"source": {"type": "url", "url": "https://x/huge.pdf"}});
    let user = |content: &Value| json!({"role": "user", "content": content});
    let result = |part: &Value| json!({"type": "tool_result", "tool_use_id": "t", "content": [part]});
    for (request, dialect) in [
        (json!({"messages": [user(&json!([picture]))]}), Dialect::OpenAiChat),
        (json!({"messages": [user(&picture)]}), Dialect::OpenAiChat),
        (json!({"messages": [user(&json!([{"type": null, "image_url": "x"}]))]}), Dialect::OpenAiChat),
        (json!({"input": [user(&json!([picture]))]}), Dialect::OpenAiResponses),
        (json!({"input": [{"id": "msg_1"}]}), Dialect::OpenAiResponses),
        (json!({"input": [{"type": "function_call_output", "output": [picture]}]}), Dialect::OpenAiResponses),
        (json!({"messages": [user(&json!([source]))]}), Dialect::Anthropic),
        (json!({"messages": [user(&json!([result(&source)]))]}), Dialect::Anthropic),
        (json!({"system": [source]}), Dialect::Anthropic),
        (json!({"contents": [{"parts": [{"image": {"url": "x"}}]}]}), Dialect::Gemini),
    ] {
        let refused = bound_of(&request, dialect).expect_err("refused");

        assert!(
            matches!(refused, Unboundable::ContentWithoutType | Unboundable::Content { .. }),
            "{request}: {refused}"
        );
    }
    let plain =
        json!({"messages": [user(&"Hi".into()), {"role": "assistant", "content": null}], "system": "Hi"});
    assert!(bound_of(&plain, Dialect::Anthropic).is_ok());
}

#[test]
fn what_server_tools_found_may_come_back_in_the_next_turn() {
    let called = json!({"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "x"}});
    let page = json!({"type": "web_search_result", "url": "u", "title": "t", "encrypted_content": "E"});
    let document =
        json!({"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x"}});
    let fetched = json!({"type": "web_fetch_result", "url": "u", "content": document});
    for (kind, content) in [
        ("web_search_tool_result", json!([page, page])),
        (
            "web_search_tool_result",
            json!({"type": "web_search_tool_result_error", "error_code": "unavailable"}),
        ),
        ("web_fetch_tool_result", fetched),
        (
            "web_fetch_tool_result",
            json!({"type": "web_fetch_tool_result_error", "error_code": "unavailable"}),
        ),
    ] {
        let found = json!({"type": kind, "tool_use_id": "s", "content": content});
        let said = json!({"role": "assistant", "content": [called, found, {"type": "text", "text": "Yes."}]});
        let request = json!({"messages": [said, {"role": "user", "content": "And then?"}]});

        let bound = bound_of(&request, Dialect::Anthropic).expect(kind).demand.input_tokens_max;

        assert_eq!(bound, 128_000, "{kind}");
    }
}

#[test]
fn documents_do_not_go_to_openrouter_which_reads_them_at_a_price_of_its_own() {
    let file = json!({"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA"}});
    let request = json!({"messages": [{"role": "user", "content": [file]}]});
    let of = |provider: &str| {
        let card = RateCard { provider: provider.into(), ..card("1", "1") };
        input_bound(&request, 100, Dialect::OpenAiChat, &card)
    };

    assert!(of("openai").is_ok());
    assert_eq!(of("openrouter"), Err(Unboundable::Content { kind: "file".into() }));
}

#[test]
fn a_picture_at_gemini_is_bounded_by_its_own_size() {
    let of = |media_type: &str, data: &str| {
        let part = json!({"inlineData": {"mimeType": media_type, "data": data}});
        let request = json!({"contents": [{"parts": [part]}]});
        let bytes = request.to_string().len() as u64;
        let bound = bound_of(&request, Dialect::Gemini).expect("a bound").demand;
        (bound.input_tokens_max - (bytes - data.len() as u64) - FRAMING_TOKENS, bound.audio_input)
    };
    for (width, height, tokens) in [
        (1, 1, 2_240),
        (384, 384, 2_240),
        (1_024, 768, (4 * 3 + 1) * 258),
        (960, 540, (4 * 3 + 1) * 258),
        (385, 100, (6 * 2 + 1) * 258),
        (4_000, 3_000, (16 * 12 + 1) * 258),
        (20_000, 20_000, 128_000),
        (u32::MAX, u32::MAX, 128_000),
    ] {
        assert_eq!(of("image/png", &png_of(width, height)), (tokens, false), "{width} x {height}");
    }
    for (media_type, data) in [("video/mp4", png_of(1, 1)), ("image/heic", "AAAA".to_owned())] {
        let (tokens, audio) = of(media_type, &data);
        assert!(tokens > 127_000 && audio, "{media_type}: {tokens}");
    }
}

#[test]
fn i2_cache_writes_of_twelve_hours_are_held_for_at_their_own_price() {
    let request = json!({"input": "x", "prompt_cache_options": {"ttl": "12h"}});
    let mark = json!({"type": "input_text", "text": "x", "prompt_cache_breakpoint": {"ttl": "12h"}});
    let marked = json!({"input": [{"role": "user", "content": [mark]}]});
    let mut card = card("1", "1");
    card.rates.cache_write_5m = Rate::new(Decimal::from(2)).ok();
    card.rates.cache_write_1h = Rate::new(Decimal::from(4)).ok();
    let details = json!({"cache_write_tokens": 100, "cache_write_tokens_details": {"ttl_12h_tokens": 100}});
    let report = json!({"input_tokens": 100, "output_tokens": 0, "input_tokens_details": details});
    let usage = from_openai_responses(&report).expect("a usage");
    let cost = cost(&card, &Terms::default(), &usage).expect("a cost");
    assert_eq!(cost, Credits::from_nanos(400_000));

    for request in [request, marked] {
        let found = input_bound(&request, 100, Dialect::OpenAiResponses, &card).expect("a bound");

        let demand = Demand { input_tokens_max: 100, ..found.demand };
        let priced = PricedDemand::of(&card, &Terms::default(), &demand).expect("a price");
        assert!(priced.bound(0) >= cost, "{request}");
    }
}

#[test]
fn what_changes_the_price_is_read_from_the_request() {
    let mark = |ttl: &str| json!({"system": [{"type": "text", "cache_control": {"ttl": ttl}}]});
    let of = |request: Value| bound_of(&request, Dialect::Anthropic).expect("a bound");

    assert!(!of(json!({})).demand.cache_writes);
    let unnamed = json!({"tools": [{"name": "t", "cache_control": {"type": "ephemeral"}}]});
    assert!(of(unnamed.clone()).demand.cache_writes && !of(unnamed).demand.long_cache_writes);
    assert!(of(mark("5m")).demand.cache_writes && !of(mark("5m")).demand.long_cache_writes);
    assert!(of(mark("1h")).demand.long_cache_writes);
    assert_eq!(of(json!({"speed": "fast", "inference_geo": "us"})).uplifts.len(), 2);
    let audio = json!({"modalities": ["text", "audio"], "service_tier": "priority"});
    let audio = bound_of(&audio, Dialect::OpenAiChat).expect("a bound");
    assert!(audio.demand.audio_output && audio.tier == ServiceTier::Priority);
    let fast = bound_of(&json!({"service_tier": "fast"}), Dialect::OpenAiChat).expect("a bound");
    assert_eq!(fast.tier, ServiceTier::Priority);
    let said = json!({"role": "assistant", "content": [
        {"type": "tool_use", "id": "t", "name": "n", "input": {"cache_control": {"ttl": "7d"}}}]});
    assert!(!of(json!({"messages": [said]})).demand.long_cache_writes);
}

#[test]
fn no_recorded_call_reports_more_input_than_its_bound() {
    let cards = price_map_text().map(|map| litellm::import(&map, Timestamp(0)).expect("a map").cards);
    let cards = cards.unwrap_or_default();
    let (mut proven, mut wrong) = (0, Vec::new());
    let mut refused: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for exchange in exchanges(|file| !file.starts_with("vercel")) {
        let Some(dialect) = dialect_of(&exchange.file) else { continue };
        let request = &exchange.line["request"];
        let Some(Ok(usage)) = exchange.usage() else { continue };
        let model = exchange.line["model"].as_str().unwrap_or("");
        let unpriced = RateCard { context_window_tokens: None, ..card("1", "1") };
        let priced = cards.iter().find(|card| card.model == model).unwrap_or(&unpriced);
        let bytes = request.to_string().len() as u64;
        match input_bound(request, bytes, dialect, priced) {
            Err(why) => refused.entry(kind_of(&why)).or_default().push(why.to_string()),
            Ok(bound) if bound.demand.input_tokens_max >= usage.input_total() => proven += 1,
            Ok(bound) => wrong.push(format!(
                "{} {}: {} reported, bound {}, {bytes} bytes",
                exchange.file,
                exchange.id(),
                usage.input_total(),
                bound.demand.input_tokens_max
            )),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    enough(proven, 301);
    for (kind, reasons) in &refused {
        // As many as there were when this was written: a bound is no proof of what is refused.
        let most = match *kind {
            "a field" => 14,
            "a tool" => 75,
            "a tool without a limit" => 12,
            "content" => 1,
            "an unknown window" => 6,
            _ => 0,
        };
        assert!(reasons.len() <= most, "{kind}: {reasons:#?}");
    }
}

fn kind_of(why: &Unboundable) -> &'static str {
    match why {
        Unboundable::Field { .. } => "a field",
        Unboundable::Tool { .. } => "a tool",
        Unboundable::ToolWithoutLimit { .. } => "a tool without a limit",
        Unboundable::Content { .. } | Unboundable::ContentWithoutType => "content",
        Unboundable::WindowUnknown => "an unknown window",
        Unboundable::SearchWithoutPrice => "a search without a price",
        Unboundable::EndlessSearch => "an endless search",
        Unboundable::ThoughtUnlimited => "a thought without a limit",
        Unboundable::Value { .. } => "a value",
    }
}

fn dialect_of(file: &str) -> Option<Dialect> {
    let (_, endpoint) = file.trim_end_matches(".jsonl").split_once('.')?;
    match endpoint {
        "chat_completions" => Some(Dialect::OpenAiChat),
        "responses" | "responses_compact" => Some(Dialect::OpenAiResponses),
        "embeddings" => Some(Dialect::Embeddings),
        "messages" => Some(Dialect::Anthropic),
        "generateContent" | "streamGenerateContent" => Some(Dialect::Gemini),
        _ => None,
    }
}
