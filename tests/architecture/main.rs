//! The architecture, held by a test: which layer may import which, what is pure, and where SQL may be.
//!
//! Reads the sources with the standard library only: comments, texts and `#[cfg(test)]` items are set aside, the
//! rest is looked at word by word. Every breach is a sentence that says what to do. The rules themselves are the
//! tables below; `docs/ARCHITECTURE.md` gives their reasons.

#![allow(clippy::unwrap_used, reason = "a test stops where its sources cannot be read")]

mod pages;
mod source;

use std::collections::BTreeSet;

use crate::source::{
    Kind, Token, all_sources, all_test_modules, file_stem, is_test, joined_texts, module_of, scan,
    without_test_items,
};

/// A top-level module of `src/` and the other top-level modules that it may import.
const LAYERS: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("clock", &["domain"]),
    ("config", &["domain"]),
    ("store", &["domain", "clock"]),
    ("ledger", &["domain", "clock", "http_client", "store"]),
    ("operations", &["domain", "clock", "store", "ledger"]),
    ("http", &["domain", "clock", "ledger", "operations"]),
    ("gateway", &["domain", "clock", "config", "http_client", "ledger", "operations"]),
    ("workers", &["domain", "clock", "store", "ledger", "operations"]),
    ("simulator", &["domain", "signals"]),
    ("http_client", &[]),
    ("listener", &[]),
    ("log_limit", &["clock"]),
    ("signals", &[]),
    ("telemetry", &[]),
    ("app", EVERYTHING),
    ("demo", EVERYTHING),
    ("commands", &["domain", "clock", "store", "ledger", "http", "http_client", "signals"]),
    // A client of the API, in the API's own words.
    ("load", &["clock", "http_client", "signals"]),
    ("main", EVERYTHING),
    ("lib", EVERYTHING),
];

/// The layers at the top compose all that is below them.
const EVERYTHING: &[&str] = &[
    "domain",
    "clock",
    "config",
    "store",
    "ledger",
    "operations",
    "http",
    "gateway",
    "signals",
    "http_client",
    "listener",
    "log_limit",
    "workers",
    "simulator",
    "app",
    "demo",
    "telemetry",
    "commands",
    "load",
];

/// A folder whose code may not use certain words, and what to do instead.
struct Purity {
    under: &'static str,
    except: &'static [&'static str],
    words: &'static [&'static str],
    instead: &'static str,
}

const PURITIES: &[Purity] = &[
    Purity {
        under: "src/domain/",
        except: &[],
        words: &[
            "async",
            "await",
            "tokio",
            "sqlx",
            "axum",
            "reqwest",
            "std::fs",
            "std::net",
            "std::env",
            "std::process",
        ],
        instead: "the domain is pure: take what you need as an argument, and let an operation or the ledger fetch it",
    },
    Purity {
        under: "src/domain/",
        except: &[],
        words: &[
            "SystemTime",
            "Instant",
            "Utc::now",
            "Local::now",
            "getrandom",
            "rand",
            "Uuid::new_v4",
            "Uuid::now_v7",
        ],
        instead: "time, ids and chance are arguments: src/clock.rs makes them",
    },
    Purity {
        under: "src/domain/",
        except: &["src/domain/routing", "src/domain/statistics"],
        words: &["f32", "f64"],
        instead: "no floats near money: use Credits, Decimal or whole numbers",
    },
    Purity {
        under: "src/gateway/providers",
        except: &[],
        words: &["async", "await", "tokio", "reqwest", "axum"],
        instead: "a provider's adapter is pure functions over bytes: the HTTP is shared, in src/gateway/attempt.rs",
    },
    Purity {
        under: "src/gateway/dialects",
        except: &[],
        words: &["async", "await", "tokio", "reqwest", "axum"],
        instead: "a dialect is pure functions over values: the HTTP is shared, in src/gateway/endpoints.rs and attempt.rs",
    },
    Purity {
        under: "src/",
        except: &["src/store"],
        words: &["sqlx"],
        instead: "only the store holds SQL: give it a function there",
    },
    Purity {
        under: "src/",
        except: &["src/clock.rs"],
        words: &["SystemTime::now", "std::time::Instant::now", "Utc::now", "Local::now", "getrandom", "rand"],
        instead: "time, ids and chance are arguments: src/clock.rs makes them",
    },
];

