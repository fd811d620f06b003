//! `Threads`: where heavy queries compute. They give way to whoever takes records in or answers small questions, so that
//! neither a commit nor a look-up waits for a scan over a year.

use arrow::datatypes::SchemaRef;
use datafusion::common::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::StreamExt;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::turn::Asker;
use crate::error::{Error, SqlState};

/// Batches that wait between a heavy query and who asked for it.
const BATCHES_AHEAD_MAX: usize = 1;

/// See the head of this file. Where the system gives no threads, heavy queries compute where they were asked for.
#[derive(Debug)]
pub(crate) struct Threads(Option<Runtime>);

impl Threads {
    /// As many as there are processors.
    pub(crate) fn start() -> Self {
        let built = tokio::runtime::Builder::new_multi_thread()
            .thread_name("aquifer-heavy")
            .on_thread_start(aquifer_storage::give_way)
            .enable_all()
            .build();
        Self(built.map_err(|error| tracing::error!(%error, "heavy queries have no threads of their own")).ok())
    }

    /// The rows of a query, computed there. Dropping them ends the work at its next pause.
    pub(crate) fn run(
        &self,
        schema: SchemaRef,
        asker: Asker,
        start: impl FnOnce() -> Result<SendableRecordBatchStream, DataFusionError> + Send + 'static,
    ) -> Result<SendableRecordBatchStream, DataFusionError> {
        let Some(runtime) = &self.0 else {
            // Whoever asked is there as long as the rows are.
            let rows = start()?.inspect(move |_| {
                let _ = &asker;
            });
            return Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)));
        };
        let (sender, receiver) = mpsc::channel(BATCHES_AHEAD_MAX);
        let work = AbortOnDropHandle::new(runtime.spawn(async move {
            let mut rows = match start() {
                Ok(rows) => rows,
                Err(error) => return drop(sender.send(Some(Err(error))).await),
            };
            loop {
                let batch = rows.next().await;
                let is_last = !matches!(batch, Some(Ok(_)));
                if sender.send(batch).await.is_err() || is_last {
                    return;
                }
            }
        }));
        // Without the mark of the end the work has broken down.
        let rows = futures::stream::unfold(Some((receiver, work, asker)), |state| async move {
            let (mut receiver, work, asker) = state?;
            match receiver.recv().await {
                Some(None) => None,
                Some(Some(Ok(batch))) => Some((Ok(batch), Some((receiver, work, asker)))),
                Some(Some(Err(error))) => Some((Err(error), None)),
                None => Some((Err(broken()), None)),
            }
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }
}

fn broken() -> DataFusionError {
    let error = Error::new(SqlState::InternalError, "the query broke down");
    error.with_hint("the server's log says where; please report it").into()
}

impl Drop for Threads {
    fn drop(&mut self) {
        // A runtime must not be waited for where others run.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
