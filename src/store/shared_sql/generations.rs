//! Checkpoints, generations, and the rows that move with them.

/// The generations of the projections, over `self.writer()`, `self.readers`, `answered` (`finished` where a whole generation is
/// gone through), `merge` and `change_lots`.
macro_rules! generations {
    ($views:ty, $connection:ty, $row:ty) => {
        #[async_trait]
        impl crate::store::projections::Generations for $views {
            async fn checkpoints(&self, shard: i32) -> Result<Vec<Checkpoint>, StoreError> {
                let found = self.committed_checkpoints(shard).await?;
                if View::ALL.iter().all(|view| found.iter().any(|checkpoint| checkpoint.view == *view)) {
                    return Ok(found);
                }
                let mut writer = self.writer().await?;
                for view in View::ALL {
                    answered(
                        sqlx::query(
                            "insert into projections (shard, view, generation, position, hash, live) \
                             select $1, $2, 1, 0, $3, true \
                             where not exists (select 1 from projections where shard = $1 and view = $2) \
                             on conflict (shard, view, generation) do nothing",
                        )
                        .bind(shard)
                        .bind(view.name())
                        .bind(&shared_sql::NOTHING_FOLDED[..])
                        .execute(&mut *writer),
                    )
                    .await?;
                }
                // Waiting for another connection with this one in hand could deadlock the pool.
                drop(writer);
                self.committed_checkpoints(shard).await
            }

            async fn apply(
                &self,
                shard: i32,
                from: &[Checkpoint],
                position: i64,
                hash: &Hash,
                changes: &Changes,
            ) -> Result<bool, StoreError> {
                let mut writer = self.writer().await?;
                let mut transaction = answered(writer.begin()).await?;
                for checkpoint in from {
                    let moved = answered(
                        sqlx::query(
                            "update projections set position = $1, hash = $2 \
                             where shard = $3 and view = $4 and generation = $5 and position = $6",
                        )
                        .bind(position)
                        .bind(&hash[..])
                        .bind(shard)
                        .bind(checkpoint.view.name())
                        .bind(checkpoint.generation)
                        .bind(checkpoint.position)
                        .execute(&mut *transaction),
                    )
                    .await?;
                    if moved.rows_affected() == 0 {
                        answered(transaction.rollback()).await?;
                        return Ok(false);
                    }
                    for (table, rows) in rows::rows(checkpoint.view, changes) {
                        merge(&mut transaction, shard, checkpoint.generation, table, &rows).await?;
                    }
                    if let Some(index) = rows::index_of(checkpoint.view) {
                        for due in Compaction::due(checkpoint.position, position) {
                            compact(&mut transaction, shard, checkpoint.generation, index, due).await?;
                        }
                    }
                    if checkpoint.view == View::Balances {
                        change_lots(&mut transaction, shard, checkpoint.generation, changes).await?;
                    }
                }
                answered(transaction.commit()).await?;
                Ok(true)
            }

            async fn start_generation(&self, shard: i32, view: View) -> Result<Checkpoint, StoreError> {
                let mut writer = self.writer().await?;
                let row = answered(
                    sqlx::query(
                        "insert into projections (shard, view, generation, position, hash, live) \
                         select $1, $2, coalesce(max(generation), 0) + 1, 0, $3, false from projections \
                         where shard = $1 and view = $2 \
                         on conflict (shard, view, generation) do nothing \
                         returning view, generation, position, hash, live",
                    )
                    .bind(shard)
                    .bind(view.name())
                    .bind(&shared_sql::NOTHING_FOLDED[..])
                    .fetch_optional(&mut *writer),
                )
                .await?;
                let row = row.ok_or_else(|| {
                    StoreError::Unavailable("another process begins to rebuild this projection, too".into())
                })?;
                checkpoint(&row)?.ok_or_else(|| StoreError::Corrupt("a view's name was not kept".into()))
            }

            async fn go_live(&self, shard: i32, fresh: &Checkpoint) -> Result<bool, StoreError> {
                let mut writer = self.writer().await?;
                let mut transaction = answered(writer.begin()).await?;
                let ended = answered(
                    sqlx::query(
                        "update projections set live = false where shard = $1 and view = $2 and live and position <= $3",
                    )
                    .bind(shard)
                    .bind(fresh.view.name())
                    .bind(fresh.position)
                    .execute(&mut *transaction),
                )
                .await?;
                if ended.rows_affected() == 0 {
                    answered(transaction.rollback()).await?;
                    return Ok(false);
                }
                // Its number may have been given again to one that another process has only begun.
                let live = answered(
                    sqlx::query(
                        "update projections set live = true \
                         where shard = $1 and view = $2 and generation = $3 and position = $4 and not live",
                    )
                    .bind(shard)
                    .bind(fresh.view.name())
                    .bind(fresh.generation)
                    .bind(fresh.position)
                    .execute(&mut *transaction),
                )
                .await?;
                if live.rows_affected() == 0 {
                    answered(transaction.rollback()).await?;
                    let why = "another process has dropped what was rebuilt; rebuild it again";
                    return Err(StoreError::Unavailable(why.into()));
                }
                answered(transaction.commit()).await?;
                Ok(true)
            }

            async fn drop_generation(&self, shard: i32, view: View, generation: i64) -> Result<(), StoreError> {
                let mut writer = self.writer().await?;
                let mut transaction = finished(writer.begin()).await?;
                // It goes before its rows: a runner that took it for live adds none after them. One that a rebuild, cut
                // off in its commit, made live after all stays.
                let gone = finished(
                    sqlx::query(
                        "delete from projections where shard = $1 and view = $2 and generation = $3 and not live",
                    )
                    .bind(shard)
                    .bind(view.name())
                    .bind(generation)
                    .execute(&mut *transaction),
                )
                .await?;
                if gone.rows_affected() == 0 {
                    return finished(transaction.rollback()).await;
                }
                for table in rows::tables(view) {
                    let sql = format!("delete from {} where shard = $1 and generation = $2", table.name);
                    let dropped = sqlx::query(AssertSqlSafe(sql)).bind(shard).bind(generation);
                    finished(dropped.execute(&mut *transaction)).await?;
                }
                finished(transaction.commit()).await
            }

            async fn differences(&self, shard: i32, view: View, one: i64, other: i64) -> Result<i64, StoreError> {
                let mut found = 0;
                for table in rows::tables(view) {
                    let columns: Vec<&str> = table.columns().collect();
                    let columns = columns.join(", ");
                    let rows = |generation: &str| {
                        format!("select {columns} from {} where shard = $1 and generation = {generation}", table.name)
                    };
                    let sql = format!(
                        "select (select count(*) from ({of_shard} except {of_shard_again}) as missing) \
                         + (select count(*) from ({of_shard_again} except {of_shard}) as surplus)",
                        of_shard = rows("$2"),
                        of_shard_again = rows("$3"),
                    );
                    found += finished(
                        sqlx::query_scalar::<_, i64>(AssertSqlSafe(sql))
                            .bind(shard)
                            .bind(one)
                            .bind(other)
                            .fetch_one(&self.readers),
                    )
                    .await?;
                }
                Ok(found)
            }

            async fn forget(&self, shard: i32, foreign: &Checkpoint) -> Result<(), StoreError> {
                // In the order in which a runner moves them, so that neither waits for what the other has.
                let known = self.committed_checkpoints(shard).await?;
                let mut writer = self.writer().await?;
                let mut transaction = finished(writer.begin()).await?;
                let mut gone = Vec::new();
                // They go before their rows: a runner's page is committed by then and goes with them, or it finds no
                // checkpoint to move.
                for checkpoint in known {
                    let deleted = finished(
                        sqlx::query("delete from projections where shard = $1 and view = $2 and generation = $3")
                            .bind(shard)
                            .bind(checkpoint.view.name())
                            .bind(checkpoint.generation)
                            .execute(&mut *transaction),
                    )
                    .await?;
                    if deleted.rows_affected() > 0 {
                        gone.push((checkpoint.view, checkpoint.generation));
                    }
                }
                if !gone.contains(&(foreign.view, foreign.generation)) {
                    return finished(transaction.rollback()).await;
                }
                for (view, generation) in &gone {
                    for table in rows::tables(*view) {
                        let sql = format!("delete from {} where shard = $1 and generation = $2", table.name);
                        let dropped = sqlx::query(AssertSqlSafe(sql)).bind(shard).bind(*generation);
                        finished(dropped.execute(&mut *transaction)).await?;
                    }
                }
                for view in View::ALL {
                    let last = gone.iter().filter(|gone| gone.0 == view).map(|gone| gone.1).max();
                    finished(
                        sqlx::query(
                            "insert into projections (shard, view, generation, position, hash, live) \
                             select $1, $2, 1 + case when max(generation) > $3 then max(generation) else $3 end, 0, $4, \
                                 true from projections where shard = $1 and view = $2",
                        )
                        .bind(shard)
                        .bind(view.name())
                        // A rebuild may have begun meanwhile.
                        .bind(last.unwrap_or(0))
                        .bind(&shared_sql::NOTHING_FOLDED[..])
                        .execute(&mut *transaction),
                    )
                    .await?;
                }
                for table in ["snapshots_by_format", "key_filter_series", "key_filter_layers"] {
                    let sql = format!("delete from {table} where shard = $1");
                    finished(sqlx::query(AssertSqlSafe(sql)).bind(shard).execute(&mut *transaction)).await?;
                }
                finished(transaction.commit()).await
            }
        }

        impl $views {
            /// As those see them who look rows up: what stands in an open transaction counts for nothing.
            async fn committed_checkpoints(&self, shard: i32) -> Result<Vec<Checkpoint>, StoreError> {
                let rows = answered(
                    sqlx::query(
                        "select view, generation, position, hash, live from projections where shard = $1 \
                         order by view, generation",
                    )
                    .bind(shard)
                    .fetch_all(&self.readers),
                )
                .await?;
                // A view that only a newer version knows is left alone.
                rows.iter().filter_map(|row| checkpoint(row).transpose()).collect()
            }
        }

        /// Makes one block of those that it is made of, a part at a time.
        async fn compact(
            connection: &mut $connection,
            shard: i32,
            generation: i64,
            index: &Table,
            due: Compaction,
        ) -> Result<(), StoreError> {
            for source in due.sources() {
                let sql = format!(
                    "delete from {} where shard = $1 and generation = $2 and run = $3 and block >= $4 and block < $5 \
                     returning run, block, entries",
                    index.name
                );
                let gone = answered(
                    sqlx::query(AssertSqlSafe(sql))
                        .bind(shard)
                        .bind(generation)
                        .bind(source.number())
                        .bind(due.blocks().start)
                        .bind(due.blocks().end)
                        .fetch_all(&mut *connection),
                )
                .await?;
                let gone = gone.iter().map(run).collect::<Result<Vec<_>, _>>()?;
                let made: Vec<Vec<Cell>> = due.apply(source, &gone).into_iter().map(rows::run_row).collect();
                merge(&mut *connection, shard, generation, index, &made).await?;
            }
            Ok(())
        }

        fn checkpoint(row: &$row) -> Result<Option<Checkpoint>, StoreError> {
            let Ok(view) = row.try_get::<&str, _>("view").map_err(store_error)?.parse::<View>() else { return Ok(None) };
            let read = || -> Result<Checkpoint, sqlx::Error> {
                Ok(Checkpoint {
                    view,
                    generation: row.try_get("generation")?,
                    position: row.try_get("position")?,
                    hash: hash(row.try_get("hash")?)?,
                    live: row.try_get("live")?,
                })
            };
            read().map(Some).map_err(store_error)
        }
    };
}

pub(in crate::store) use generations;
