//! Pure views: folds of events that a report is made of.

pub mod spend;
