//! The log as a file: whatever is changed in it is found, without the server that wrote it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Cursor;
use std::path::Path;

use reqwest::StatusCode;
use serde_json::{Value, json};
use tollgate::clock::Clock;
use tollgate::domain::account::command::OrgCommand;
use tollgate::domain::chain::{Fields, event_hash};
use tollgate::domain::credits::Credits;
use tollgate::domain::ids::{EventId, LotId, OrgId};
use tollgate::domain::lots::{GrantKind, LotTerms};
use tollgate::domain::time::Timestamp;
use tollgate::domain::views::View;
use tollgate::ledger::export::{ExportError, Selection, export};
use tollgate::ledger::verify::Report;
use tollgate::ledger::verify::exported::verify_export;
use tollgate::ledger::{Ledger, MemoryLimits, Submission};
use tollgate::operations::find_org::known_org;
use tollgate::store::Database;
use uuid::Uuid;

use crate::database::TestDatabase;
use crate::process::tollgate;
use crate::support::TestApp;

/// Another letter or digit that may stand in its place.
fn other(letter: char) -> char {
    match letter {
        '9' => '0',
        'f' | 'z' => 'a',
        'Z' => 'A',
        letter if letter.is_ascii_alphanumeric() => char::from(letter as u8 + 1),
        _ => 'x',
    }
}

/// Every so many digits are tried, others in each line.
const DIGITS_STEP: usize = 17;

async fn traded() -> TestApp {
    let app = TestApp::start().await;
    for slug in ["acme", "other"] {
        let actor = app.funded(slug, "10").await;
        let path = format!("/api/v1/orgs/{slug}/reservations");
        let held = actor.post(&path, json!({ "credits": "4" })).await.expect(StatusCode::CREATED);
        let settle = format!("/api/v1/reservations/{}/settle", held["id"].as_str().unwrap());
        actor.post(&settle, json!({ "credits": "1.5" })).await.expect(StatusCode::OK);
    }
    app
}

async fn file(app: &TestApp, selection: Selection) -> String {
    let mut out = Vec::new();
    export(&**app.ledger().log(), selection, &mut out).await.unwrap();
    String::from_utf8(out).unwrap()
}

fn check(text: &str) -> Report {
    verify_export(Cursor::new(text)).unwrap()
}

#[tokio::test]
async fn i6_whatever_is_changed_in_an_exported_log_is_found() {
    let app = traded().await;
    let whole = file(&app, Selection::Everything).await;

    let sound = check(&whole);
    assert!(sound.is_sound(), "{:?}", sound.findings);
    assert_eq!((sound.orgs, sound.given), (2, 0));
    assert_eq!(usize::try_from(sound.events).unwrap(), whole.lines().count() - 2);

    let lines: Vec<&str> = whole.lines().collect();
    for gone in 1..lines.len() {
        let rest: Vec<&str> =
            (0..lines.len()).filter(|place| *place != gone).map(|place| lines[place]).collect();
        assert!(!check(&rest.join("\n")).is_sound(), "line {gone} may be missing");
        let mut doubled = lines.clone();
        doubled.insert(gone, lines[gone]);
        assert!(!check(&doubled.join("\n")).is_sound(), "line {gone} may stand twice");
    }
    for (place, line) in lines.iter().enumerate() {
        // Digits, wherever they stand: amounts, positions, times, ids and hashes.
        let digits = line.char_indices().filter(|(_, letter)| letter.is_ascii_digit());
        for (at, digit) in digits.skip(place % DIGITS_STEP).step_by(DIGITS_STEP) {
            let other = if digit == '7' { "8" } else { "7" };
            let mut changed = lines.clone();
            let text = format!("{}{other}{}", &line[..at], &line[at + 1..]);
            changed[place] = &text;
            let found = verify_export(Cursor::new(changed.join("\n")));
            assert!(found.is_err() || found.is_ok_and(|report| !report.is_sound()), "{text} is not {line}");
        }
    }
    app.finish().await;
}

