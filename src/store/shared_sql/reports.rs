//! What reports and workers read.

/// The reports, over the named pool, and what workers read, over `self.readers`; both over `answered`.
macro_rules! reports {
    ($views:ty, $row:ty, $reports:ident) => {
        #[async_trait]
        impl crate::store::projections::Reports for $views {
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
                let query =
                    sqlx::query(AssertSqlSafe(sql)).bind(shard).bind(org.0).bind(hours.start).bind(hours.end);
                answered(async {
                    let mut rows = query.fetch(&self.$reports);
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

            async fn arm_units(
                &self,
                shard: i32,
                arm: &str,
                each: &mut (dyn FnMut(String, UnitSums) + Send),
            ) -> Result<(), StoreError> {
                use futures_util::TryStreamExt;

                let sql = rows::arm_query(&rows::ARM_UNITS);
                let query = sqlx::query(AssertSqlSafe(sql)).bind(shard).bind(arm);
                answered(async {
                    let mut rows = query.fetch(&self.$reports);
                    while let Some(row) = rows.try_next().await? {
                        let mut sums = UnitSums::default();
                        for (sum, column) in sums.each().into_iter().zip(rows::ARM_UNITS.values) {
                            *sum = row.try_get(column)?;
                        }
                        each(row.try_get("unit")?, sums);
                    }
                    Ok(())
                })
                .await
            }

            async fn arm_latencies(&self, shard: i32, arm: &str) -> Result<Vec<(i64, i64)>, StoreError> {
                let sql = rows::arm_query(&rows::ARM_LATENCIES);
                answered(sqlx::query_as(AssertSqlSafe(sql)).bind(shard).bind(arm).fetch_all(&self.$reports))
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
                let read = |row: &$row| -> Result<(OrgToLookAt, bool), sqlx::Error> {
                    let org = OrgId(row.try_get("org_id")?);
                    Ok((OrgToLookAt { org, version: row.try_get("version")? }, row.try_get("is_due")?))
                };
                let looked_at = rows.iter().map(read).collect::<Result<Vec<_>, _>>().map_err(store_error)?;
                let last = looked_at.last().map(|(last, _)| last.org);
                let due = looked_at.into_iter().filter(|(_, is_due)| *is_due).map(|(org, _)| org);
                Ok(OrgsDue { orgs: due.collect(), last })
            }
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

pub(in crate::store) use reports;
