//! What a file may say, and what is said of one that can't be used.

use super::*;
use crate::domain::routing::complexity;

const PROVIDER: &str =
    "[[providers]]\nname = \"openai\"\nkind = \"openai\"\nbase_url = \"http://up\"\napi_key = \"k\"\n";

fn load(toml: &str) -> Result<Config, ConfigError> {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("tollgate.toml");
    std::fs::write(&file, toml).expect("writes");
    Config::load(Some(&file))
}

#[test]
fn a_file_names_upstreams_and_routes() {
    let config = load(&format!(
        "listen = \"127.0.0.1:0\"\n{PROVIDER}\
         [[routes]]\nname = \"fast\"\nchain = [\"openai/gpt-4o-mini\", {{ to = \"openai/gpt-4o\", weight = 2 }}]\n\
         total_seconds = 30\n[successors]\n\"openai/gpt-4\" = \"openai/gpt-4o\"\n",
    ))
    .expect("reads");

    assert_eq!(config.providers[0].key().expect("a key").as_deref(), Some("k"));
    let routes = config.routing().expect("sound");
    let fast = routes.get("fast").expect("a route");
    assert_eq!((fast.chain.len(), fast.policy.total_seconds), (2, Some(30)));
    assert_eq!(routes.successor("openai", "gpt-4").expect("one").model, "gpt-4o");
}

#[test]
fn three_providers_in_turn_are_four_lines() {
    let providers = ["anthropic", "openai", "gemini"]
        .map(|name| PROVIDER.replace("name = \"openai\"", &format!("name = {name:?}")));
    let route = r#"
        [[routes]]
        name = "assistant"
        chain = ["anthropic/claude-sonnet-4-5", "openai/gpt-4o", "gemini/gemini-2.5-pro"]
    "#;

    let config = load(&format!("{}{route}", providers.concat())).expect("reads");

    assert_eq!(config.routes[0].chain.len(), 3);
}

#[test]
fn the_environment_may_name_every_value() {
    let config = Config { operator_key: Some("k".into()), ..Config::default() };

    let values = serde_json::to_value(config).expect("json");

    let mut names: Vec<&String> = values.as_object().expect("values").keys().collect();
    names.sort();
    let mut known = [&ENVIRONMENT[..], &["operator_key"]].concat();
    known.sort_unstable();
    assert_eq!(names, known);
}

#[test]
fn a_key_that_no_header_can_carry_is_said_and_no_value_is_repeated() {
    let broken = load(&PROVIDER.replace("\"k\"", "\"sk-1\\nsk-2\"")).expect_err("a line's end").to_string();
    let misread = load("providers = \"sk-secret\"").expect_err("is no list").to_string();

    assert!(broken.contains("no header") && !broken.contains("sk-1"), "{broken}");
    assert!(misread.contains("providers") && !misread.contains("sk-secret"), "{misread}");
}

#[test]
fn a_syntax_error_is_located_and_its_line_is_not_repeated() {
    let unquoted = PROVIDER.replace("\"k\"", "sk-live-123");
    let unclosed = PROVIDER.replace("\"k\"", "\"sk-live-123");
    for (toml, line, words) in [
        (unquoted.as_str(), 5, "invalid string"),
        (&unclosed, 5, "invalid basic string"),
        (&format!("{PROVIDER}api_key = \"sk-live-123\"\n"), 6, "duplicate key `api_key`"),
        ("\n\ndatabase_url = postgres://u:sk-live-123@h/db", 3, "invalid string"),
        ("operator_key = 'sk-live-123\n'", 1, "invalid literal string"),
        ("operator_key = \"\\sk-live-123\"", 1, "invalid escape"),
        ("operator_key = [\"sk-live-123\", ", 1, "invalid array"),
    ] {
        let error = load(toml).expect_err(toml).to_string();

        assert!(error.contains(&format!("tollgate.toml:{line}:")) && error.contains(words), "{error}");
        assert!(!error.contains("live") && error.lines().count() == 1, "{error}");
    }
}

