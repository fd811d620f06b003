//! `pg_sleep(seconds)`: waits, and can be cancelled while it does.

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::DataType;
use async_trait::async_trait;
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::logical_expr::async_udf::{AsyncScalarUDF, AsyncScalarUDFImpl};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

use crate::error::Error;

/// Longest sleep, one year; more is no number of seconds anybody means.
const SECONDS_MAX: f64 = 31_536_000.0;

#[derive(Debug, PartialEq, Eq, Hash)]
struct Sleep {
    signature: Signature,
}

/// The function.
pub(super) fn pg_sleep() -> ScalarUDF {
    let signature = Signature::uniform(1, vec![DataType::Float64], Volatility::Volatile);
    AsyncScalarUDF::new(Arc::new(Sleep { signature })).into_scalar_udf()
}

impl ScalarUDFImpl for Sleep {
    fn name(&self) -> &'static str {
        "pg_sleep"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        Err(external(Error::unsupported("pg_sleep in this place").with_hint("SELECT pg_sleep(1)")))
    }
}

#[async_trait]
impl AsyncScalarUDFImpl for Sleep {
    async fn invoke_async_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let Some(argument) = args.args.first() else { return Ok(done()) };
        let seconds = argument.clone().into_array(args.number_rows)?;
        for row in 0..args.number_rows {
            if let ScalarValue::Float64(Some(seconds)) = ScalarValue::try_from_array(&seconds, row)? {
                tokio::time::sleep(Duration::from_secs_f64(seconds.clamp(0.0, SECONDS_MAX))).await;
            }
        }
        Ok(done())
    }
}

/// What Postgres's void shows as.
fn done() -> ColumnarValue {
    ColumnarValue::Scalar(ScalarValue::Utf8(Some(String::new())))
}

fn external(error: Error) -> datafusion::error::DataFusionError {
    datafusion::error::DataFusionError::External(Box::new(error))
}
