//! `tollgate demo` leaves nothing behind, however it ends.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::process::tollgate;

fn demo(temporary: &Path, listen: &str) -> Command {
    let mut command = tollgate(&["demo", "--json", "--listen", listen]);
    command.env("TMPDIR", temporary);
    // A proxy that answers nobody: what stands on this machine is reached without.
    for name in ["http_proxy", "HTTP_PROXY", "ALL_PROXY"] {
        command.env(name, "http://127.0.0.1:1");
    }
    command
}

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).unwrap().next().is_none()
}

#[test]
fn an_address_that_is_taken_leaves_no_directory() {
    let temporary = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();

    let ended = demo(temporary.path(), &taken.local_addr().unwrap().to_string()).output().unwrap();

    assert!(!ended.status.success());
    assert!(String::from_utf8_lossy(&ended.stderr).contains("can't listen"), "{ended:?}");
    assert!(is_empty(temporary.path()));
}

#[test]
fn an_interrupt_within_the_replay_ends_it_and_leaves_no_directory() {
    let temporary = tempfile::tempdir().unwrap();
    let mut command = demo(temporary.path(), "127.0.0.1:0");
    let mut process = command.arg("--once").stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut first).unwrap();

    assert!(first.contains("inference_key"), "{first}");
    assert!(!is_empty(temporary.path()));
    assert!(Command::new("kill").args(["-INT", &process.id().to_string()]).status().unwrap().success());
    let status = process.wait().unwrap();

    assert!(!status.success(), "the books were not checked");
    assert!(is_empty(temporary.path()));
}

#[test]
fn the_replay_is_shown_to_its_end_and_the_books_balance() {
    let temporary = tempfile::tempdir().unwrap();
    let data = tempfile::tempdir().unwrap();
    // One before it was cut off in its replay, and left holds.
    let mut before = demo(temporary.path(), "127.0.0.1:0");
    before.arg("--data").arg(data.path()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut before = before.spawn().unwrap();
    let mut first = String::new();
    BufReader::new(before.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert!(Command::new("kill").args(["-INT", &before.id().to_string()]).status().unwrap().success());
    before.wait().unwrap();

    let shown =
        demo(temporary.path(), "127.0.0.1:0").arg("--once").arg("--data").arg(data.path()).output().unwrap();

    let said = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.status.success(), "{shown:?}");
    for part in [
        "Replayed: ",
        "\nacme\n",
        "\ncorner-shop\n",
        "  = available ",
        "refused for want of credits",
        "\nThe books balance to the nanocredit.\n",
    ] {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
    assert!(is_empty(temporary.path()));
    // The file that it was told to keep is the whole ledger.
    let kept = data.path().join("copy.db");
    std::fs::copy(data.path().join("tollgate.db"), &kept).unwrap();
    let verified = tollgate(&["verify"]).arg(&kept).output().unwrap();
    assert!(verified.status.success() && !verified.stdout.starts_with(b"0 events"), "{verified:?}");
}
