//! The projections.

/// The projections, over `self.writer()`, `self.readers`, `answered` (`finished` where a whole generation is gone through) `merge` and
/// `change_lots`.
macro_rules! projections {
    ($views:ty, $connection:ty, $row:ty) => {
        #[async_trait]
        impl Projections for $views {
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
                // Whoever waited for another connection with this one in hand might wait for others who do the same.
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
                         returning view, generation, position, hash, live",
                    )
                    .bind(shard)
                    .bind(view.name())
                    .bind(&shared_sql::NOTHING_FOLDED[..])
                    .fetch_one(&mut *writer),
                )
                .await?;
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
                let live = "update projections set live = true where shard = $1 and view = $2 and generation = $3";
                let live = answered(
                    sqlx::query(live)
                        .bind(shard)
                        .bind(fresh.view.name())
                        .bind(fresh.generation)
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

            async fn org_events(
                &self,
                shard: i32,
                org: OrgId,
                from_version: i64,
                limit: i64,
            ) -> Result<Vec<i64>, StoreError> {
                // A block holds at least one event, so `limit` blocks are enough.
                let rows = answered(
                    sqlx::query(concat!(
                        "with live as ",
                        rows::live!("org_events"),
                        " select block, first_version, offsets from org_events \
                         where shard = $1 and generation = (select generation from live) and org_id = $2 \
                           and first_version >= coalesce((select max(first_version) from org_events \
                               where shard = $1 and generation = (select generation from live) and org_id = $2 \
                                 and first_version <= $3), 0) \
                         order by first_version limit $4",
                    ))
                    .bind(shard)
                    .bind(org.0)
                    .bind(from_version)
                    .bind(limit)
                    .fetch_all(&self.readers),
                )
                .await?;
                let mut positions = Vec::new();
                for row in &rows {
                    let (first_version, found) = org_block(row)?;
                    let found = (first_version..).zip(found);
                    positions.extend(found.filter(|(version, _)| *version >= from_version).map(|(_, at)| at));
                }
                positions.truncate(usize::try_from(limit).unwrap_or_default());
                Ok(positions)
            }

            async fn org_version_at(
                &self,
                shard: i32,
                org: OrgId,
                position: i64,
            ) -> Result<Option<i64>, StoreError> {
                // The org may have no event in that block before the position: then the block before has the last.
                let rows = answered(
                    sqlx::query(concat!(
                        "select block, first_version, offsets from org_events \
                         where shard = $1 and org_id = $2 and block <= $3 and generation = ",
                        rows::live!("org_events"),
                        " order by block desc limit 2",
                    ))
                    .bind(shard)
                    .bind(org.0)
                    .bind(position.div_euclid(BLOCK_POSITIONS))
                    .fetch_all(&self.readers),
                )
                .await?;
                for row in &rows {
                    let (first_version, found) = org_block(row)?;
                    let before = found.take_while(|at| *at <= position).count();
                    if before > 0 {
                        return Ok(Some(first_version + i64::try_from(before).unwrap_or(i64::MAX) - 1));
                    }
                }
                Ok(None)
            }

            async fn commands(&self, shard: i32, key: runs::Hash, from: i64) -> Result<Vec<i64>, StoreError> {
                self.find(shard, &rows::COMMANDS, key, from).await
            }

            async fn keys_bound_since(
                &self,
                shard: i32,
                position: i64,
                tell: &mut (dyn FnMut(runs::Hash) + Send),
            ) -> Result<(), StoreError> {
                let [zero, one, two] = runs::blocks_of(position);
                // Entries move to runs of higher numbers alone: none goes past a reader of pages unseen.
                let mut after = (i64::MIN, i64::MIN);
                loop {
                    let rows = answered(
                        sqlx::query(concat!(
                            "select run, block, entries from commands where shard = $1 and generation = ",
                            rows::live!("commands"),
                            " and block >= case when run < 16 then cast($2 as bigint) \
                               when run < 256 then cast($3 as bigint) else cast($4 as bigint) end \
                             and (run, block) > ($5, $6) order by run, block limit $7",
                        ))
                        .bind(shard)
                        .bind(zero)
                        .bind(one)
                        .bind(two)
                        .bind(after.0)
                        .bind(after.1)
                        .bind(shared_sql::RUNS_TOGETHER)
                        .fetch_all(&self.readers),
                    )
                    .await?;
                    let Some(last) = rows.last() else { return Ok(()) };
                    let place = || -> Result<_, sqlx::Error> { Ok((last.try_get("run")?, last.try_get("block")?)) };
                    after = place().map_err(store_error)?;
                    for row in &rows {
                        run(row)?.hashes_since(position).for_each(&mut *tell);
                    }
                }
            }

            async fn reservation_events(&self, shard: i32, id: runs::Hash) -> Result<Vec<i64>, StoreError> {
                self.find(shard, &rows::RESERVATIONS, id, 0).await
            }

            async fn spend(
                &self,
                shard: i32,
                org: OrgId,
                hours: Range<i64>,
                groups: &[Group],
                each: &mut (dyn FnMut(SpendKey, Spend) -> std::ops::ControlFlow<()> + Send),
            ) -> Result<(), StoreError> {
                use futures_util::TryStreamExt;

                let dimensions = rows::spend_dimensions(groups);
                let sql = rows::spend_query(&dimensions);
                let query = sqlx::query(AssertSqlSafe(sql))
                    .bind(shard)
                    .bind(org.0)
                    .bind(hours.start)
                    .bind(hours.end);
                answered(async {
                    let mut rows = query.fetch(&self.readers);
                    while let Some(row) = rows.try_next().await? {
                        let (key, spend) = spend_row(&row, &dimensions)?;
                        if each(key, spend).is_break() {
                            break;
                        }
                    }
                    Ok(())
                })
                .await
            }

            async fn arm_units(&self, shard: i32, arm: &str) -> Result<Vec<(String, UnitSums)>, StoreError> {
                let sql = rows::arm_query(&rows::ARM_UNITS);
                let rows = answered(
                    sqlx::query(AssertSqlSafe(sql))
                        .bind(shard)
                        .bind(arm)
                        .fetch_all(&self.readers),
                )
                .await?;
                let unit = |row: &$row| -> Result<(String, UnitSums), sqlx::Error> {
                    let mut sums = UnitSums::default();
                    for (sum, column) in sums.each().into_iter().zip(rows::ARM_UNITS.values) {
                        *sum = row.try_get(column)?;
                    }
                    Ok((row.try_get("unit")?, sums))
                };
                rows.iter().map(|row| unit(row).map_err(store_error)).collect()
            }

            async fn arm_latencies(&self, shard: i32, arm: &str) -> Result<Vec<(i64, i64)>, StoreError> {
                let sql = rows::arm_query(&rows::ARM_LATENCIES);
                answered(
                    sqlx::query_as(AssertSqlSafe(sql))
                        .bind(shard)
                        .bind(arm)
                        .fetch_all(&self.readers),
                )
                .await
            }

            async fn orgs_due(
                &self,
                shard: i32,
                now: Timestamp,
                untouched_since: Timestamp,
                page: OrgsAfter,
            ) -> Result<OrgsDue, StoreError> {
                let rows = answered(
                    sqlx::query(rows::ORGS_DUE)
                        .bind(shard)
                        .bind(now.0)
                        .bind(untouched_since.0)
                        .bind(page.after.0)
                        .bind(page.limit)
                        .fetch_all(&self.readers),
                )
                .await?;
                let read = |row: &$row| -> Result<(OrgId, bool), sqlx::Error> {
                    Ok((OrgId(row.try_get("org_id")?), row.try_get("is_due")?))
                };
                let looked_at = rows.iter().map(read).collect::<Result<Vec<_>, _>>().map_err(store_error)?;
                let due = looked_at.iter().filter(|(_, is_due)| *is_due).map(|(org, _)| *org);
                Ok(OrgsDue { due: due.collect(), last: looked_at.last().map(|(org, _)| *org) })
            }

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
                layers: &[(i64, Vec<u8>)],
            ) -> Result<bool, StoreError> {
                let is_whole = filter.layers.clone().eq(layers.iter().map(|(layer, _)| *layer));
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

            async fn close(&self) -> Result<(), StoreError> {
                self.write_back().await
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

            /// Positions under a hash, from one on, in order.
            async fn find(
                &self,
                shard: i32,
                index: &Table,
                hash: runs::Hash,
                from: i64,
            ) -> Result<Vec<i64>, StoreError> {
                let sql = rows::runs_query(index);
                let runs = Run::of(hash).map(Run::number);
                let query = runs.into_iter().chain(runs::blocks_of(from)).fold(
                    sqlx::query(AssertSqlSafe(sql)).bind(shard),
                    |query, number| query.bind(number),
                );
                let rows = answered(query.fetch_all(&self.readers)).await?;
                let mut found = Vec::new();
                for row in &rows {
                    found.extend(run(row)?.find(hash).into_iter().filter(|position| *position >= from));
                }
                found.sort_unstable();
                Ok(found)
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

        fn run(row: &$row) -> Result<runs::Row, StoreError> {
            let read = || -> Result<runs::Row, sqlx::Error> {
                Ok(runs::Row {
                    run: Run::numbered(row.try_get("run")?),
                    block: row.try_get("block")?,
                    entries: row.try_get("entries")?,
                })
            };
            read().map_err(store_error)
        }

        fn checkpoint(row: &$row) -> Result<Option<Checkpoint>, StoreError> {
            let Some(view) = View::named(row.try_get("view").map_err(store_error)?) else { return Ok(None) };
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

        /// The version of a block's first event, and the positions of all.
        fn org_block(row: &$row) -> Result<(i64, impl Iterator<Item = i64> + '_), StoreError> {
            let read = || Ok((row.try_get("block")?, row.try_get("first_version")?, row.try_get("offsets")?));
            let (block, first_version, offsets) = read().map_err(store_error)?;
            Ok((first_version, rows::block_positions(block, offsets)))
        }

        fn spend_row(row: &$row, dimensions: &[&'static str]) -> Result<(SpendKey, Spend), sqlx::Error> {
            let mut key = SpendKey::default();
            for column in dimensions {
                match *column {
                    "hour" | "day" => key.hour = row.try_get(*column)?,
                    text => rows::set_dimension(&mut key, text, row.try_get(text)?),
                }
            }
            let mut sums = [0; rows::SPEND_SUMS];
            for (sum, column) in sums.iter_mut().zip(rows::SPEND.values) {
                *sum = row.try_get(column)?;
            }
            Ok((key, rows::spend_of(sums)))
        }
    };
}

pub(in crate::store) use projections;