#[test]
fn no_value_of_any_type_is_repeated() {
    let key = |value: &str| PROVIDER.replace("\"k\"", value);
    for toml in [key("12345"), key("-12345"), key("12345.0"), "operator_key = 12345".into(), key("[12345]")] {
        let error = load(&toml).expect_err(&toml).to_string();

        assert!(error.contains("_key") && !error.contains("12345"), "{error}");
    }
    let misplaced = PROVIDER.replace("api_key = \"k\"", "api_key_env = \"sk-live-123\"");
    let misplaced = load(&misplaced).expect_err("no key").to_string();
    assert!(misplaced.contains("api_key_env") && !misplaced.contains("live"), "{misplaced}");
}

#[test]
fn no_time_is_longer_than_a_day() {
    for toml in [
        "idle_connection_seconds = 9223372036854775807".to_owned(),
        "drain_seconds = 86401".to_owned(),
        format!("{PROVIDER}connect_timeout_seconds = 9223372036854775807\n"),
        format!("{PROVIDER}first_byte_timeout_seconds = 86401\n"),
        format!("{PROVIDER}idle_timeout_seconds = 86401\n"),
    ] {
        let error = load(&toml).expect_err(&toml).to_string();
        let setting = toml.trim_end().lines().last().expect("a line").split(' ').next().expect("a name");

        assert!(error.contains(setting) && error.contains("86400"), "{error}");
    }
    assert!(load("drain_seconds = 0\nidle_connection_seconds = 86400").is_ok());
}

