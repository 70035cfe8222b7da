//! The filter of bound keys, as it was saved last and with what was bound since.

use uuid::Uuid;

use crate::domain::time::Timestamp;
use crate::ledger::fetch::Fetcher;
use crate::ledger::key_filter::{KeyFilter, Layer};
use crate::store::StoreError;
use crate::store::projections::SavedFilter;

/// Another node may replace a filter while it is read.
const LOADS_MAX: usize = 3;

impl Fetcher {
    /// The filter of every key bound up to a position that may still bind, which goes on as `series`; the projections must
    /// hold them. And up to where it was saved.
    pub async fn key_filter(
        &self,
        end: i64,
        now: Timestamp,
        series: Uuid,
    ) -> Result<(KeyFilter, i64), StoreError> {
        let (saved_at, layers) = self.saved_layers(end).await?.unwrap_or_default();
        let mut filter = KeyFilter::of(series, layers);
        // Without a saved one all keys that were ever bound would be read, and stay for as long as those of today.
        let from = match self.binding_from().await {
            // One event that is damaged stops no start.
            Err(StoreError::Corrupt(_)) => 0,
            from => from?,
        };
        let mut insert = |key| filter.insert(key, now);
        let store = self.projector.store();
        store.keys_bound_since(self.shard, from.max(saved_at + 1), &mut insert).await?;
        Ok((filter, saved_at))
    }

    /// The layers of the saved filter, and the position up to which they hold every key.
    async fn saved_layers(&self, end: i64) -> Result<Option<(i64, Vec<Layer>)>, StoreError> {
        let (store, shard) = (self.projector.store(), self.shard);
        'loads: for _ in 0..LOADS_MAX {
            let saved = store.key_filter(shard).await?.filter(|saved| saved.position <= end);
            let Some(SavedFilter { series, position, hash, layers: numbers }) = saved else {
                return Ok(None);
            };
            // One of another log, or of events that this one has lost, may lack keys that stand in this one.
            if !self.log_contains(position, &hash).await? {
                return Ok(None);
            }
            let mut layers = Vec::new();
            for number in numbers {
                let bytes = match store.key_filter_layer(shard, series, number).await {
                    Ok(Some(bytes)) => bytes,
                    Ok(None) => continue 'loads,
                    // It only spares what the look-ups have: a start needs it not.
                    Err(error) => {
                        tracing::warn!(%error, shard, "the filter of keys can't be read; it is made again");
                        return Ok(None);
                    }
                };
                let Some(layer) = Layer::from_bytes(&bytes) else { return Ok(None) };
                layers.push(layer);
            }
            return Ok(Some((position, layers)));
        }
        Ok(None)
    }
}