#[tokio::test]
async fn i6_no_character_of_an_exported_log_may_be_another() {
    let clock = Clock::manual(Timestamp(1_793_491_200_000_000), 1);
    let database = TestDatabase::new().await;
    let Database { log, projections, .. } = database.open(&clock).await;
    let ledger = Ledger::open(log, projections, clock, MemoryLimits::default()).await.unwrap();
    let terms = LotTerms {
        lot: LotId(Uuid::from_u128(1)),
        credits: Credits::from_whole(9),
        priority: 0,
        expires_at: None,
    };
    let (slug, time_zone, overdraft_limit) = ("acme".into(), "UTC".into(), Credits::ZERO);
    for command in [
        OrgCommand::OpenOrg { slug, time_zone, overdraft_limit },
        OrgCommand::Grant { terms, kind: GrantKind::Goodwill, note: Some("a \"note\"".into()) },
    ] {
        let asked = Submission::by_tollgate(OrgId(Uuid::from_u128(0xACE)), command);
        ledger.submit(asked).await.unwrap();
    }
    let mut out = Vec::new();
    export(&**ledger.log(), Selection::Everything, &mut out).await.unwrap();
    let whole = String::from_utf8(out).unwrap();
    assert!(check(&whole).is_sound());

    let mut tried = 0;
    for (at, letter) in whole.trim_end().char_indices() {
        let other = other(letter);
        let changed = format!("{}{other}{}", &whole[..at], &whole[at + letter.len_utf8()..]);
        let found = verify_export(Cursor::new(&changed)).is_ok_and(|report| report.is_sound());
        assert!(!found, "{other} instead of {letter} at {at}: {}", &changed[at.saturating_sub(60)..at + 20]);
        tried += 1;
    }
    assert!(tried > 1_000, "{tried}");
}

#[tokio::test]
async fn an_org_or_a_range_is_checked_as_far_as_its_file_reaches() {
    let app = traded().await;
    let org = app.operator().get("/api/v1/orgs/acme").await.expect(StatusCode::OK);
    let org: OrgId = org["id"].as_str().unwrap().parse().unwrap();
    let shard = app.ledger().shard_of(org);

    let of_org = check(&file(&app, Selection::Org(org)).await);
    let range = check(&file(&app, Selection::Range { shard, from: 3, to: 9 }).await);
    let unknown =
        export(&**app.ledger().log(), Selection::Org(OrgId(uuid::Uuid::from_u128(7))), &mut Vec::new()).await;

    assert!(of_org.is_sound() && range.is_sound(), "{of_org:?} {range:?}");
    assert_eq!((of_org.orgs, of_org.given), (1, 0));
    // What those events follow is not in the file.
    assert!(range.given > 0 && range.events > range.given, "{range:?}");
    assert!(unknown.is_err());
    app.finish().await;
}

#[tokio::test]
async fn a_log_is_exported_beside_the_server_that_writes_it() {
    let app = traded().await;
    let org = app.operator().get("/api/v1/orgs/acme").await.expect(StatusCode::OK);
    let org: OrgId = org["id"].as_str().unwrap().parse().unwrap();

    for (part, selection) in [(&[][..], Selection::Everything), (&["--org", "acme"], Selection::Org(org))] {
        let run =
            tollgate(&["export", "log", "--database-url", &app.database.url]).args(part).output().unwrap();
        assert!(run.status.success(), "{run:?}");
        assert_eq!(String::from_utf8_lossy(&run.stdout), file(&app, selection).await);
        app.funded(&format!("org-{}", part.len()), "1").await;
    }
    app.finish().await;
}

