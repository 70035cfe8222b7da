//! Pages of lists: `after` is the cursor that the page before gave as `next`.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::http::Problem;

const PAGE_DEFAULT: usize = 100;
const PAGE_MAX: usize = 1_000;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// The `next` of the page before; absent for the first page.
    pub after: Option<String>,
    /// Rows of a page: 1 to 1000, 100 when absent.
    #[param(minimum = 1, maximum = 1_000)]
    pub limit: Option<usize>,
}

/// One page of a list.
#[derive(Serialize, ToSchema)]
pub struct Page<T> {
    pub data: Vec<T>,
    /// The cursor of the next page; null on the last one.
    pub next: Option<String>,
}

impl PageQuery {
    pub fn limit(&self) -> Result<usize, Problem> {
        let limit = self.limit.unwrap_or(PAGE_DEFAULT);
        let fits = (1..=PAGE_MAX).contains(&limit);
        fits.then_some(limit).ok_or_else(|| Problem::malformed("`limit` must be between 1 and 1000"))
    }

    /// Where the page begins; `None` for the first one.
    pub fn after<C: FromStr>(&self) -> Result<Option<C>, Problem> {
        let after = self.after.as_deref().map(str::parse).transpose();
        after.map_err(|_| Problem::malformed("`after` must be the `next` value of the previous page"))
    }

    /// A page of rows that have a cursor each and come in its order. A cursor that is none is not the end of the list.
    pub fn of<C, T>(&self, rows: impl Iterator<Item = (C, T)>) -> Result<Page<T>, Problem>
    where
        C: FromStr + Ord + ToString,
    {
        let (limit, after) = (self.limit()?, self.after::<C>()?);
        let rows = rows.filter(|(cursor, _)| after.as_ref().is_none_or(|after| cursor > after));
        let rows = rows.take(limit + 1).map(|(cursor, row)| (cursor.to_string(), row)).collect();
        Ok(Page::cut(rows, limit))
    }
}

impl<T> Page<T> {
    /// The page of these rows with their cursors, where one row more than the page shows that there is a next one.
    pub fn cut(mut rows: Vec<(String, T)>, limit: usize) -> Page<T> {
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next = rows.last().filter(|_| more).map(|(cursor, _)| cursor.clone());
        Page { data: rows.into_iter().map(|(_, row)| row).collect(), next }
    }
}
