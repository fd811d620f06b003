//! `CALL aquifer.abort_transaction`: an operator ends a Kafka producer's transaction that hangs.

use aquifer_storage::{Commit, Error as StorageError, Storage, TransactionChange};
use datafusion::common::ScalarValue;

use crate::error::{Error, Result, SqlState};

/// Where an operator looks for the right id.
const LIST: &str = "SELECT transactional_id, state FROM aquifer.transactions lists what there is";

/// The transactional id as it was written, or as its parameter says.
///
/// # Errors
/// 22023 for NULL.
pub(crate) fn id_of(written: Option<&str>, parameters: &[ScalarValue]) -> Result<String> {
    let given = written.or_else(|| parameters.first().and_then(|value| value.try_as_str().flatten()));
    given
        .map(str::to_owned)
        .ok_or_else(|| Error::new(SqlState::InvalidParameterValue, "the transactional id is null").with_hint(LIST))
}

/// Aborts what is open under this transactional id and fences its producer.
///
/// # Errors
/// 42704 for an id that is not known, 55000 if nothing is open.
pub(crate) async fn abort(storage: &Storage, transactional_id: &str) -> Result<()> {
    let change = TransactionChange::Abort { transactional_id: transactional_id.to_owned() };
    let done = storage.commit(Commit { transactions: vec![change], ..Commit::default() }).await;
    done.map(drop).map_err(|error| match error {
        StorageError::UnknownTransactionalId { .. } => {
            let message = format!("transactional id \"{transactional_id}\" does not exist");
            Error::new(SqlState::UndefinedObject, message).with_hint(LIST)
        }
        StorageError::InvalidTransactionState { .. } => Error::from(error).with_hint(LIST),
        other => Error::from(other),
    })
}