#[tokio::test]
async fn i6_the_event_that_a_range_follows_is_found_however_far_back_it_stands() {
    let app = TestApp::start().await;
    let acme = app.funded("acme", "10").await;
    let shard = app.ledger().shard_of(known_org(app.ledger(), "acme").unwrap());
    let other = (0..).map(|n| OrgId(Uuid::from_u128(n + 1))).find(|org| app.ledger().shard_of(*org) == shard);
    let other = other.unwrap();
    let open =
        OrgCommand::OpenOrg { slug: "b".into(), time_zone: "UTC".into(), overdraft_limit: Credits::ZERO };
    app.ledger().submit(Submission::by_tollgate(other, open)).await.unwrap();
    for first in [0, 1_050] {
        let grants = (first..first + 1_050).map(|n| {
            let lot = LotId(Uuid::from_u128(n));
            let terms = LotTerms { lot, credits: Credits::from_whole(1), priority: 0, expires_at: None };
            let grant = OrgCommand::Grant { terms, kind: GrantKind::Goodwill, note: None };
            app.ledger().submit(Submission::by_tollgate(other, grant))
        });
        futures_util::future::try_join_all(grants).await.unwrap();
    }
    let end = app.ledger().log().head(shard).await.unwrap().next_position;
    acme.post("/api/v1/orgs/acme/reservations", json!({ "credits": "4" })).await.expect(StatusCode::CREATED);

    let range = check(&file(&app, Selection::Range { shard, from: end, to: end }).await);

    assert!(range.is_sound() && range.given == 1, "{range:?}");
    app.finish().await;
}

#[tokio::test]
async fn what_only_reads_makes_no_tables() {
    needs_postgres!();
    let database = TestDatabase::postgres().await;
    for arguments in [
        &["export", "log", "--database-url", &database.url][..],
        &["rebuild", "all", "--database-url", &database.url],
        &["verify", &database.url],
    ] {
        let run = tollgate(arguments).output().unwrap();
        assert!(!run.status.success(), "{arguments:?}");
        assert!(String::from_utf8_lossy(&run.stderr).contains("does not exist"), "{run:?}");
    }
}

#[tokio::test]
async fn a_closed_pipe_ends_no_verify_and_an_unknown_projection_is_told_all_that_there_are() {
    let database = TestDatabase::new().await;
    drop(database.open(&Clock::system()).await);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);

    let verified = tollgate(&["verify", &database.url]).stdout(writer).output().unwrap();
    let unknown = tollgate(&["rebuild", "nonsense", "--database-url", &database.url]).output().unwrap();

    assert!(verified.status.success(), "{verified:?}");
    let said = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert!(View::ALL.iter().all(|view| said.contains(view.name())), "{said}");
}

#[tokio::test]
async fn i6_whatever_is_changed_in_an_exported_range_is_found() {
    let app = traded().await;
    let shard = app.ledger().shard_of(OrgId::SYSTEM);
    let end = app.ledger().log().head(shard).await.unwrap().next_position - 1;
    let range = file(&app, Selection::Range { shard, from: 3, to: end }).await;
    let sound = check(&range);
    assert!(sound.is_sound() && sound.given > 0, "{sound:?}");

    let lines: Vec<&str> = range.lines().collect();
    for (place, line) in lines.iter().enumerate().skip(1) {
        let digits = line.char_indices().filter(|(_, letter)| letter.is_ascii_digit());
        for (at, digit) in digits.skip(place % DIGITS_STEP).step_by(DIGITS_STEP) {
            let other = if digit == '7' { "8" } else { "7" };
            let mut changed = lines.clone();
            let text = format!("{}{other}{}", &line[..at], &line[at + 1..]);
            changed[place] = &text;
            assert!(!check(&changed.join("\n")).is_sound(), "{text} is not {line}");
        }
    }

    // The hash of the event before it can't be left out, but by a version that knew of none.
    let (given, rest) = lines[1].split_once(",\"previous_hash\"").unwrap();
    assert!(rest.len() < 70, "{rest}");
    let without = range.replacen(lines[1], &format!("{given}}}"), 1);
    assert!(!check(&without).is_sound());
    let mut older: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
    for line in &mut older {
        if let Some((rest, _)) = line.split_once(",\"previous_hash\"") {
            *line = format!("{rest}}}");
        }
    }
    let older = of_version(&older.join("\n"), 1);
    assert!(check(&older).is_sound());
    app.finish().await;
}

