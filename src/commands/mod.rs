//! What `tollgate` does besides serving: one command a file.

pub mod complexity;
pub mod export;
pub mod prices;
pub mod rebuild;
pub mod verify;

mod atomic_file;

use std::io::Write;

/// Writes to standard output. A pipe that its reader has closed is no reason to stop: the work goes on.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}