#[test]
fn the_house_keeps_its_shape() {
    let breaches = breaches_of_all(&all_sources());

    assert!(breaches.is_empty(), "{} breaches:\n{}", breaches.len(), breaches.join("\n"));
}

#[test]
fn nobody_may_import_what_nobody_imports() {
    let sources = all_sources();
    let tests = all_test_modules(&sources);
    let granted = LAYERS.iter().filter(|(_, allowed)| *allowed != EVERYTHING);
    let mut unused: BTreeSet<(String, String)> = granted
        .flat_map(|(layer, allowed)| allowed.iter().map(|import| ((*layer).to_owned(), (*import).to_owned())))
        .collect();
    for (path, source) in sources.iter().filter(|(path, _)| !is_test(&tests, path)) {
        for import in imports(path, &without_test_items(scan(source))) {
            unused.remove(&(layer_of(path), import.layer));
        }
    }

    assert!(unused.is_empty(), "take {unused:?} out of LAYERS, and out of docs/ARCHITECTURE.md");
}

/// Everything that is wrong, one sentence each. A file is a test when its parent declares it so.
fn breaches_of_all(sources: &[(String, String)]) -> Vec<String> {
    let tests = all_test_modules(sources);
    let code = sources.iter().filter(|(path, _)| !is_test(&tests, path));
    code.flat_map(|(path, source)| breaches_of(path, source)).collect()
}

fn breaches_of(path: &str, source: &str) -> Vec<String> {
    let tokens = without_test_items(scan(source));
    let mut breaches = import_breaches(path, &tokens);
    breaches.extend(PURITIES.iter().flat_map(|purity| purity_breaches(path, &tokens, purity)));
    breaches.extend(sql_breaches(path, &tokens));
    breaches.extend(shard_breaches(path, &tokens));
    breaches
}

// --- The rules ---

fn import_breaches(path: &str, tokens: &[Token]) -> Vec<String> {
    let layer = layer_of(path);
    let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == layer) else {
        return vec![format!(
            "{path}: `{layer}` is a layer that the architecture does not know; put the file into a layer that is \
             there, or give `{layer}` a line in LAYERS of tests/architecture/main.rs and in docs/ARCHITECTURE.md."
        )];
    };
    imports(path, tokens)
        .into_iter()
        .filter(|import| import.layer != layer && LAYERS.iter().any(|(name, _)| *name == import.layer))
        .filter(|import| !allowed.contains(&import.layer.as_str()))
        .map(|import| {
            let advice = match (layer.as_str(), import.layer.as_str()) {
                ("domain", _) => "the domain imports no layer; take what you need as an argument",
                ("http" | "gateway", "store") => "go through an operation or a read of the ledger",
                ("http" | "gateway", "http" | "gateway") => {
                    "what both need is an operation, or belongs to the domain"
                }
                ("simulator", _) => {
                    "the simulator proves the gateway from outside; it uses domain and signals only"
                }
                _ => "turn the call around, or move what it needs to a layer on its left",
            };
            format!("{path}:{}: {layer} may not import {}; {advice}.", import.line, import.layer)
        })
        .collect()
}

fn purity_breaches(path: &str, tokens: &[Token], purity: &Purity) -> Vec<String> {
    let applies =
        path.starts_with(purity.under) && !purity.except.iter().any(|except| path.starts_with(except));
    if !applies {
        return Vec::new();
    }
    let mut breaches = Vec::new();
    for word in purity.words {
        let wanted: Vec<&str> = word.split("::").flat_map(|part| ["::", part]).skip(1).collect();
        let hits = tokens.windows(wanted.len()).filter(|window| {
            window.iter().zip(&wanted).all(|(token, text)| token.kind == Kind::Code && token.text == *text)
        });
        breaches.extend(hits.map(|hit| {
            format!("{path}:{}: `{word}` may not be used here; {}.", hit[0].line, purity.instead)
        }));
    }
    breaches
}

fn sql_breaches(path: &str, tokens: &[Token]) -> Vec<String> {
    if path.starts_with("src/store") {
        return Vec::new();
    }
    let texts = joined_texts(tokens).into_iter().filter(|text| is_sql(&text.text));
    texts
        .map(|text| {
            format!(
                "{path}:{}: this text is SQL; only the store holds SQL: give it a function there.",
                text.line
            )
        })
        .collect()
}

