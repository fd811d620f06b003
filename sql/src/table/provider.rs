//! `SourceTable`: a source as DataFusion's table. Planning needs only its schema; a scan asks the statement's [`Scope`]
//! for the snapshot, so a plan can be kept and run again.

use std::sync::Arc;

use aquifer_storage::{ScanMeter, ScanPart, ScanRequest, Snapshot, TopicPartition};
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use bytes::Bytes;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::DataFusionError;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;

use super::exec::{Partition, ScanExec};
use super::lanes::deal;
use super::lookup::{KeyLookupExec, keys_of};
use super::past;
use super::predicate::{Bounds, bounds};
use super::source::{Source, SourceColumn};
use super::window::tumbling;
use crate::catalog::Catalog;
use crate::error::{Error, Result, SqlState};
use crate::limit::turn::Turn;
use crate::statement::WindowSpec;

/// What all scans of one run of a statement share; an extension of the session's configuration.
#[derive(Debug)]
pub(crate) struct Scope {
    /// One cut of all its topics.
    pub(crate) snapshot: Snapshot,
    /// What it asks before it reads on.
    pub(crate) turn: Arc<Turn>,
}

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct SourceTable {
    /// Where errors are noted.
    pub(crate) catalog: Arc<Catalog>,
    /// What it reads.
    pub(crate) source: Source,
    /// Its columns, in the order of its schema.
    pub(crate) columns: Vec<SourceColumn>,
    /// Its windows: the last two columns are `windowstart` and `windowend` then.
    pub(crate) window: Option<WindowSpec>,
    schema: SchemaRef,
}

impl SourceTable {
    /// A source with the columns it shows, then the `hidden` ones, then its window's.
    pub(crate) fn new(
        catalog: &Arc<Catalog>,
        source: Source,
        hidden: &[SourceColumn],
        window: Option<WindowSpec>,
    ) -> Self {
        let mut columns = source.shown();
        for column in hidden {
            if !columns.contains(column) {
                columns.push(*column);
            }
        }
        if window.is_some() {
            columns.extend([SourceColumn::WindowStart, SourceColumn::WindowEnd]);
        }
        let schema = source.schema(&columns);
        Self { catalog: Arc::clone(catalog), source, columns, window, schema }
    }

    fn rowtime_is_timestamp(&self) -> bool {
        self.source.relation.as_ref().is_none_or(|relation| relation.timestamp_column.is_none())
    }

    /// The keys to look up instead of scanning, if the filters name them and there is state to look into.
    fn lookup_keys(&self, snapshot: &Snapshot, filters: &[Expr]) -> Option<Vec<Bytes>> {
        let relation = self.source.relation.as_ref().filter(|relation| relation.is_keyed_table())?;
        let may = self.window.is_none() && snapshot.has_state(self.source.topic.id);
        may.then(|| keys_of(filters, relation)).flatten()
    }

    fn partitions(&self, snapshot: &Snapshot, bounds: &Bounds, committed_max_us: Option<i64>) -> Vec<Partition> {
        let mut partitions = Vec::new();
        for partition in 0..self.source.topic.partitions {
            let place = TopicPartition { topic: self.source.topic.id, partition };
            let wanted = (bounds.partition.0..=bounds.partition.1).contains(&i64::from(partition));
            let Some(range) = snapshot.range(place).filter(|_| wanted) else { continue };
            let offset_start = range.start.max(bounds.offset.0);
            let offset_end = range.end.min(bounds.offset.1.saturating_add(1));
            if offset_start >= offset_end {
                continue;
            }
            let finite = |bound: i64, open: i64| (bound != open).then_some(bound);
            partitions.push(Partition {
                place,
                request: ScanRequest {
                    offset_start,
                    offset_end,
                    timestamp_min_ms: finite(bounds.timestamp_ms.0, i64::MIN),
                    timestamp_max_ms: finite(bounds.timestamp_ms.1, i64::MAX),
                    committed_max_us,
                    ..ScanRequest::all(Vec::new())
                },
            });
        }
        partitions
    }
}

/// The parts of a scan, by partition and offset; of partitions behind those that have `enough` rows not looked for.
async fn survey(
    snapshot: &Snapshot,
    partitions: &[Partition],
    enough: Option<usize>,
    meter: &Arc<ScanMeter>,
) -> Result<Vec<ScanPart>> {
    let mut parts: Vec<ScanPart> = Vec::new();
    let mut left = enough.map(|rows| rows as u64);
    for Partition { place, request } in partitions {
        let request = ScanRequest { meter: Arc::clone(meter), ..request.clone() };
        let found = match left {
            Some(0) => snapshot.whole(*place, &request)?,
            left => snapshot.survey(*place, &request, left).await?,
        };
        let rows = found.iter().map(ScanPart::rows_max).fold(0, u64::saturating_add);
        left = left.map(|left| left.saturating_sub(rows));
        parts.extend(found);
    }
    Ok(parts)
}

#[async_trait]
impl TableProvider for SourceTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> DataFusionResult<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let scope = state.config().get_extension::<Scope>().ok_or_else(|| {
            DataFusionError::from(Error::new(SqlState::InternalError, "a scan outside a statement has no snapshot"))
        })?;
        let all: Vec<usize> = (0..self.columns.len()).collect();
        let columns: Vec<SourceColumn> =
            projection.unwrap_or(&all).iter().filter_map(|index| self.columns.get(*index).copied()).collect();
        // Lateness and the latest row of a key depend on records a filter would leave out.
        let prunes = self.window.is_none() && !self.source.is_keyed_table();
        let bounds = bounds(if prunes { filters } else { &[] }, self.rowtime_is_timestamp());
        let committed_max_us = past::moment(filters, state)?;
        if let Some(at_us) = committed_max_us {
            past::check(self.catalog.storage(), &scope.snapshot, &self.source.topic, at_us).await?;
        }
        let partitions = self.partitions(&scope.snapshot, &bounds, committed_max_us);
        let limit = limit.filter(|_| self.window.is_none());
        let scan = ScanExec::new(Arc::clone(&self.catalog), self.source.clone(), &scope, columns, partitions, limit);
        // The state knows the present only.
        let keys = self.lookup_keys(&scope.snapshot, filters).filter(|_| committed_max_us.is_none());
        if let Some(keys) = keys {
            return Ok(Arc::new(KeyLookupExec::new(scan, keys)));
        }
        let window = self.window.as_ref().map(tumbling).transpose()?;
        if !prunes {
            return Ok(Arc::new(scan.windowed(window)));
        }
        let meter = Arc::<ScanMeter>::default();
        let parts = survey(&scope.snapshot, &scan.partitions, limit, &meter).await;
        let parts = parts.map_err(DataFusionError::from)?;
        let lanes = deal(parts, state.config().target_partitions(), limit);
        Ok(Arc::new(scan.in_lanes(lanes, meter)))
    }
}