#[test]
fn what_can_not_be_used_is_said() {
    for (toml, words) in [
        ("lissten = 1", "lissten"),
        ("routes = 7", "written as [[routes]]"),
        ("[[routes]]\nname = \"r\"\nchain = []", "chain is empty"),
        ("[[routes]]\nname = \"r\"\nchain = [\"p/m\"]", "no provider"),
        (&PROVIDER.replace("http://up", "not a url"), "base_url"),
        (&PROVIDER.replace("http://up", "ftp://up"), "base_url"),
        (&PROVIDER.replace("http://up", "http://up/v1"), "write http://up"),
        (&PROVIDER.replace("http://up", "https://up:1/openai/v1/"), "write https://up:1/openai"),
        (&PROVIDER.replace("http://up", "https://up/v1beta?key=secret"), "write https://up"),
        (&PROVIDER.replace("http://up", "https://up/#here"), "write https://up"),
        (&PROVIDER.replace("http://up", "https://me:pw@up/v1"), "write the address alone"),
        ("internal_address = \"http://10.0.0.7:8080\"", "such as 10.0.0.7:8080"),
        (&format!("{PROVIDER}api_key_env = \"K\"\n"), "one of api_key"),
        (&format!("{PROVIDER}idle_timeout_seconds = 0\n"), "timeout"),
        (&format!("{PROVIDER}default_output_tokens = 0\n"), "at least 1"),
        (&format!("{PROVIDER}uplifts = [\"fast\"]\n"), "region_us, region_eu"),
        (&format!("{PROVIDER}uplifts = [\"region_mars\"]\n"), "region_mars"),
    ] {
        let error = load(toml).expect_err(toml).to_string();

        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn an_internal_address_is_a_host_and_a_port() {
    for address in ["10.0.0.7:8080", "node-1:8080", "[::1]:80", "node.internal:65535"] {
        assert!(load(&format!("internal_address = {address:?}")).is_ok(), "{address}");
    }
    for address in [
        "10.0.0.7",
        ":8080",
        "node:0",
        "node:http",
        "node:8080/",
        "me@node:8080",
        "node/path:8080",
        "::1:80",
        "",
    ] {
        assert!(load(&format!("internal_address = {address:?}")).is_err(), "{address}");
    }
}

#[test]
fn a_base_url_may_have_a_path_before_the_version() {
    for url in ["https://up/openai", "https://up/v1/gateway", "http://127.0.0.1:4010/"] {
        assert!(load(&PROVIDER.replace("http://up", url)).is_ok(), "{url}");
    }
}

#[test]
fn weights_of_ones_own_are_read_or_said_to_be_none() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("weights.json");
    let toml = format!("complexity_weights = {file:?}\n");
    let mut own = Model::clone(complexity::shipped());
    own.intercept = 0.5;
    let write = |text: &str| std::fs::write(&file, text).expect("writes");

    let missing = load(&toml).expect_err("no file").to_string();
    write("{}");
    let broken = load(&toml).expect_err("no weights").to_string();
    write(&serde_json::to_string(&own).expect("json"));
    let config = load(&toml).expect("reads");

    assert!(missing.contains("tollgate.toml:1: complexity_weights, "), "{missing}");
    assert!(broken.contains("weights.json: they are no weights: missing field"), "{broken}");
    assert_eq!(**config.routing().expect("sound").weights(), own);
    own.intercept = 0.6;
    write(&serde_json::to_string(&own).expect("json"));
    assert_eq!(**config.routing().expect("sound").weights(), own, "a reload reads them again");
    assert_eq!(Config::default().routing().expect("sound").weights(), complexity::shipped());
}

#[test]
fn a_file_that_can_not_be_read_says_why() {
    let folder = tempfile::tempdir().expect("a folder");
    let of = |file: &Path| Config::load(Some(file)).expect_err("no file").to_string();

    let (missing, folders) = (of(&folder.path().join("none.toml")), of(folder.path()));
    assert!(missing.ends_with("does not exist"), "{missing}");
    assert!(folders.contains("can't be read: ") && !folders.contains("exist"), "{folders}");
    for (toml, words) in [
        ("listen =", ":1:"),
        ("\nroutes = [", ":2:"),
        ("[[routes", ":1:"),
        ("listen = \"", ":1:"),
        ("drain_seconds = 1_", ":1:"),
    ] {
        let error = load(toml).expect_err(toml).to_string();
        let (_, said) = error.split_once(words).expect("a place");
        let why = said.split_once(": ").map_or("", |(_, why)| why);
        assert!(why.len() > 10, "{toml}: {error}");
    }
}

#[test]
fn a_key_that_is_not_there_is_said_by_its_name() {
    let empty = tempfile::NamedTempFile::new().expect("a file");
    let empty = format!("api_key_file = {:?}", empty.path());
    for (key, words) in [
        ("api_key_env = \"TOLLGATE_TEST_NOT_SET\"", "TOLLGATE_TEST_NOT_SET is not set"),
        ("api_key_file = \"/no/such/file\"", "key file can't be read"),
        ("api_key = \"\"", "api_key is empty"),
        (&empty, "its key file is empty"),
    ] {
        let error = load(&PROVIDER.replace("api_key = \"k\"", key)).expect_err("no key").to_string();

        assert!(error.contains("openai") && error.contains(words), "{error}");
    }
    let keyless = load(&PROVIDER.replace("api_key = \"k\"", "")).expect("reads");
    assert_eq!(keyless.providers[0].key().expect("none is needed"), None);
}

#[test]
fn a_key_in_the_place_of_a_variables_name_is_not_repeated() {
    let groq = format!("gsk_{}", "Ab3".repeat(14));
    let hex = "0123456789abcdef".repeat(4);
    let digits = "0123456789".repeat(7);
    for key in [groq, hex, digits, "sk-proj-A".into()] {
        let misplaced = PROVIDER.replace("api_key = \"k\"", &format!("api_key_env = {key:?}"));

        let error = load(&misplaced).expect_err("no key").to_string();

        assert!(!error.contains(&key) && error.contains("names no environment variable"), "{error}");
    }
}

#[test]
fn every_mistake_in_the_routes_is_told_at_once_with_its_line() {
    let routes = r#"[[routes]]
name = "a"
chain = [
  "openai/gpt-4o",
  "groq/llama",
  { to = "openai/x", wieght = 3 },
]
retries = "many"

[[routes]]
name = "b"
chain = ["b"]
total_seconds = 0
degrade = "nowhere"

[[routes]]
name = "c"
chain = [{ to = "openai/x", when = { tools = "yes" } }]

[successors]
"openai/old" = "groq/new"
"#;

    let error = load(&format!("{PROVIDER}{routes}")).expect_err("mistakes");

    let ConfigError::Routes(located) = &error else { panic!("{error}") };
    let first = PROVIDER.lines().count();
    let lines: Vec<usize> =
        located.iter().map(|located| located.place.as_ref().expect("a line").1 - first).collect();
    assert_eq!(lines, [5, 6, 8, 12, 13, 14, 18, 21], "{error}");
    for words in
        ["tollgate.toml:", "a loop", "no route \"nowhere\"", "total_seconds must be at least 1", "groq"]
    {
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn a_connection_is_kept_for_a_while() {
    let idle = |seconds: u32| {
        load(&format!("idle_connection_seconds = {seconds}")).map(|config| config.idle_connection())
    };

    assert!(idle(620).is_ok_and(|idle| idle.as_secs() == 620));
    assert!(matches!(idle(0), Err(ConfigError::Seconds { name: "idle_connection_seconds", .. })));
}

#[test]
fn the_longest_body_finds_room() {
    let load = |mebibytes: u32| load(&format!("body_memory_mebibytes = {mebibytes}"));

    assert!(load(144).is_ok_and(|config| config.body_memory_bytes() == 144 << 20));
    assert!(matches!(load(143), Err(ConfigError::BodyMemory)));
}

#[test]
fn a_server_may_lack_what_no_request_needs() {
    let config = load(&format!("{PROVIDER}lacks = [\"stream_options\"]\n")).expect("reads");
    assert_eq!(config.providers[0].lacks, ["stream_options"]);

    for lacks in ["[\"messages\"]", "[\"max_completion_tokens\", \"max_tokens\"]"] {
        let error = load(&format!("{PROVIDER}lacks = {lacks}\n")).expect_err("a mistake");
        assert!(error.to_string().contains("openai: `lacks` must not name m"), "{error}");
    }
    let claude = PROVIDER.replace("kind = \"openai\"", "kind = \"anthropic\"");
    let error = load(&format!("{claude}lacks = [\"max_tokens\"]\n")).expect_err("a mistake");
    assert!(error.to_string().contains("openai: `lacks` must not name max_tokens"), "{error}");
    // The output limit stands in it.
    let gemini = PROVIDER.replace("kind = \"openai\"", "kind = \"gemini\"");
    for field in ["generationConfig", "contents"] {
        let error = load(&format!("{gemini}lacks = [\"{field}\"]\n")).expect_err("a mistake");
        assert!(error.to_string().contains(&format!("`lacks` must not name {field}")), "{error}");
    }
}

#[test]
fn i2_a_chats_output_limit_goes_in_the_field_that_its_server_reads() {
    use ChatLimit::{MaxCompletionTokens, MaxTokens};
    for (name, prices_of, base_url, lacks, field) in [
        ("openai", None, "https://api.openai.com", None, MaxCompletionTokens),
        ("second", Some("openai"), "https://api.openai.com", None, MaxCompletionTokens),
        ("europe", Some("own"), "https://eu.api.openai.com", None, MaxCompletionTokens),
        ("azure", Some("own"), "https://acme.openai.azure.com/openai", None, MaxCompletionTokens),
        ("azure", Some("own"), "https://acme.cognitiveservices.azure.com/openai", None, MaxCompletionTokens),
        ("azure", Some("own"), "https://acme.openai.azure.us/openai", None, MaxCompletionTokens),
        ("azure", Some("openai"), "https://acme.services.ai.azure.com/openai", None, MaxCompletionTokens),
        ("openai", None, "http://127.0.0.1:4010", None, MaxCompletionTokens),
        ("deepseek", None, "https://api.deepseek.com", None, MaxTokens),
        ("ollama", None, "http://127.0.0.1:11434", None, MaxTokens),
        ("openrouter", None, "https://openrouter.ai/api", None, MaxTokens),
        ("odd", None, "https://notapi.openai.com", None, MaxTokens),
        ("odd", None, "https://api.openai.com.example.org", None, MaxTokens),
        ("proxy", None, "https://llm.example.org", Some("max_tokens"), MaxCompletionTokens),
        ("openai", None, "https://llm.example.org", Some("max_completion_tokens"), MaxTokens),
        ("eas", None, "https://acme.cn-beijing.pai-eas.aliyuncs.com", None, MaxTokens),
        ("qwen", None, "https://dashscope.aliyuncs.com", Some("max_tokens"), MaxCompletionTokens),
    ] {
        let provider = ProviderConfig {
            prices_of: prices_of.map(str::to_owned),
            lacks: lacks.map(str::to_owned).into_iter().collect(),
            ..ProviderConfig::new(name, ProviderKind::Openai, base_url.to_owned())
        };

        assert!(provider.check().is_ok(), "{name} {base_url}");
        assert_eq!(provider.chat_limit(), Some(field), "{name} {base_url} {lacks:?}");
    }
}

#[test]
fn alibabas_model_studio_is_known_by_its_address_and_its_models_decide_on_the_output_limit() {
    for base_url in [
        "https://dashscope.aliyuncs.com/compatible-mode",
        "https://dashscope-intl.aliyuncs.com/compatible-mode",
        "https://cn-hongkong.dashscope.aliyuncs.com/compatible-mode",
        "https://coding.dashscope.aliyuncs.com/apps/anthropic",
        "https://llm-x.ap-southeast-1.maas.aliyuncs.com/compatible-mode",
        "https://Token-Plan.cn-beijing.MAAS.aliyuncs.com/apps/anthropic",
    ] {
        // Whatever it is called.
        let provider = ProviderConfig::new("openai", ProviderKind::Openai, base_url.to_owned());

        assert_eq!((provider.is_at_alibaba(), provider.chat_limit()), (true, None), "{base_url}");
    }
    for base_url in
        ["https://aliyuncs.com", "https://dashscope.aliyuncs.com.example.org", "https://maas.example.org"]
    {
        assert!(
            !ProviderConfig::new("p", ProviderKind::Openai, base_url.to_owned()).is_at_alibaba(),
            "{base_url}"
        );
    }
}

#[test]
fn only_providers_on_this_machine_are_asked_without_a_hold() {
    let unreserved = |base_url: &str| {
        let provider = PROVIDER.replace("http://up", base_url);
        load(&format!("unreserved_for_measuring = true\n{provider}")).map(|config| config.is_unreserved())
    };

    for here in ["http://127.0.0.1:4010", "http://[::1]:4010"] {
        assert!(matches!(unreserved(here), Ok(Ok(true))), "{here}");
    }
    for elsewhere in [
        "https://api.openai.com",
        "http://localhost:4010",
        "http://127.0.0.1:4010@up",
        "http://127.0.0.1.up",
        "http://0.0.0.0:4010",
        "up",
    ] {
        let error = unreserved(elsewhere).expect_err(elsewhere).to_string();
        assert!(error.contains("openai: unreserved_for_measuring"), "{error}");
    }
    assert!(load(PROVIDER).expect("reads").is_unreserved().is_ok_and(|is_unreserved| !is_unreserved));
}

#[test]
fn a_header_that_can_not_be_one_is_refused() {
    assert!(load(&format!("{PROVIDER}api_key_header = \"api-key\"\n")).is_ok());
    let error = load(&format!("{PROVIDER}api_key_header = \"api key\"\n")).expect_err("a mistake");
    assert!(error.to_string().contains("openai: api_key_header must be the name of a header"), "{error}");
}
