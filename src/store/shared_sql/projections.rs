//! The projections.

/// The projections, over `self.writer()`, `self.readers`, `self.write_back()`, `answered` (`finished` where a whole generation
/// is gone through), `merge` and `change_lots`.
macro_rules! projections {
    ($views:ty, $connection:ty, $row:ty) => {
        shared_sql::generations!($views, $connection, $row);
        shared_sql::event_index!($views, $row);
        shared_sql::reports!($views, $row);
        shared_sql::snapshots!($views, $row);

        #[async_trait]
        impl Projections for $views {
            async fn close(&self) -> Result<(), StoreError> {
                self.write_back().await
            }
        }
    };
}

pub(in crate::store) use projections;
