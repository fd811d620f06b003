//! `Chain`: a continuous query's operators from source to sink, run one tick at a time.
//!
//! 1. [`Chain::step`] takes a tick's records, partition by partition in offset order, and gives the changes of the
//!    result and a [`ChainDelta`]; the state is only read.
//! 2. The job commits the changes with its new position.
//! 3. [`ChainState::apply`] makes the delta part of the state.

use arrow::datatypes::SchemaRef;
use datafusion::error::Result;

use super::aggregate::{Aggregate, AggregateDelta, AggregateState};
use super::change::Changes;
use super::filter::{Filter, Project};
use super::window::{Lateness, Window};

/// One operator.
#[derive(Debug)]
pub(crate) enum Stage {
    /// WHERE, HAVING.
    Filter(Filter),
    /// The SELECT list.
    Project(Project),
    /// GROUP BY.
    Aggregate(Aggregate),
}

/// The operators of one query, in the order changes pass through them.
#[derive(Debug)]
pub(crate) struct Chain {
    /// Before everything else, since lateness is decided before any filter.
    pub(crate) window: Option<Window>,
    /// The rest.
    pub(crate) stages: Vec<Stage>,
    /// Schema of the result.
    pub(crate) schema: SchemaRef,
}

/// What a chain remembers between ticks; a function of the position alone.
#[derive(Debug, Default)]
pub(crate) struct ChainState {
    lateness: Lateness,
    aggregates: Vec<AggregateState>,
    groups_after_forgetting: usize,
}

/// What one tick adds to the state.
#[derive(Debug)]
pub(crate) struct ChainDelta {
    lateness: Lateness,
    aggregates: Vec<AggregateDelta>,
}

/// Groups below which closed windows are not worth looking for.
const FORGET_GROUPS_MIN: usize = 1024;

impl Chain {
    /// A state before any record.
    pub(crate) fn start(&self) -> ChainState {
        let aggregates = self.aggregates().map(|_| AggregateState::default()).collect();
        ChainState { lateness: Lateness::new(), aggregates, groups_after_forgetting: 0 }
    }

    /// Whether a tick changes what the next one answers. If not, a restart has nothing to rebuild.
    pub(crate) fn is_stateless(&self) -> bool {
        self.window.is_none() && self.aggregates().next().is_none()
    }

    /// Whether there is a result row before there is any input.
    pub(crate) fn begins_with_row(&self) -> bool {
        self.aggregates().any(Aggregate::is_global)
    }

    fn aggregates(&self) -> impl Iterator<Item = &Aggregate> {
        self.stages.iter().filter_map(|stage| match stage {
            Stage::Aggregate(aggregate) => Some(aggregate),
            _ => None,
        })
    }

    /// The result's changes for a tick's records: per source partition, in offset order. `start_ms` is the timestamp of
    /// a row that comes from no record.
    pub(crate) fn step(
        &self,
        state: &ChainState,
        input: Vec<(i32, Changes)>,
        start_ms: i64,
    ) -> Result<(Vec<Changes>, ChainDelta)> {
        let mut lateness = state.lateness.clone();
        let mut changes = Vec::with_capacity(input.len());
        for (partition, batch) in input {
            changes.push(match &self.window {
                Some(window) => window.step(partition, &mut lateness, &batch)?,
                None => batch,
            });
        }
        let mut aggregates = Vec::new();
        for stage in &self.stages {
            changes = match stage {
                Stage::Filter(filter) => changes.iter().map(|batch| filter.step(batch)).collect::<Result<_>>()?,
                Stage::Project(project) => {
                    changes.into_iter().map(|batch| project.step(batch)).collect::<Result<_>>()?
                }
                Stage::Aggregate(aggregate) => {
                    let (output, delta) = aggregate.step(&state.aggregates[aggregates.len()], &changes, start_ms)?;
                    aggregates.push(delta);
                    vec![output]
                }
            };
            changes.retain(|batch| batch.len() > 0);
        }
        Ok((changes, ChainDelta { lateness, aggregates }))
    }
}

impl ChainState {
    /// Makes a tick part of the state, once its commit is durable.
    pub(crate) fn apply(&mut self, chain: &Chain, delta: ChainDelta) {
        self.lateness = delta.lateness;
        for ((state, operator), delta) in self.aggregates.iter_mut().zip(chain.aggregates()).zip(delta.aggregates) {
            state.apply(operator, delta);
        }
    }

    /// Forgets the groups of windows that no partition of `partitions` can change any more. Looks only when the groups
    /// have doubled since the last time, so that its cost is that of adding them.
    pub(crate) fn forget_closed_windows(&mut self, chain: &Chain, partitions: i32) {
        let Some(window) = &chain.window else { return };
        let groups: usize = self.aggregates.iter().map(AggregateState::len).sum();
        if groups < FORGET_GROUPS_MIN.max(self.groups_after_forgetting.saturating_mul(2)) {
            return;
        }
        let watermark = (0..partitions).map(|partition| self.lateness.get(&partition).copied()).min().flatten();
        if let Some(watermark) = watermark {
            let closed = watermark.saturating_sub(window.tumbling.grace_ms);
            self.aggregates.iter_mut().for_each(|state| state.forget(closed));
        }
        self.groups_after_forgetting = self.aggregates.iter().map(AggregateState::len).sum();
    }

    /// Bytes remembered, about.
    pub(crate) fn bytes(&self) -> usize {
        self.aggregates.iter().map(AggregateState::bytes).sum()
    }
}
