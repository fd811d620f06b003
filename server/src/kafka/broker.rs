//! `Broker`: what every request handler needs: the storage, the groups, and who we say we are.

use std::sync::Arc;

use aquifer_storage::{OwnTopic, Storage, Topic, TopicPartition};
use kafka_protocol::messages::{BrokerId, TopicName};
use kafka_protocol::protocol::StrBytes;
use tokio_util::sync::CancellationToken;

use super::answers::AnswerRoom;
use super::coordinator::Coordinator;
use super::errors::Refusal;
use super::fetch::FetchRoom;
use super::frame::RequestRoom;
use super::meter::Meter;
use crate::settings::ServerSettings;

pub(crate) const NODE_ID: BrokerId = BrokerId(1);

/// One node's Kafka side.
#[derive(Debug)]
pub(crate) struct Broker {
    pub(crate) storage: Storage,
    pub(crate) coordinator: Coordinator,
    pub(crate) host: StrBytes,
    pub(crate) port: i32,
    pub(crate) fetch_room: FetchRoom,
    pub(crate) request_room: RequestRoom,
    pub(crate) answer_room: AnswerRoom,
    pub(crate) meter: Meter,
    pub(crate) settings: ServerSettings,
    /// Ends what waits for records or members.
    pub(crate) shutdown: CancellationToken,
}

impl Broker {
    /// A topic by the name a client gave, and one of its partitions.
    pub(crate) fn partition(&self, topic: &str, partition: i32) -> Result<(Arc<Topic>, TopicPartition), Refusal> {
        let found = self.storage.topic(topic).ok_or_else(|| Refusal::unknown_topic(topic))?;
        if !(0..found.partitions).contains(&partition) {
            return Err(Refusal::unknown_partition(topic, partition));
        }
        let partition = TopicPartition { topic: found.id, partition };
        Ok((found, partition))
    }
}

/// Whether clients may not write or delete a topic of this name, whether or not it is there yet.
pub(crate) fn is_reserved(topic: &str) -> bool {
    OwnTopic::ALL.iter().any(|own| own.name() == topic)
}

/// `text` as the message crate has it.
pub(crate) fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// A topic's name as the message crate has it.
pub(crate) fn topic_name(name: &str) -> TopicName {
    TopicName(text(name))
}

/// Splits `HOST:PORT`; brackets around an IPv6 address are not part of the host.
pub(crate) fn split_address(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if host.is_empty() {
        return None;
    }
    Some((host, port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_advertised_address_is_split_at_its_last_colon() {
        assert_eq!(split_address("127.0.0.1:9092"), Some(("127.0.0.1", 9092)));
        assert_eq!(split_address("[::1]:9092"), Some(("::1", 9092)));
        assert_eq!(split_address("broker.example.org:1"), Some(("broker.example.org", 1)));
        assert_eq!(split_address("broker"), None);
        assert_eq!(split_address(":9092"), None);
    }
}
