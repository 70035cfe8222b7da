//! What is committed under `schemas/` is what the code says. `TOLLGATE_BLESS=1 cargo test --test it` writes it.

use std::path::{Path, PathBuf};

use serde_json::Value;

/// Compares a committed file with what the code makes; writes it when told to.
pub fn current(file: &str, made: &Value) {
    let path = schemas().join(file);
    let text = format!("{}\n", serde_json::to_string_pretty(made).unwrap());
    if std::env::var_os("TOLLGATE_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &text).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == text,
        "schemas/{file} is not what the code says; look at the difference that \
         `TOLLGATE_BLESS=1 cargo test --test it` makes, and commit it"
    );
}

fn schemas() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas")
}
