//! What `tollgate` does beside serving: one command a file.

pub mod complexity;
pub mod export;
pub mod prices;
pub mod rebuild;
pub mod verify;
