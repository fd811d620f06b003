//! InitProducerId: an identity for idempotent and for transactional producers, durable before it is given.
//!
//! Sequences are checked where batches are ordered, in the log; so are epochs. A transactional id keeps its producer id:
//! each start of a producer gets the next epoch, which fences the one before and aborts what it left open.

use aquifer_storage::{ProducerIdentity, TransactionChange};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::{InitProducerIdRequest, InitProducerIdResponse};

use super::broker::Broker;
use super::errors::Refusal;
use super::transactions;

/// From this version on a fenced producer is told so by a code of its own.
const FENCED_SINCE: i16 = 4;
/// "None", where a producer id or epoch may be absent.
const NONE: i64 = -1;

/// Answers InitProducerId. An idempotent producer that asks again gets a new id: nothing of the old one is open.
pub(crate) async fn init(broker: &Broker, request: &InitProducerIdRequest, version: i16) -> InitProducerIdResponse {
    let given = match &request.transactional_id {
        Some(id) => transactional(broker, id.as_str(), request).await,
        None => {
            let id = broker.storage.new_producer_id().await.map_err(Refusal::from);
            id.map(|id| ProducerIdentity { id, epoch: 0 })
        }
    };
    let response = InitProducerIdResponse::default();
    match given.map_err(|refusal| refusal.fenced_since(FENCED_SINCE, version)) {
        Ok(given) => response.with_producer_id(given.id.into()).with_producer_epoch(given.epoch),
        Err(refusal) => {
            tracing::warn!(error = %refusal.message, "a producer was refused");
            response.with_error_code(refusal.code()).with_producer_id(NONE.into()).with_producer_epoch(-1)
        }
    }
}

async fn transactional(
    broker: &Broker,
    transactional_id: &str,
    request: &InitProducerIdRequest,
) -> Result<ProducerIdentity, Refusal> {
    let change = TransactionChange::Init {
        transactional_id: transactions::named(transactional_id)?,
        timeout_ms: request.transaction_timeout_ms,
        expected: expected(request.producer_id.0, request.producer_epoch)?,
    };
    transactions::commit(broker, change).await
}

/// What the producer believes to be (KIP-360): both parts or neither.
fn expected(id: i64, epoch: i16) -> Result<Option<ProducerIdentity>, Refusal> {
    match (id, i64::from(epoch)) {
        (NONE, NONE) => Ok(None),
        (NONE, _) | (_, NONE) => {
            let message = format!("producer id {id} with epoch {epoch}: give both, or -1 for both");
            Err(Refusal::new(ResponseError::InvalidRequest, message))
        }
        _ => Ok(Some(ProducerIdentity { id, epoch })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_producer_names_itself_whole_or_not_at_all() {
        assert_eq!(expected(-1, -1).unwrap(), None);
        assert_eq!(expected(7, 0).unwrap(), Some(ProducerIdentity { id: 7, epoch: 0 }));
        assert_eq!(expected(7, -1).unwrap_err().code(), 42);
        assert_eq!(expected(-1, 3).unwrap_err().code(), 42);
    }
}
