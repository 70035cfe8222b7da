//! Saved accounts, and saved filters of bound keys.

/// The snapshots, over `self.writer()`, `self.readers` and `answered`.
macro_rules! snapshots {
    ($views:ty, $row:ty) => {
        #[async_trait]
        impl crate::store::projections::Snapshots for $views {
            async fn put_snapshots(&self, shard: i32, snapshots: &[Snapshot]) -> Result<(), StoreError> {
                let mut writer = self.writer().await?;
                let mut transaction = answered(writer.begin()).await?;
                for snapshot in snapshots {
                    answered(
                        sqlx::query(
                            "insert into snapshots_by_format \
                                 (shard, org_id, format, stretch, version, position, last_hash, state) \
                             values ($1, $2, $3, $4, $5, $6, $7, $8) \
                             on conflict (shard, org_id, format, stretch) do update set \
                             version = excluded.version, position = excluded.position, last_hash = excluded.last_hash, \
                             state = excluded.state \
                             where excluded.version > snapshots_by_format.version",
                        )
                        .bind(shard)
                        .bind(snapshot.org.0)
                        .bind(snapshot.format)
                        .bind(snapshot.stretch())
                        .bind(snapshot.version)
                        .bind(snapshot.position)
                        .bind(&snapshot.last_hash[..])
                        .bind(snapshot.state.as_slice())
                        .execute(&mut *transaction),
                    )
                    .await?;
                    let outdated = sqlx::query(
                        "delete from snapshots_by_format where shard = $1 and org_id = $2 and format < $3 - 1",
                    );
                    let outdated = outdated.bind(shard).bind(snapshot.org.0).bind(snapshot.format);
                    answered(outdated.execute(&mut *transaction)).await?;
                    if let Some(thinned) = snapshot.thins() {
                        let thin = sqlx::query(rows::THIN_SNAPSHOTS)
                            .bind(shard)
                            .bind(snapshot.org.0)
                            .bind(snapshot.format)
                            .bind(thinned.start)
                            .bind(thinned.end)
                            .bind(LARGE_BYTES)
                            .bind(RECENT_STRETCHES);
                        answered(thin.execute(&mut *transaction)).await?;
                    }
                }
                answered(transaction.commit()).await
            }

            async fn snapshot(
                &self,
                shard: i32,
                org: OrgId,
                format: i32,
                version_max: i64,
            ) -> Result<Option<Snapshot>, StoreError> {
                let row = answered(
                    sqlx::query(
                        "select version, position, last_hash, state from snapshots_by_format \
                         where shard = $1 and org_id = $2 and format = $3 and version <= $4 and stretch <= $5 \
                         order by stretch desc limit 1",
                    )
                    .bind(shard)
                    .bind(org.0)
                    .bind(format)
                    .bind(version_max)
                    .bind(version_max.div_euclid(STRETCH_VERSIONS))
                    .fetch_optional(&self.readers),
                )
                .await?;
                let read = |row: $row| -> Result<Snapshot, sqlx::Error> {
                    Ok(Snapshot {
                        org,
                        version: row.try_get("version")?,
                        position: row.try_get("position")?,
                        last_hash: hash(row.try_get("last_hash")?)?,
                        format,
                        state: row.try_get("state")?,
                    })
                };
                row.map(read).transpose().map_err(store_error)
            }

            async fn put_key_filter(
                &self,
                shard: i32,
                filter: &SavedFilter,
                layers: &mut (dyn Iterator<Item = (i64, Vec<u8>)> + Send),
            ) -> Result<bool, StoreError> {
                let mut layers = layers.peekable();
                let first = layers.peek().map_or(filter.layers.end, |(first, _)| *first);
                let is_whole = first == filter.layers.start;
                let mut writer = self.writer().await?;
                let mut transaction = answered(writer.begin()).await?;
                let put = sqlx::query(
                    "insert into key_filter_series (shard, series, position, hash, first_layer, end_layer) \
                     select $1, $2, $3, $4, $5, $6 \
                     where $7 or exists (select 1 from key_filter_series where shard = $1 and series = $2) \
                     on conflict (shard) do update set series = excluded.series, position = excluded.position, \
                     hash = excluded.hash, first_layer = excluded.first_layer, end_layer = excluded.end_layer \
                     where $7 or key_filter_series.series = excluded.series",
                )
                .bind(shard)
                .bind(filter.series)
                .bind(filter.position)
                .bind(&filter.hash[..])
                .bind(filter.layers.start)
                .bind(filter.layers.end)
                .bind(is_whole);
                if answered(put.execute(&mut *transaction)).await?.rows_affected() == 0 {
                    answered(transaction.rollback()).await?;
                    return Ok(false);
                }
                let gone = sqlx::query("delete from key_filter_layers where shard = $1 and (series <> $2 or layer < $3)");
                let gone = gone.bind(shard).bind(filter.series).bind(filter.layers.start);
                answered(gone.execute(&mut *transaction)).await?;
                for (layer, bits) in layers {
                    let put = sqlx::query(
                        "insert into key_filter_layers (shard, series, layer, bits) values ($1, $2, $3, $4) \
                         on conflict (shard, series, layer) do update set bits = excluded.bits",
                    );
                    let put = put.bind(shard).bind(filter.series).bind(layer).bind(bits.as_slice());
                    answered(put.execute(&mut *transaction)).await?;
                }
                answered(transaction.commit()).await?;
                Ok(true)
            }

            async fn key_filter(&self, shard: i32) -> Result<Option<SavedFilter>, StoreError> {
                let row = answered(
                    sqlx::query(
                        "select series, position, hash, first_layer, end_layer from key_filter_series where shard = $1",
                    )
                    .bind(shard)
                    .fetch_optional(&self.readers),
                )
                .await?;
                let read = |row: $row| -> Result<SavedFilter, sqlx::Error> {
                    Ok(SavedFilter {
                        series: row.try_get("series")?,
                        position: row.try_get("position")?,
                        hash: hash(row.try_get("hash")?)?,
                        layers: row.try_get("first_layer")?..row.try_get("end_layer")?,
                    })
                };
                row.map(read).transpose().map_err(store_error)
            }

            async fn key_filter_layer(
                &self,
                shard: i32,
                series: Uuid,
                layer: i64,
            ) -> Result<Option<Vec<u8>>, StoreError> {
                let bits = sqlx::query_scalar(
                    "select bits from key_filter_layers where shard = $1 and series = $2 and layer = $3",
                );
                let bits = bits.bind(shard).bind(series).bind(layer);
                answered(bits.fetch_optional(&self.readers)).await
            }
        }
    };
}

pub(in crate::store) use snapshots;
