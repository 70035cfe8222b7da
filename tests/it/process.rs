//! The real server, as a process of its own: what happens to a process happens to it.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;

use crate::support::OPERATOR;

/// A running `tollgate serve`; gone with this value.
pub struct Server {
    process: Mutex<Child>,
    pub url: String,
}

impl Server {
    /// Returns once it listens, on a port of its own choice.
    pub fn start(database: &str) -> Server {
        Server::of(serve(database))
    }

    pub fn of(mut command: Command) -> Server {
        let mut process = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines().map_while(Result::ok);
        let mut said = Vec::new();
        let address = lines.by_ref().find_map(|line| {
            let address = line.split_once("listening address=").map(|(_, rest)| rest.to_owned());
            said.push(line);
            address?.split_whitespace().next().map(str::to_owned)
        });
        let address = address.unwrap_or_else(|| panic!("the server does not listen: {said:?}"));
        // What it says later must not fill the pipe, and stands beside the test's own words where that fails.
        std::thread::spawn(move || {
            lines
                .filter(|line| line.contains("WARN") || line.contains("ERROR"))
                .for_each(|line| println!("{line}"));
        });
        Server { process: Mutex::new(process), url: format!("http://{address}") }
    }

    /// SIGKILL: nothing is flushed, nothing is said.
    pub fn kill(&self) {
        let mut process = self.process.lock().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }
}

impl Server {
    /// SIGTERM.
    pub fn terminate(&self) {
        let id = self.process.lock().unwrap().id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    }

    /// Until it has ended.
    pub fn wait(&self) -> ExitStatus {
        self.process.lock().unwrap().wait().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The command that starts one.
pub fn serve(database: &str) -> Command {
    let mut command = tollgate(&["serve", "--listen", "127.0.0.1:0", "--database-url", database]);
    command.env("TOLLGATE_OPERATOR_KEY", OPERATOR).env("TOLLGATE_LOG", "tollgate=info").env("NO_COLOR", "1");
    command.stdout(Stdio::null());
    command
}

pub fn tollgate(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.args(arguments);
    command
}

/// Whether `tollgate verify` finds the log sound.
pub fn is_sound(database: &str) -> bool {
    let verified = tollgate(&["verify", database]).output().unwrap();
    println!("{}", String::from_utf8_lossy(&verified.stdout));
    verified.status.success()
}
