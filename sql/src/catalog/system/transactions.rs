//! `aquifer.transactions` and `aquifer.producers`: who writes in transactions, what is open, and since when.

use aquifer_storage::{Storage, TopicPartition, TransactionState};
use arrow::array::ArrayRef;
use datafusion::error::Result as DataFusionResult;
use futures::future::BoxFuture;

use super::{
    SystemSources, Wanted, bigint, boolean, int, ms_as_us, name_of, optional_bigint, some_text, texts, time_us,
};
use crate::catalog::Catalog;
use crate::error::Error;

/// Kafka's names, as its admin tools show them.
fn state(state: TransactionState) -> &'static str {
    match state {
        TransactionState::Empty => "Empty",
        TransactionState::Ongoing => "Ongoing",
        TransactionState::CompleteCommit => "CompleteCommit",
        TransactionState::CompleteAbort => "CompleteAbort",
    }
}

fn partition_name(storage: &Storage, at: TopicPartition) -> String {
    format!("{}-{}", name_of(storage, at), at.partition)
}

pub(super) fn transactions(catalog: &Catalog, _sources: &SystemSources) -> Vec<ArrayRef> {
    let storage = catalog.storage();
    let known = storage.transactions();
    let partitions = |partitions: &[TopicPartition]| -> Vec<String> {
        partitions.iter().map(|at| partition_name(storage, *at)).collect()
    };
    vec![
        some_text(known.iter().map(|info| &info.transactional_id)),
        bigint(known.iter().map(|info| info.producer.id)),
        int(known.iter().map(|info| info.producer.epoch.into())),
        some_text(known.iter().map(|info| state(info.state))),
        int(known.iter().map(|info| info.timeout_ms)),
        time_us(known.iter().map(|info| info.started_at_us)),
        time_us(known.iter().map(|info| Some(info.updated_at_us))),
        texts(known.iter().map(|info| partitions(&info.partitions))),
        texts(known.iter().map(|info| info.groups.clone())),
        boolean(known.iter().map(|info| info.internal)),
    ]
}

pub(super) fn producers<'a>(
    catalog: &'a Catalog,
    _wanted: Wanted<'a>,
) -> BoxFuture<'a, DataFusionResult<Vec<ArrayRef>>> {
    Box::pin(async {
        let storage = catalog.storage();
        let known = storage.all_producers().await.map_err(Error::from)?;
        Ok(vec![
            some_text(known.iter().map(|info| name_of(storage, info.partition))),
            int(known.iter().map(|info| info.partition.partition)),
            bigint(known.iter().map(|info| info.producer.id)),
            int(known.iter().map(|info| info.producer.epoch.into())),
            int(known.iter().map(|info| info.last_sequence)),
            time_us(known.iter().map(|info| ms_as_us(info.last_timestamp_ms))),
            optional_bigint(known.iter().map(|info| info.open_since)),
        ])
    })
}
