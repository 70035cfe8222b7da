//! The simulator's own book: what it sold to whom, so that a test can hold a gateway's settles against it.

use super::weather::WeatherKind;
use crate::domain::usage::Usage;
use parking_lot::Mutex;
use serde::Serialize;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Rows that are kept: some fifty megabytes, and more than any test looks at.
const ROWS_MAX: usize = 200_000;
/// A client may send any text as a model.
const NAME_CHARACTERS_MAX: usize = 100;

/// Everything sold so far, as `GET /simulator/sold` answers it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Sold {
    pub requests: u64,
    /// Summed by the model that answered, over all requests.
    pub models: BTreeMap<String, Usage>,
    /// What the latest requests used.
    pub rows: Vec<SoldRow>,
    /// Rows of earlier requests, which stand in the sums alone.
    pub rows_dropped: u64,
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
pub struct SoldBook(Arc<Mutex<Book>>);

#[derive(Debug, Default)]
struct Book {
    requests: u64,
    models: BTreeMap<String, Usage>,
    rows: VecDeque<SoldRow>,
}

impl SoldBook {
    pub fn read(&self) -> Sold {
        let book = self.0.lock();
        Sold {
            requests: book.requests,
            models: book.models.clone(),
            rows: book.rows.iter().cloned().collect(),
            rows_dropped: book.requests - book.rows.len() as u64,
        }
    }

    fn write(&self, mut row: SoldRow) {
        row.model = row.model.chars().take(NAME_CHARACTERS_MAX).collect();
        let mut sold = self.0.lock();
        sold.requests += 1;
        // A failure sold nothing, and leaves no line of zeros among the models.
        if row.usage != Usage::default() {
            add(sold.models.entry(row.model.clone()).or_default(), &row.usage);
        }
        if sold.rows.len() == ROWS_MAX {
            sold.rows.pop_front();
        }
        sold.rows.push_back(row);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sums_go_on_when_rows_make_place_for_later_ones() {
        let book = SoldBook::default();
        let sales = ROWS_MAX as u64 + 3;
        for number in 1..=sales {
            book.write(SoldRow {
                number,
                request_id: String::new(),
                endpoint: "/v1/chat/completions",
                model: "long ".repeat(1_000),
                stream: false,
                status: 200,
                weather: None,
                complete: true,
                usage: Usage { output_tokens: 2, ..Usage::default() },
            });
        }

        let sold = book.read();

        assert_eq!((sold.requests, sold.rows.len(), sold.rows_dropped), (sales, ROWS_MAX, 3));
        assert_eq!((sold.rows[0].number, sold.rows[0].model.len()), (4, NAME_CHARACTERS_MAX));
        assert_eq!(sold.models.values().map(|usage| usage.output_tokens).sum::<u64>(), 2 * sales);
    }
}