#[tokio::test]
async fn i6_no_character_of_the_first_line_of_a_part_may_be_another() {
    let app = traded().await;
    let org = known_org(app.ledger(), "acme").unwrap();
    let shard = app.ledger().shard_of(org);

    for selection in [Selection::Org(org), Selection::Range { shard, from: 3, to: 5 }] {
        let part = file(&app, selection).await;
        let (header, rest) = part.split_once('\n').unwrap();
        let older = header.replacen("tollgate-log-3", "tollgate-log-2", 1);
        let with = |at: usize, letter: char| {
            format!("{}{}{}", &header[..at], other(letter), &header[at + letter.len_utf8()..])
        };
        for changed in header.char_indices().map(|(at, letter)| with(at, letter)).chain([older]) {
            let found = verify_export(Cursor::new(format!("{changed}\n{rest}")));
            assert!(!found.is_ok_and(|report| report.is_sound()), "{changed} is not {header}");
        }

        // As it was written before, with what a part can't prove.
        let mut header: Value = serde_json::from_str(header).unwrap();
        header["heads"][0]["next_position"] = 9.into();
        header["heads"][0]["last_hash"] = "0".repeat(64).into();
        let older = check(&format!("{header}\n{rest}"));
        let is_told = older.unchecked.iter().any(|what| what.contains("where the shards ended"));
        assert!(older.is_sound() && is_told, "{older:?}");
    }
    app.finish().await;
}

#[test]
fn what_only_reads_makes_no_database_and_help_shows_no_password() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("typo.db");
    let url = format!("sqlite://{}", file.display());
    for arguments in [
        &["export", "log", "--database-url", &url][..],
        &["rebuild", "all", "--database-url", &url],
        &["verify", &url],
    ] {
        let run = tollgate(arguments).output().unwrap();
        assert!(!run.status.success(), "{arguments:?}");
        assert!(String::from_utf8_lossy(&run.stderr).contains("does not exist"), "{run:?}");
        assert!(!file.exists());
    }

    let secret = "pass-word-7";
    for arguments in
        [&["export", "log", "--help"][..], &["rebuild", "--help"], &["serve", "--help"], &["serve"]]
    {
        let mut command = tollgate(arguments);
        command.env("TOLLGATE_DATABASE_URL", format!("postgres://u:{secret}@127.0.0.1:1/db"));
        command.env("TOLLGATE_PROVIDERS", format!("[{{\"api_key\":\"{secret}\"}}]"));
        command.env("TOLLGATE_OPERATOR_KEY", format!("{secret}{secret}{secret}"));
        let run = command.output().unwrap();
        let said = String::from_utf8_lossy(&[run.stdout, run.stderr].concat()).into_owned();
        assert!(!said.is_empty() && !said.contains(secret), "{arguments:?}: {said}");
    }
}

#[tokio::test]
async fn i6_a_file_that_holds_something_else_than_it_names_is_found() {
    let app = traded().await;
    let org = app.operator().get("/api/v1/orgs/acme").await.expect(StatusCode::OK);
    let org: OrgId = org["id"].as_str().unwrap().parse().unwrap();
    let shard = app.ledger().shard_of(org);
    let of_org = file(&app, Selection::Org(org)).await;
    let range = file(&app, Selection::Range { shard, from: 1, to: 3 }).await;
    let beyond = file(&app, Selection::Range { shard, from: 0, to: 9_999 }).await;
    let first = |text: &str, from: &str, to: &str| {
        let (header, rest) = text.split_once('\n').unwrap();
        assert!(header.contains(from), "{header}");
        format!("{}\n{rest}", header.replace(from, to))
    };

    assert!(check(&beyond).is_sound());
    for changed in [
        first(&of_org, &org.to_string(), &OrgId(uuid::Uuid::from_u128(7)).to_string()),
        first(&range, &format!("\"shard\":{shard},\"from\""), "\"shard\":99,\"from\""),
        first(&range, "\"to\":3", "\"to\":4"),
        without_last(&range),
    ] {
        assert!(!check(&changed).is_sound(), "{}", changed.lines().next().unwrap());
    }
    app.finish().await;
}

