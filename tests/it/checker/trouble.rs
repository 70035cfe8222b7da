//! What goes wrong between nodes and their database while clients are at work: connections are cut, answers are lost after
//! the database has acted, backends are ended, and the server is stopped as by a power cut and started again.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use sqlx::{Connection, PgConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::{Mutex, Notify};

use crate::database::{Cluster, TestDatabase};

/// A cluster of its own, reached through a line that can be disturbed.
pub struct Trouble {
    cluster: Mutex<Cluster>,
    line: Arc<Line>,
    caused: AtomicU64,
}

#[derive(Default)]
struct Line {
    /// What the database says is swallowed, and the connection closed.
    is_mute: AtomicBool,
    cut: Notify,
}

impl Trouble {
    pub async fn brewing() -> (Arc<Trouble>, Arc<TestDatabase>) {
        let cluster = Cluster::start();
        cluster.create_database("troubled").await;
        let line = Arc::new(Line::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let socket = PathBuf::from(&cluster.folder).join(".s.PGSQL.5432");
        tokio::spawn(line.clone().serve(listener, socket));
        let url = format!("postgres://tollgate@127.0.0.1:{port}/troubled?sslmode=disable");
        let trouble = Trouble { cluster: Mutex::new(cluster), line, caused: AtomicU64::new(0) };
        (Arc::new(trouble), Arc::new(TestDatabase::at(url)))
    }

    /// The next kind, in turn.
    pub async fn strike(&self) {
        let mut cluster = self.cluster.lock().await;
        match self.caused.fetch_add(1, Ordering::Relaxed) % 8 {
            0 | 4 => self.line.cut.notify_waiters(),
            1 | 3 | 5 => self.line.is_mute.store(true, Ordering::SeqCst),
            2 | 6 => {
                let mut admin = PgConnection::connect(&cluster.url("postgres")).await.unwrap();
                let end = "select pg_terminate_backend(pid) from pg_stat_activity where datname = 'troubled'";
                sqlx::query(end).execute(&mut admin).await.unwrap();
            }
            _ => {
                cluster.order("stop");
                cluster.order("start");
            }
        }
    }

    pub fn caused(&self) -> u64 {
        self.caused.load(Ordering::Relaxed)
    }
}

impl Line {
    async fn serve(self: Arc<Line>, listener: TcpListener, socket: PathBuf) {
        while let Ok((client, _)) = listener.accept().await {
            let (line, socket) = (self.clone(), socket.clone());
            tokio::spawn(async move {
                if let Ok(server) = UnixStream::connect(socket).await {
                    tokio::select! {
                        () = line.cut.notified() => {}
                        () = line.carry(client, server) => {}
                    }
                }
            });
        }
    }

    /// Returns once either side has closed, or an answer was swallowed.
    async fn carry(&self, client: TcpStream, server: UnixStream) {
        client.set_nodelay(true).unwrap();
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        let there = async {
            let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
        };
        let back = async {
            let mut bytes = vec![0; 64 << 10];
            while let Ok(count @ 1..) = from_server.read(&mut bytes).await {
                // One answer each time.
                if self.is_mute.swap(false, Ordering::SeqCst)
                    || to_client.write_all(&bytes[..count]).await.is_err()
                {
                    return;
                }
            }
        };
        tokio::select! {
            () = there => {}
            () = back => {}
        }
    }
}
