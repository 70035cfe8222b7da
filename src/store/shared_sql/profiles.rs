//! Personal data.

/// Personal data, over `self.write_rows` and `self.read_rows`. `$erase` empties the rows of a shard whose ids begin with a text.
macro_rules! profiles {
    ($store:ty, $erase:expr) => {
        #[async_trait]
        impl Profiles for $store {
            async fn put_profile(&self, shard: i32, subject_id: &str, profile: &Profile) -> Result<(), StoreError> {
                let put = sqlx::query(
                    "insert into profiles (shard, subject_id, name, email) values ($1, $2, $3, $4) \
                     on conflict (shard, subject_id) do update set name = excluded.name, email = excluded.email",
                );
                let put = put.bind(shard).bind(subject_id).bind(&profile.name).bind(profile.email.as_deref());
                self.write_rows(put).await
            }

            async fn put_profile_if_absent(
                &self,
                shard: i32,
                subject_id: &str,
                profile: &Profile,
            ) -> Result<(), StoreError> {
                let put = sqlx::query(
                    "insert into profiles (shard, subject_id, name, email) values ($1, $2, $3, $4) \
                     on conflict (shard, subject_id) do nothing",
                );
                let put = put.bind(shard).bind(subject_id).bind(&profile.name).bind(profile.email.as_deref());
                self.write_rows(put).await
            }

            async fn remove_profile(&self, shard: i32, subject_id: &str) -> Result<(), StoreError> {
                let remove = sqlx::query("delete from profiles where shard = $1 and subject_id = $2");
                self.write_rows(remove.bind(shard).bind(subject_id)).await
            }

            async fn erase_profiles(&self, shard: i32, prefix: &str) -> Result<(), StoreError> {
                self.write_rows(sqlx::query($erase).bind(shard).bind(prefix)).await
            }

            async fn profile_subjects(
                &self,
                shard: i32,
                after: &str,
                limit: i64,
            ) -> Result<Vec<String>, StoreError> {
                let found = sqlx::query(
                    "select subject_id from profiles where shard = $1 and subject_id > $2 \
                     order by subject_id limit $3",
                );
                let rows = self.read_rows(found.bind(shard).bind(after).bind(limit)).await?;
                rows.iter().map(|row| row.try_get("subject_id").map_err(store_error)).collect()
            }

            async fn profile(&self, shard: i32, subject_id: &str) -> Result<Option<Profile>, StoreError> {
                let found = sqlx::query("select name, email from profiles where shard = $1 and subject_id = $2");
                let rows = self.read_rows(found.bind(shard).bind(subject_id)).await?;
                rows.first()
                    .map(|row| {
                        Ok(Profile {
                            name: row.try_get("name").map_err(store_error)?,
                            email: row.try_get("email").map_err(store_error)?,
                        })
                    })
                    .transpose()
            }
        }
    };
}

pub(in crate::store) use profiles;