/// One event fewer, which the last line does not betray.
fn without_last(text: &str) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.truncate(lines.len() - 2);
    let footer = format!("{{\"events\":{}}}", lines.len() - 1);
    format!("{}\n{footer}\n", lines.join("\n"))
}

/// A part as an older version wrote it, whose first line does not say how its events end.
fn of_version(text: &str, version: u32) -> String {
    let (header, rest) = text.split_once('\n').unwrap();
    let mut header: Value = serde_json::from_str(header).unwrap();
    header["format"] = format!("tollgate-log-{version}").into();
    assert!(header.as_object_mut().unwrap().remove("end").is_some(), "{header}");
    format!("{header}\n{rest}")
}

/// The last event said otherwise and hashed anew, as whoever wants to pass it off as the log's would.
fn forged(text: &str) -> String {
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let at = lines.len() - 2;
    let (events, rest) = lines.split_at_mut(at);
    let last = &mut rest[0];
    let previous = events.iter().rfind(|event| event["org"] == last["org"]);
    let previous = previous.map_or(&last["previous_hash"], |event| &event["hash"]);
    let mut hash = [0; 32];
    hex::decode_to_slice(previous.as_str().unwrap(), &mut hash).unwrap();
    let number = |name: &str| last[name].as_i64().unwrap();
    let text_of = |name: &str| last[name].as_str().unwrap();
    let org: OrgId = text_of("org").parse().unwrap();
    let event: EventId = serde_json::from_value(last["event"].clone()).unwrap();
    let fields = Fields {
        shard: number("shard") as i32,
        position: number("position"),
        org_id: org.0.as_bytes(),
        org_version: number("org_version"),
        event_id: event.0.as_bytes(),
        kind: text_of("kind"),
        schema_version: number("schema_version") as i32,
        recorded_at: number("recorded_at") + 1,
        payload: text_of("payload").as_bytes(),
    };
    let (recorded_at, hash) = (fields.recorded_at, hex::encode(event_hash(&hash, &fields)));
    last["recorded_at"] = recorded_at.into();
    last["hash"] = hash.into();
    let header = text.lines().next().unwrap();
    let rest: Vec<String> = lines[1..].iter().map(Value::to_string).collect();
    format!("{header}\n{}\n", rest.join("\n"))
}

#[tokio::test]
async fn i6_other_events_or_fewer_under_the_first_line_of_a_part_are_found() {
    let app = traded().await;
    let org = app.operator().get("/api/v1/orgs/acme").await.expect(StatusCode::OK);
    let org: OrgId = org["id"].as_str().unwrap().parse().unwrap();
    let shard = app.ledger().shard_of(org);

    for selection in [Selection::Org(org), Selection::Range { shard, from: 3, to: 5 }] {
        let part = file(&app, selection.clone()).await;
        let sound = check(&part);
        assert!(sound.is_sound() && sound.unchecked.len() == 1, "{sound:?}");
        for changed in [forged(&part), without_last(&part)] {
            let found = check(&changed);
            let is_told = found.findings.iter().any(|finding| finding.what.contains("commits to"));
            assert!(is_told, "{selection:?}: {found:?}");

            let older = check(&of_version(&changed, 2));
            let is_told = older.unchecked.iter().any(|what| what.contains("does not commit"));
            assert!(is_told, "{selection:?}: {older:?}");
        }
        assert!(check(&of_version(&part, 2)).is_sound());
        assert!(!check(&of_version(&part, 3)).is_sound(), "{selection:?}");
    }
    app.finish().await;
}