/// A statement that names no shard would be sent to every worker of a distributed database. SQLite has one shard and
/// is never distributed.
fn shard_breaches(path: &str, tokens: &[Token]) -> Vec<String> {
    if !path.starts_with("src/store") || path.starts_with("src/store/sqlite") {
        return Vec::new();
    }
    let statements = joined_texts(tokens).into_iter().filter(|text| is_sql(&text.text));
    let unnamed = statements.filter(|text| !names_its_shard(&text.text));
    unnamed
        .map(|text| {
            format!(
                "{path}:{}: this statement names no shard; the tables are distributed by it: say which one.",
                text.line
            )
        })
        .collect()
}

/// What may be asked of all shards at once, and why.
const OF_ALL_SHARDS: &[&str] = &[
    // One query shows a node everything that others wrote.
    "from log_heads order by shard",
    // Says itself that it is of all; asked once, at a start.
    "from log_heads where shard >= 0",
    "lock table log_heads",
    // Its two sides name theirs.
    "select (select count(*) from ({of_shard} except",
    // Is not distributed.
    "from _sqlx_migrations",
];

fn names_its_shard(statement: &str) -> bool {
    let words: Vec<&str> = statement.split_whitespace().filter(|word| *word != "\\").collect();
    let statement = words.join(" ");
    // As a condition, or as the first column of what is inserted.
    ["where shard = ", "and shard = ", "(shard, "].iter().any(|named| statement.contains(named))
        || OF_ALL_SHARDS.iter().any(|all| statement.contains(all))
}

/// A sentence may begin with "select" or "update"; a statement goes on with its own second word.
fn is_sql(text: &str) -> bool {
    let text = text.trim_start().to_lowercase();
    let words: Vec<&str> = text.split_whitespace().collect();
    let has = |word: &str| words.contains(&word);
    match words.as_slice() {
        ["select", ..] => has("from") && words.len() > 3,
        ["insert" | "merge", "into", ..] | ["delete", "from", ..] => true,
        ["lock" | "truncate", "table", ..] => true,
        ["update", _, "set", ..] => true,
        ["create" | "drop" | "alter", "table" | "index" | "trigger" | "view", ..] => true,
        ["pragma", ..] => words.len() == 2 || has("="),
        ["with", _, "as", next, ..] => next.starts_with('('),
        _ => false,
    }
}

// --- Imports ---

#[derive(Debug, PartialEq)]
struct Import {
    layer: String,
    line: usize,
}

/// `src/http/orgs.rs` and `src/http.rs` belong to `http`.
fn layer_of(path: &str) -> String {
    module_of(path).first().cloned().unwrap_or_else(|| file_stem(path))
}

/// The module that a file is: `src/a/b.rs` and `src/a/b/mod.rs` are `a::b`; the crate's roots are nothing.
fn imports(path: &str, tokens: &[Token]) -> Vec<Import> {
    let depth = module_of(path).len();
    let mut found = Vec::new();
    let mut position = 0;
    while position < tokens.len() {
        let before_is_path = position > 0 && tokens[position - 1].is("::");
        let rest = &tokens[position..];
        if !before_is_path && rest[0].kind == Kind::Code && rest.get(1).is_some_and(|next| next.is("::")) {
            let supers = rest
                .chunks(2)
                .take_while(|pair| pair[0].is("super") && pair.get(1).is_some_and(|next| next.is("::")));
            let supers = supers.count();
            if rest[0].is("crate") || rest[0].is("tollgate") {
                found.extend(first_names(&rest[2..]));
            } else if supers > 0 && supers >= depth {
                found.extend(first_names(&rest[2 * supers..]));
            }
            position += 2 * supers.max(1) - 1;
        }
        position += 1;
    }
    found
}

