//! SQLite on a disk that is full, as the real server meets it: the log, its write-ahead log, the index of that and the
//! projections are all on it, whatever store the stories run on.

use reqwest::StatusCode;
use serde_json::json;
use tollgate::clock::Clock;

use crate::database::SmallDisk;
use crate::process::{Caller, Server, serve, tollgate};
use crate::support::{OPERATOR, client};
use crate::waiting::until;

fn start(disk: &SmallDisk, url: &str) -> Result<Server, Vec<String>> {
    Server::try_of(disk.let_in(&serve(url)))
}

async fn hold(server: &Server) -> StatusCode {
    let request =
        client().post(format!("{}/api/v1/orgs/acme/reservations", server.url)).bearer_auth(OPERATOR);
    let key = Clock::system().uuid().to_string();
    let hold = json!({ "credits": "0.01", "ttl_seconds": 604_800 });
    request.header("idempotency-key", key).json(&hold).send().await.unwrap().status()
}

/// Holds until there is no room for another; how many there were.
async fn hold_until_full(server: &Server) -> u64 {
    let mut held = 0;
    loop {
        match hold(server).await {
            StatusCode::CREATED => held += 1,
            refused => {
                assert_eq!(refused, StatusCode::SERVICE_UNAVAILABLE);
                return held;
            }
        }
    }
}

async fn holds(server: &Server) -> u64 {
    let balance = Caller::operator(server).balance().await;
    let held: f64 = balance["held"].as_str().unwrap().parse().unwrap();
    (held * 100.0).round() as u64
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i5_a_full_disk_of_sqlite_refuses_writes_keeps_reads_and_recovers() {
    let Some(mut disk) = SmallDisk::mounted() else { return };
    let url = format!("sqlite://{}/tollgate.db", disk.folder);
    let server = start(&disk, &url).unwrap();
    Caller::operator(&server).funded("gateway").await;
    assert_eq!(hold(&server).await, StatusCode::CREATED);

    disk.order("fill");
    let mut held = 1 + hold_until_full(&server).await;
    let still_full = hold(&server).await;
    let ready = client().get(format!("{}/readyz", server.url)).send().await.unwrap().status();
    let read = holds(&server).await;
    disk.order("free");
    until("writes resume", async || hold(&server).await == StatusCode::CREATED).await;
    held += 1;

    assert_eq!(still_full, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(ready, StatusCode::SERVICE_UNAVAILABLE, "no balancer sends writes here");
    assert_eq!(read, held - 1);
    assert_eq!(holds(&server).await, held);

    // The next process finds it full.
    disk.order("fill");
    held += hold_until_full(&server).await;
    server.kill();
    drop(server);
    let started = start(&disk, &url);
    match &started {
        Ok(server) => {
            println!("it starts");
            assert_eq!(holds(server).await, held);
            hold_until_full(server).await;
            held = holds(server).await;
        }
        Err(said) => {
            println!("it does not start: {said:?}");
            assert!(said.iter().any(|line| line.contains("the disk is full")), "{said:?}");
        }
    }
    disk.order("free");
    let server = started.or_else(|_| start(&disk, &url)).unwrap();
    until("writes resume", async || hold(&server).await == StatusCode::CREATED).await;

    assert_eq!(holds(&server).await, held + 1);
    server.kill();
    drop(server);
    assert!(disk.let_in(&tollgate(&["verify", &url])).status().unwrap().success());
}
