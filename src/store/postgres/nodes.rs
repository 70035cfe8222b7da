//! Which nodes are alive, by the database's clock: no node's own clock decides.

use async_trait::async_trait;
use sqlx::Row;

use super::clock::now;
use super::error::store_error;
use super::{PostgresStore, of_shard, only};
use crate::domain::format::Format;
use crate::store::{Node, Nodes, Noted, StoreError};

/// A node that was not seen for this long is gone: three of its beats. One that was seen so much later than now was seen
/// before the clock was set back.
const ALIVE_MICROS: i64 = 1_500_000;
/// After this long it no longer matters that it was there, or what it read.
const FORGOTTEN_MICROS: i64 = 60_000_000;

#[async_trait]
impl Nodes for PostgresStore {
    async fn beat(&self, node: &Node) -> Result<(), StoreError> {
        let beat = || {
            sqlx::query(concat!(
                "with long_gone as (delete from nodes where shard = 0 and node_id <> $1 and abs(seen_at - ",
                now!(),
                ") > $4) \
                 insert into nodes (shard, node_id, address, format, seen_at) values (0, $1, $2, $3, ",
                now!(),
                ") on conflict (shard, node_id) do update \
                 set address = excluded.address, format = excluded.format, seen_at = excluded.seen_at",
            ))
            .bind(node.id)
            .bind(&node.address)
            .bind(i64::from(node.format.0))
            .bind(FORGOTTEN_MICROS)
        };
        self.beats.fetch(beat).await.map(|_| ())
    }

    async fn noted(&self) -> Result<Noted, StoreError> {
        let rows = concat!(
            "select node_id, address, format, ago < $1 as is_alive from (select *, abs(seen_at - ",
            now!(),
            ") as ago from nodes where shard = 0) as noted where ago <= $2 order by node_id"
        );
        let rows = self.beats.fetch(|| sqlx::query(rows).bind(ALIVE_MICROS).bind(FORGOTTEN_MICROS)).await?;
        let mut noted = Noted { alive: Vec::new(), read_by_all: Format::READ };
        for row in rows {
            let id = row.try_get("node_id").map_err(store_error)?;
            let address = row.try_get("address").map_err(store_error)?;
            let format: i64 = row.try_get("format").map_err(store_error)?;
            let format = Format(u32::try_from(format).unwrap_or_default());
            noted.read_by_all = noted.read_by_all.min(format);
            if row.try_get("is_alive").map_err(store_error)? {
                noted.alive.push(Node { id, address, format });
            }
        }
        Ok(noted)
    }

    async fn secret(&self) -> Result<String, StoreError> {
        let secret = || sqlx::query("select secret from node_secrets where shard = 0");
        only(self.beats.fetch(secret).await?)?.try_get("secret").map_err(store_error)
    }

    async fn raise_epoch(&self, shard: i32, from: i64) -> Result<(), StoreError> {
        let raise = "update log_heads set epoch = $2 + 1 where shard = $1 and epoch <= $2";
        let raise = || sqlx::query(raise).bind(shard).bind(from);
        of_shard(&self.writers, shard)?.fetch(raise).await.map(|_| ())
    }
}