/// The first name of a path, or of every path in its braces.
fn first_names(tokens: &[Token]) -> Vec<Import> {
    let name = |token: &Token| Import { layer: token.text.clone(), line: token.line };
    match tokens.first() {
        Some(first) if first.is("{") => {
            let mut names = Vec::new();
            let mut depth = 0;
            let mut at_start = false;
            for token in tokens {
                match token.text.as_str() {
                    "{" => {
                        depth += 1;
                        at_start = depth == 1;
                    }
                    "}" => depth -= 1,
                    "," => at_start = depth == 1,
                    _ => {
                        if at_start {
                            names.push(name(token));
                        }
                        at_start = false;
                    }
                }
                if depth == 0 {
                    break;
                }
            }
            names
        }
        Some(first) => vec![name(first)],
        None => Vec::new(),
    }
}

// --- The rules on made-up sources ---

fn check(path: &str, source: &str, expected: &[&str]) {
    let breaches = breaches_of(path, source);
    assert_eq!(breaches.len(), expected.len(), "{path}: {breaches:#?}");
    for (breach, part) in breaches.iter().zip(expected) {
        assert!(breach.contains(part), "`{breach}` does not say `{part}`");
    }
}

#[test]
fn imports_go_to_the_left() {
    check("src/ledger/writer.rs", "use crate::store::EventLog;\nuse crate::domain::credits::Credits;", &[]);
    check(
        "src/store/mod.rs",
        "use crate::ledger::Ledger;",
        &["src/store/mod.rs:1: store may not import ledger"],
    );
    check(
        "src/domain/credits.rs",
        "\n\nuse crate::store::Row;",
        &["src/domain/credits.rs:3: domain may not import store"],
    );
    check("src/http/orgs.rs", "fn f() { crate::store::open() }", &["go through an operation"]);
    check("src/http/orgs.rs", "use crate::gateway::Edge;", &["what both need is an operation"]);
    check("src/workers/sweep.rs", "use crate::{ledger, store::EventLog};", &[]);
    check("src/workers/sweep.rs", "use crate::http::Problem;", &["turn the call around"]);
    check("src/simulator/mod.rs", "use crate::gateway::dialects;", &["from outside"]);
    check("src/app.rs", "use crate::{http, gateway, store};", &[]);
    check("src/main.rs", "use tollgate::demo;", &[]);
}

#[test]
fn imports_are_found_in_groups_and_behind_supers() {
    check(
        "src/store/sqlite/log.rs",
        "use crate::{domain::{ids, time}, http::{a, b}, workers};",
        &["may not import http", "may not import workers"],
    );
    check("src/store/sqlite/log.rs", "use super::super::ledger::X;", &[]);
    check("src/store/sqlite/log.rs", "use super::super::super::ledger::X;", &["may not import ledger"]);
    check("src/store/mod.rs", "use super::{ledger, domain};", &["may not import ledger"]);
    check("src/store.rs", "pub(crate) fn f(x: super::ledger::X) {}", &["may not import ledger"]);
    check("src/store/mod.rs", "use self::ledger::X; use other::crate_like::http::Y;", &[]);
}

#[test]
fn a_layer_that_nobody_knows_is_a_breach() {
    check("src/helpers/mod.rs", "fn f() {}", &["`helpers` is a layer that the architecture does not know"]);
}

#[test]
fn the_domain_is_pure() {
    check("src/domain/a.rs", "pub async fn f() {}", &["`async` may not be used here; the domain is pure"]);
    check("src/domain/a.rs", "use std::fs::File;", &["`std::fs`"]);
    check("src/domain/a.rs", "fn f(x: f64) {}", &["no floats near money"]);
    check("src/domain/routing/score.rs", "fn f(x: f64) {}", &[]);
    check("src/domain/statistics.rs", "fn f(x: f32) {}", &[]);
    check("src/domain/a.rs", "fn f(asynchronous: u8, f64_like: u8) {}", &[]);
    check(
        "src/domain/a.rs",
        "// async f64 tokio\n/* std::fs /* nested */ f32 */ const A: &str = \"f64 async\";",
        &[],
    );
}

#[test]
fn adapters_and_dialects_are_pure() {
    check("src/gateway/providers/openai.rs", "use reqwest::Client;", &["pure functions over bytes"]);
    check("src/gateway/dialects/chat.rs", "use axum::Json;", &["pure functions over values"]);
    check("src/gateway/attempt.rs", "use reqwest::Client; async fn f() {}", &[]);
}

