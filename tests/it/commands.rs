//! Every command that reads or folds a ledger, or stands beside one, does what its help says: each once, as a process.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use axum::Router;
use axum::response::Html;
use axum::routing::get;
use reqwest::StatusCode;
use serde_json::{Value, json};
use tollgate::app;
use tollgate::clock::Clock;
use tollgate::domain::views::View;
use tollgate::operations::authenticate::OperatorKey;

use crate::database::TestDatabase;
use crate::process::{Caller, Server, serve, tollgate};
use crate::support::{OPERATOR, client, listen};

/// What a command says, where it succeeds.
fn said(run: &Output) -> String {
    assert!(run.status.success(), "{run:?}");
    String::from_utf8(run.stdout.clone()).unwrap()
}

/// A ledger that a server has written and left.
async fn written() -> TestDatabase {
    let database = TestDatabase::new().await;
    let server = Server::start(&database.url);
    let operator = Caller::operator(&server);
    let acme = operator.funded("gateway").await;
    // Shard 0 has the prices, the slug's claim and its end; and one event more, on PostgreSQL too.
    let bundle = json!({ "name": "b", "credits": "1", "price": "1.00", "currency": "USD" });
    operator.post("/api/v1/bundles", bundle).await;
    let held = acme.post("/api/v1/orgs/acme/reservations", json!({ "credits": "4" })).await;
    let settle = format!("/api/v1/reservations/{}/settle", held["id"].as_str().unwrap());
    acme.post(&settle, json!({ "credits": "1.5" })).await;
    server.terminate();
    assert!(tokio::task::block_in_place(|| server.wait()).success());
    database
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_is_exported_in_whole_and_in_part_folded_again_and_checked() {
    let database = written().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("log.jsonl");
    let export = |part: &[&str]| {
        let mut command = tollgate(&["export", "log", "--database-url", &database.url]);
        command.args(part);
        command
    };

    for part in [
        &[][..],
        &["--org", "acme"],
        &["--shard", "0"],
        &["--shard", "0", "--from", "2"],
        &["--shard", "0", "--from", "2", "--to", "3"],
    ] {
        said(&export(part).arg("--out").arg(&file).output().unwrap());
        let exported = std::fs::read_to_string(&file).unwrap();
        let printed = said(&export(part).output().unwrap());
        let checked = said(&tollgate(&["verify"]).arg(&file).output().unwrap());

        assert_eq!(exported, printed, "{part:?}");
        let events = exported.lines().count() - 2;
        assert!(checked.starts_with(&format!("{events} events of ")), "{part:?}: {checked}");
        assert!(checked.ends_with("every hash and balance follows from the events\n"), "{checked}");
        match part {
            ["--org", org] => assert!(events >= 5, "{events} of {org}"),
            [.., "--from", "2", "--to", "3"] => assert_eq!(events, 2),
            _ => assert!(events >= 2, "{part:?}: {events}"),
        }
    }
    let before = std::fs::read_to_string(&file).unwrap();
    for (part, why) in [
        (["--org", "nobody"], "org"),
        (["--org", "org_00000000000070008000000000000007"], "org"),
        (["--shard", "99"], "shard"),
    ] {
        let printed = export(&part).output().unwrap();
        let written = export(&part).arg("--out").arg(&file).output().unwrap();

        for run in [&printed, &written] {
            assert!(!run.status.success() && String::from_utf8_lossy(&run.stderr).contains(why), "{run:?}");
        }
        assert!(printed.stdout.is_empty(), "{printed:?}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), before, "{part:?}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no half of an export is left");

    for (name, views) in [("all", &View::ALL[..]), ("balances", &[View::Balances])] {
        let run = tollgate(&["rebuild", name, "--database-url", &database.url]).output().unwrap();
        let lines: String = views
            .iter()
            .fold(String::new(), |lines, view| lines + view.name() + ": folded again from the first event\n");
        assert_eq!(said(&run), lines);
    }
    let report = said(&tollgate(&["verify", "--json", &database.url]).output().unwrap());
    let report: Value = serde_json::from_str(&report).unwrap();
    let projections = report["projections"].as_object().unwrap();
    assert_eq!((&report["findings"], &report["given"]), (&json!([]), &json!(0)));
    assert_eq!(projections.len(), View::ALL.len());
    assert!(projections.values().all(|differing| *differing == 0), "{report}");
}

/// As long as a node on PostgreSQL waits for nobody, and one on a file for the process before it.
async fn an_hour_ahead(database: &TestDatabase) {
    let clock = Clock::manual(Clock::system().now().plus_seconds(3_600), 1);
    let opened = database.open(&clock).await;
    app::open(opened, OperatorKey::new(OPERATOR).unwrap(), clock).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_with_a_clock_behind_the_log_is_confirmed_by_its_operator() {
    let database = TestDatabase::new().await;
    an_hour_ahead(&database).await;

    let refused = loop {
        let run = serve(&database.url).output().unwrap();
        let why = String::from_utf8_lossy(&run.stderr).into_owned();
        // The one that wrote lets go of the file once its writers have seen that nobody asks any more.
        if !why.contains("another process has this database open") {
            break why;
        }
    };
    let mut confirmed = serve(&database.url);
    confirmed.arg("--confirm-clock");
    let server = Server::of(confirmed);

    assert!(refused.contains("start with --confirm-clock"), "{refused}");
    Caller::operator(&server).funded("gateway").await;
    assert_eq!(Caller::operator(&server).balance().await["available"], "1000");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shards_of_a_postgresql_database_are_fixed_as_it_is_made() {
    needs_postgres!();
    let database = TestDatabase::postgres().await;
    let with = |shards: &str| {
        let mut command = serve(&database.url);
        command.args(["--shards", shards]);
        command
    };

    let many = with("1025").output().unwrap();
    let nothing = tollgate(&["verify", &database.url]).output().unwrap();
    drop(Server::of(with("2")));
    let other = with("3").output().unwrap();

    assert!(String::from_utf8_lossy(&many.stderr).contains("use 1 to 1024 shards"), "{many:?}");
    assert!(String::from_utf8_lossy(&nothing.stderr).contains("the log does not exist"), "{nothing:?}");
    assert_eq!(database.open(&Clock::system()).await.log.heads().await.unwrap().len(), 2);
    assert!(!other.status.success());
    assert!(String::from_utf8_lossy(&other.stderr).contains("2 shards and 3 were asked for"), "{other:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgresql_database_that_can_not_hold_every_text_is_refused_as_it_was() {
    needs_postgres!();
    let options = "encoding 'LATIN1' template template0 lc_collate 'C' lc_ctype 'C'";
    let database = TestDatabase::postgres_with(options).await;

    let refused = serve(&database.url).output().unwrap();
    let nothing = tollgate(&["verify", &database.url]).output().unwrap();

    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("encoding is LATIN1"), "{said}");
    assert!(said.contains("encoding 'UTF8' template template0"), "{said}");
    assert!(String::from_utf8_lossy(&nothing.stderr).contains("the log does not exist"), "{nothing:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_simulated_provider_has_the_weather_that_it_is_given_and_ends_when_told() {
    let mut command = tollgate(&["simulate", "--listen", "127.0.0.1:0", "--weather", "503=1"]);
    let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut first).unwrap();
    let url = first.trim().rsplit(' ').next().unwrap();
    let chat = json!({ "model": "gpt-4o", "messages": [{ "role": "user", "content": "Hello" }] });

    let answer =
        client().post(format!("{url}/v1/chat/completions")).bearer_auth("any").json(&chat).send().await;
    let told = Command::new("kill").args(["-INT", &process.id().to_string()]).status().unwrap();

    assert_eq!(answer.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE, "{first}");
    assert!(told.success() && tokio::task::block_in_place(|| process.wait()).unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_price_map_is_linted_and_what_is_new_of_it_is_published() {
    let folder = tempfile::tempdir().unwrap();
    let map = folder.path().join("map.json");
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/domain/pricing/default_prices.json");
    let priced = |extra: Value| {
        let mut model = json!({
            "litellm_provider": "openai", "mode": "chat", "max_input_tokens": 1_000, "max_output_tokens": 1_000,
            "input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6,
        });
        model.as_object_mut().unwrap().append(&mut extra.as_object().unwrap().clone());
        std::fs::write(&map, json!({ "gpt-brand-new": model }).to_string()).unwrap();
    };
    let database = TestDatabase::new().await;
    let server = Server::start(&database.url);
    let importing = |file: &Path| {
        let mut command = tollgate(&["prices", "import", "--server", &server.url]);
        command.arg(file).env("TOLLGATE_OPERATOR_KEY", OPERATOR);
        // A proxy that answers nobody: a server on this machine is reached without.
        command.env("HTTP_PROXY", "http://127.0.0.1:1").env("http_proxy", "http://127.0.0.1:1");
        command
    };
    let import = |file: &Path| said(&importing(file).output().unwrap());
    let lint = |file: &Path| tollgate(&["prices", "lint"]).arg(file).output().unwrap();

    assert!(said(&lint(&shipped)).contains("models can be priced"));
    assert!(import(&shipped).contains("cards are in force already"));
    priced(json!({ "output_cost_per_dream": 1 }));
    let odd = lint(&map);
    assert!(!odd.status.success());
    assert!(String::from_utf8_lossy(&odd.stdout).contains("output_cost_per_dream"), "{odd:?}");
    priced(json!({}));
    assert!(said(&lint(&map)).ends_with("1 models can be priced, 0 can't\n"));
    let (reader, closed) = std::io::pipe().unwrap();
    drop(reader);
    let linted =
        tollgate(&["prices", "lint"]).arg(&map).stdout(closed.try_clone().unwrap()).output().unwrap();
    let published = importing(&map).stdout(closed).output().unwrap();
    assert!(linted.status.success() && published.status.success(), "{linted:?} {published:?}");
    assert!(import(&map).ends_with("all 1 cards are in force already\n"));
    let book = Caller::operator(&server).get("/api/v1/prices/openai/gpt-brand-new").await;
    assert!(book.contains("gpt-brand-new"), "{book}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_in_place_of_a_price_book_is_told_with_its_status() {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/domain/pricing/default_prices.json");
    for (status, words) in [(StatusCode::BAD_GATEWAY, "502: Bad Gateway"), (StatusCode::OK, "not JSON")] {
        let page = move || async move { (status, Html("<h1>A balancer's page</h1>")) };
        let url = listen(Router::new().route("/api/v1/prices", get(page))).await;

        let mut command = tollgate(&["prices", "import", "--server", &url]);
        command.arg(&shipped).env("TOLLGATE_OPERATOR_KEY", OPERATOR);
        let run = tokio::task::block_in_place(|| command.output()).unwrap();

        let said = String::from_utf8_lossy(&run.stderr).into_owned();
        assert!(!run.status.success() && said.contains(words), "{said}");
        assert!(!said.contains("reached"), "{said}");
    }
}

#[test]
fn weights_are_trained_on_one_half_of_labelled_prompts_and_evaluated_on_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let (labels, weights) = (folder.path().join("labels.jsonl"), folder.path().join("weights.json"));
    let mut lines = String::new();
    for n in 0..60 {
        let (bench, weak) = (["short", "long"][n % 2], n % 3 > 0);
        let prompt = format!("Prove lemma {n}. {}", "Then explain why. ".repeat(n % 7));
        let label = json!({ "bench": bench, "prompt": prompt, "strong_ok": true, "weak_ok": weak });
        writeln!(lines, "{label}").unwrap();
    }
    std::fs::write(&labels, lines).unwrap();
    let router = |arguments: &[&str]| {
        let mut command = tollgate(&["router"]);
        said(&command.args(arguments).arg("--labels").arg(&labels).output().unwrap())
    };
    let weights = weights.to_str().unwrap();

    let trained = router(&["train", "--out", weights]);
    let own = router(&["evaluate", "--weights", weights]);
    let shipped = router(&["evaluate", "--weak-price", "0.1"]);

    assert!(trained.contains("has the weights of"), "{trained}");
    for (report, price) in [(own, "0.06"), (shipped, "0.1")] {
        assert!(report.contains(&format!("a weak call costs {price} of a strong one")), "{report}");
        for bench in ["| all (", "| short (", "| long ("] {
            assert!(report.contains(bench), "{report}");
        }
    }
}
