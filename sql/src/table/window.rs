//! A windowed source as a table: each record once per window it belongs to, late records dropped.

use std::sync::Arc;

use datafusion::physical_plan::ExecutionPlan;

use super::exec::ScanExec;
use crate::error::{Error, Result};
use crate::statement::WindowSpec;

/// Windows over a scan whose columns end with `windowstart` and `windowend`.
///
/// # Errors
/// Windows that are not supported, by name.
pub(crate) fn windowed(scan: ScanExec, window: &WindowSpec) -> Result<Arc<dyn ExecutionPlan>> {
    let _ = (scan, window);
    Err(Error::unsupported("WINDOW").with_hint("group by date_bin(INTERVAL '5 minutes', _timestamp)"))
}
