//! InitProducerId: an identity for idempotent producers, durable before it is given.
//!
//! Sequences are checked where batches are ordered, in the log. A transactional id is refused: transactions are not
//! built yet, and the code is one that clients do not retry.

use kafka_protocol::messages::{InitProducerIdRequest, InitProducerIdResponse};

use super::broker::Broker;
use super::errors::Refusal;

/// Answers InitProducerId. Who asks again, with the id it has, gets a new one: nothing of the old one is open.
pub(crate) async fn init(broker: &Broker, request: &InitProducerIdRequest) -> InitProducerIdResponse {
    let given = match &request.transactional_id {
        Some(id) => Err(Refusal::no_transactions(&id.0)),
        None => broker.storage.new_producer_id().await.map_err(Refusal::from),
    };
    let response = InitProducerIdResponse::default();
    match given {
        Ok(id) => response.with_producer_id(id.into()).with_producer_epoch(0),
        Err(refusal) => {
            tracing::warn!(error = %refusal.message, "a producer was refused");
            response.with_error_code(refusal.code()).with_producer_id((-1).into()).with_producer_epoch(-1)
        }
    }
}
