//! Recorded traffic for tests: real exchanges with providers, kept outside the repository for their size.

use std::path::PathBuf;

use serde_json::Value;

/// The exchanges of one file; none where the folder is absent, and then the test says that it was skipped.
pub fn exchanges(file: &str) -> Vec<Value> {
    let shared = std::env::var("TOLLGATE_SHARED")
        .map(PathBuf::from)
        .unwrap_or_else(|_| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared")));
    let path = shared.join("wire").join(file);
    match std::fs::read_to_string(&path) {
        Ok(lines) => lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect(),
        Err(_) => {
            println!("skipped: no recordings at {}; set TOLLGATE_SHARED to their folder", path.display());
            Vec::new()
        }
    }
}
