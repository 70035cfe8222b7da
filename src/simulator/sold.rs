//! The simulator's own book: what it sold to whom, so that a test can hold a gateway's settles against it.

use super::weather::WeatherKind;
use crate::domain::usage::Usage;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Everything sold so far, as `GET /simulator/sold` answers it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Sold {
    pub requests: u64,
    /// Summed by the model that answered.
    pub models: BTreeMap<String, Usage>,
    pub rows: Vec<SoldRow>,
}

/// One request. Usage is what was truly generated, whatever absurdity the weather made the answer report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SoldRow {
    pub number: u64,
    /// As the answer's `x-request-id` (OpenAI) or `request-id` (Anthropic) said.
    pub request_id: String,
    pub endpoint: &'static str,
    pub model: String,
    pub stream: bool,
    pub status: u16,
    pub weather: Option<WeatherKind>,
    /// The last byte was handed over; false where a connection was cut or the client left.
    pub complete: bool,
    pub usage: Usage,
}

#[derive(Clone, Debug, Default)]
pub struct SoldBook(Arc<Mutex<Sold>>);

impl SoldBook {
    pub fn read(&self) -> Sold {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn write(&self, row: SoldRow) {
        let mut sold = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sold.requests += 1;
        // A failure sold nothing, and leaves no line of zeros among the models.
        if row.usage != Usage::default() {
            add(sold.models.entry(row.model.clone()).or_default(), &row.usage);
        }
        sold.rows.push(row);
    }
}

/// A sale under way; it is in the book once its last byte is out, or when its connection is gone.
#[derive(Debug)]
pub struct Sale {
    book: SoldBook,
    row: Option<SoldRow>,
}

impl Sale {
    /// Without a row nothing is sold: counting tokens is free.
    pub fn open(book: &SoldBook, row: Option<SoldRow>) -> Sale {
        Sale { book: book.clone(), row }
    }

    /// A stream sells its output as it is delivered.
    pub fn deliver(&mut self, output_tokens: u64) {
        if let Some(row) = &mut self.row {
            row.usage.output_tokens += output_tokens;
        }
    }

    pub fn close(&mut self, complete: bool) {
        if let Some(row) = self.row.take() {
            self.book.write(SoldRow { complete, ..row });
        }
    }
}

impl Drop for Sale {
    fn drop(&mut self) {
        self.close(false);
    }
}

fn add(sum: &mut Usage, more: &Usage) {
    sum.input_tokens += more.input_tokens;
    sum.cache_read_tokens += more.cache_read_tokens;
    sum.cache_write_5m_tokens += more.cache_write_5m_tokens;
    sum.output_tokens += more.output_tokens;
    sum.reasoning_tokens += more.reasoning_tokens;
}
