//! Rates that nodes share: one row each, moved by compare-and-set.

use async_trait::async_trait;
use sqlx::Row;

use super::clock::now;
use super::error::store_error;
use super::{PostgresStore, fetch, fetch_one};
use crate::domain::time::Timestamp;
use crate::store::{MovedRate, RateId, RateRow, Rates, StoreError};

#[async_trait]
impl Rates for PostgresStore {
    async fn rate(&self, shard: i32, id: &RateId, now: Timestamp) -> Result<RateRow, StoreError> {
        let seen = sqlx::query(concat!(
            "select coalesce($3, ",
            now!(),
            ") as now, \
                (select full_at from shared_rates where shard = $1 and rate_id = $2) as full_at, \
                (select moved_at from shared_rates where shard = $1 and rate_id = $2) as moved_at",
        ))
        .bind(shard)
        .bind(&id[..])
        .bind(self.moved_by_hand(now));
        let row = fetch_one(&self.pool, seen).await?;
        let read = || -> Result<RateRow, sqlx::Error> {
            let times: [Option<i64>; 2] = [row.try_get("full_at")?, row.try_get("moved_at")?];
            let stands = match times.map(|time| time.map(Timestamp)) {
                [Some(full_at), Some(moved_at)] => Some(MovedRate { full_at, moved_at }),
                _ => None,
            };
            Ok(RateRow { stands, now: Timestamp(row.try_get("now")?) })
        };
        read().map_err(store_error)
    }

    async fn move_rate(
        &self,
        shard: i32,
        id: &RateId,
        from: Option<Timestamp>,
        to: MovedRate,
    ) -> Result<bool, StoreError> {
        // A row that was forgotten in between was full, as one that nobody has made yet is.
        let moved = sqlx::query(
            "insert into shared_rates as rate (shard, rate_id, full_at, moved_at) values ($1, $2, $3, $5) \
             on conflict (shard, rate_id) do update set full_at = excluded.full_at, moved_at = excluded.moved_at \
             where rate.full_at = $4 returning shard",
        )
        .bind(shard)
        .bind(&id[..])
        .bind(to.full_at.0)
        .bind(from.map(|from| from.0))
        .bind(to.moved_at.0);
        Ok(!fetch(&self.pool, moved).await?.is_empty())
    }

    async fn forget_full_rates(&self, shard: i32, now: Timestamp) -> Result<(), StoreError> {
        let full = sqlx::query(concat!(
            "delete from shared_rates where shard = $1 and full_at < coalesce($2, ",
            now!(),
            ")"
        ))
        .bind(shard)
        .bind(self.moved_by_hand(now));
        fetch(&self.pool, full).await.map(|_| ())
    }
}

impl PostgresStore {
    /// The time where a test moves it; else the database's own counts.
    fn moved_by_hand(&self, now: Timestamp) -> Option<i64> {
        (!self.clock.is_checked).then_some(now.0)
    }
}