#[tokio::test]
async fn positions_without_events_are_no_export() {
    let app = traded().await;
    let shard = app.ledger().shard_of(OrgId::SYSTEM);

    for (from, to) in [(1_000, 900), (1_000, i64::MAX), (4, 3)] {
        let mut out = Vec::new();
        let refused =
            export(&**app.ledger().log(), Selection::Range { shard, from, to }, &mut out).await.unwrap_err();
        assert!(matches!(refused, ExportError::NoEvents { .. }), "{refused}");
        assert!(out.is_empty(), "{from} to {to}");
    }
    // Older versions wrote them.
    let heads = json!([{ "shard": 0, "next_position": 9, "last_hash": "0".repeat(64) }]);
    let selection = json!({ "range": { "shard": 0, "from": 1_000, "to": 8 } });
    let header = json!({ "format": "tollgate-log-2", "selection": selection, "heads": heads });
    assert!(!check(&format!("{header}\n{{\"events\":0}}\n")).is_sound());
    app.finish().await;
}

#[tokio::test]
async fn i6_an_export_passes_from_hand_to_hand_by_the_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let app = traded().await;
    std::fs::write(folder.path().join("log.jsonl"), file(&app, Selection::Everything).await).unwrap();
    app.finish().await;

    let verify = |file: &str| tollgate(&["verify"]).arg(folder.path().join(file)).output().unwrap();
    let sound = verify("log.jsonl");
    std::fs::write(folder.path().join("not.jsonl"), "{\"format\":\"another\"}\n").unwrap();
    let other = verify("not.jsonl");

    assert!(sound.status.success(), "{sound:?}");
    assert!(String::from_utf8_lossy(&sound.stdout).contains("sound"));
    assert!(!other.status.success());
    assert!(String::from_utf8_lossy(&other.stderr).contains("no export"), "{other:?}");
}

/// Every file of a folder with its bytes.
fn files(folder: &Path) -> BTreeMap<OsString, Vec<u8>> {
    let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries.map(|entry| (entry.file_name(), std::fs::read(entry.path()).unwrap())).collect()
}

#[tokio::test]
async fn i5_what_is_empty_cut_or_something_else_is_no_sound_ledger_and_stays_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let app = traded().await;
    let exported = file(&app, Selection::Everything).await.into_bytes();
    app.finish().await;
    let database = folder.path().join("whole.db");
    let opened = Database::open_file(&database).await.unwrap();
    opened.log.close().await.unwrap();
    drop(opened);
    let database = std::fs::read(database).unwrap();
    assert!(exported.len() > 4_095 && database.len() > 4_096);

    let cut = |bytes: &[u8], length: usize| bytes[..length].to_vec();
    let lengths = [0, 1, 511, 512, 4_000, 4_095];
    let exports = lengths.map(|length| cut(&exported, length));
    let databases = lengths.into_iter().chain([4_096]).map(|length| cut(&database, length));
    let others = [b"\n".to_vec(), b" \n\n".to_vec(), vec![7; 8_192], b"PGDMP".to_vec()];
    for bytes in exports.into_iter().chain(databases).chain(others) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("kept");
        std::fs::write(&file, &bytes).unwrap();
        let before = files(folder.path());
        let url = format!("sqlite://{}", file.display());
        for arguments in [
            &["verify", file.to_str().unwrap()][..],
            &["verify", &url],
            &["export", "log", "--database-url", &url],
            &["rebuild", "all", "--database-url", &url],
        ] {
            let run = tollgate(arguments).output().unwrap();
            assert!(!run.status.success(), "{} bytes: {arguments:?}: {run:?}", bytes.len());
            assert_eq!(files(folder.path()), before, "{} bytes: {arguments:?}", bytes.len());
        }
    }
}
