//! Where events stand, by org, by key and by reservation.

/// The index of events, over `self.readers` and `answered`.
macro_rules! event_index {
    ($views:ty, $row:ty) => {
        #[async_trait]
        impl crate::store::projections::EventIndex for $views {
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

            async fn commands(&self, shard: i32, key: runs::ShortHash, from: i64) -> Result<Vec<i64>, StoreError> {
                self.find(shard, &rows::COMMANDS, key, from).await
            }

            async fn keys_bound_since(
                &self,
                shard: i32,
                position: i64,
                each: &mut (dyn FnMut(runs::ShortHash) + Send),
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
                        run(row)?.hashes_since(position).for_each(&mut *each);
                    }
                }
            }

            async fn reservation_events(&self, shard: i32, id: runs::ShortHash) -> Result<Vec<i64>, StoreError> {
                self.find(shard, &rows::RESERVATIONS, id, 0).await
            }
        }

        impl $views {
            /// Positions under a hash, from one on, in order.
            async fn find(
                &self,
                shard: i32,
                index: &Table,
                hash: runs::ShortHash,
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

        /// The version of a block's first event, and the positions of all.
        fn org_block(row: &$row) -> Result<(i64, impl Iterator<Item = i64> + '_), StoreError> {
            let read = || Ok((row.try_get("block")?, row.try_get("first_version")?, row.try_get("offsets")?));
            let (block, first_version, offsets) = read().map_err(store_error)?;
            Ok((first_version, rows::block_positions(block, offsets)))
        }
    };
}

pub(in crate::store) use event_index;