#[test]
fn only_the_store_holds_sql() {
    check("src/ledger/a.rs", "use sqlx::Row;", &["only the store holds SQL"]);
    check(
        "src/ledger/a.rs",
        "const Q: &str = \"select org_id from events where shard = 1\";",
        &["this text is SQL"],
    );
    check("src/http/a.rs", "const Q: &str = r#\"\n  insert into orgs values (1)\"#;", &["this text is SQL"]);
    check("src/store/a.rs", "const Q: &str = \"delete from views where shard = 1\"; use sqlx::Row;", &[]);
    check(
        "src/http/a.rs",
        "const M: &str = \"Select a model first\"; const N: &str = \"update the card\";",
        &[],
    );
}

#[test]
fn every_statement_of_the_store_names_its_shard() {
    check("src/store/postgres/a.rs", "const Q: &str = \"delete from lots\";", &["names no shard"]);
    check(
        "src/store/alike.rs",
        "const Q: &str = \"select name from profiles where id = $1\";",
        &["names no shard"],
    );
    for unnamed in [
        "select shard, name from profiles where name = $1",
        "select name from profiles order by shard",
        "update profiles set shard = $1 where name = $2",
        "lock table profiles in share mode",
        "truncate table profiles",
        "merge into profiles using others on others.name = profiles.name",
    ] {
        check("src/store/alike.rs", &format!("const Q: &str = \"{unnamed}\";"), &["names no shard"]);
    }
    for named in [
        "select name from profiles where shard = $1",
        "insert into profiles (shard, name) values ($1, $2)",
        "update profiles set name = $1 where id = $2 \\\n    and shard = $3",
        "select next_position from log_heads order by shard",
    ] {
        check("src/store/alike.rs", &format!("const Q: &str = \"{named}\";"), &[]);
    }
    let joined = |condition: &str| {
        format!("const Q: &str = concat!(\"select \", columns!(\"a\"), \" from lots where {condition}\");")
    };
    check("src/store/postgres/a.rs", &joined("name = $1"), &["names no shard"]);
    check("src/store/postgres/a.rs", &joined("shard = $1"), &[]);
    check("src/store/sqlite/a.rs", "const Q: &str = \"select value from settings where name = 'x'\";", &[]);
}

#[test]
fn time_and_chance_come_from_the_clock() {
    check("src/http/a.rs", "let now = SystemTime::now();", &["src/clock.rs makes them"]);
    check("src/http/a.rs", "let id = rand::random::<u64>();", &["`rand` may not be used here"]);
    check("src/domain/a.rs", "use rand::Rng;", &["src/clock.rs makes them"; 2]);
    check("src/http/a.rs", "let rand_like = operand;", &[]);
    check("src/clock.rs", "let now = SystemTime::now(); getrandom::fill(&mut bytes); rand::rng();", &[]);
}

#[test]
fn tests_may_do_what_the_code_may_not() {
    let source = "fn f() {}\n#[cfg(test)]\nmod tests { use crate::app::App; async fn g() { if true {} } }\nuse crate::http::X;";
    check("src/store/a.rs", source, &["src/store/a.rs:4: store may not import http"]);
    check("src/store/a.rs", "#[cfg(test)]\nmod tests;\nfn f() {}", &[]);

    let source = |path: &str, text: &str| (path.to_owned(), text.to_owned());
    let breaches = breaches_of_all(&[
        source("src/domain/usage/mod.rs", "#[cfg(test)]\npub(crate) mod recordings;\nmod anthropic;"),
        source("src/domain/usage/recordings.rs", "use std::fs;"),
        source("src/domain/usage/recordings/deep.rs", "use std::fs;"),
        source("src/domain/usage/anthropic.rs", "use std::net;"),
    ]);
    assert_eq!(breaches.len(), 1, "{breaches:#?}");
    assert!(breaches[0].starts_with("src/domain/usage/anthropic.rs:1: `std::net`"));
}

#[test]
fn characters_and_lifetimes_do_not_confuse_the_reader() {
    check(
        "src/domain/a.rs",
        "fn f<'a>(x: &'a str) -> char { let q = '\"'; let e = '\\''; 'x' } fn g(y: f64) {}",
        &["`f64`"],
    );
    check("src/domain/a.rs", "fn f(r#type: u8) -> &'static str { r\"a f64\" }", &[]);
}
