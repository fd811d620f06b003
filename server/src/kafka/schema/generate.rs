//! Random valid requests, made from the table. Names are few, so that handlers meet what earlier requests have made.

use kafka_protocol::messages::ApiKey;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::super::api::Api;
use super::super::wire::Writer;
use super::*;

/// Topics, groups, members, types; one that is no name for a topic; nothing.
const WORDS: [&str; 6] = ["orders", "clicks", "__consumer_offsets", "consumer", "é", ""];

/// transactional_id, acks, timeout_ms, topics [name, partitions [index, records]]
const PRODUCE: &[Field] = &[
    always(STRING),
    always(INT16),
    always(INT32),
    always(Kind::Array(&Kind::Struct(&[
        always(STRING),
        always(Kind::Array(&Kind::Struct(&[always(INT32), always(Kind::Bytes)]))),
    ]))),
];

/// replica_id, max_wait_ms, min_bytes, max_bytes, isolation_level, session_id, session_epoch, topics [name, partitions
/// [partition, current_leader_epoch, fetch_offset, last_fetched_epoch, log_start_offset, partition_max_bytes]],
/// forgotten_topics_data [name, partitions], rack_id
const FETCH: &[Field] = &[
    always(INT32),
    always(INT32),
    always(INT32),
    always(INT32),
    always(INT8),
    since(7, INT32),
    since(7, INT32),
    always(Kind::Array(&Kind::Struct(&[
        always(STRING),
        always(Kind::Array(&Kind::Struct(&[
            always(INT32),
            since(9, INT32),
            always(INT64),
            since(12, INT32),
            since(5, INT64),
            always(INT32),
        ]))),
    ]))),
    since(7, Kind::Array(&Kind::Struct(&[always(STRING), always(INT32S)]))),
    since(11, STRING),
];

fn fields(api: &Api) -> &'static [Field] {
    match api.key {
        ApiKey::Produce => PRODUCE,
        ApiKey::Fetch => FETCH,
        _ => api.schema.unwrap(),
    }
}

/// Writes random valid messages.
struct Generator {
    random: StdRng,
    writer: Writer,
    version: i16,
    flexible: bool,
}

impl Generator {
    fn fields(&mut self, fields: &'static [Field]) {
        let version = self.version;
        for field in fields.iter().filter(|field| (field.since..=field.until).contains(&version)) {
            self.kind(&field.kind);
        }
        if self.flexible {
            let tags = self.random.random_range(0..3_u32);
            self.writer.uvarint(tags);
            for tag in 0..tags {
                self.writer.uvarint(1_000 + tag);
                self.writer.uvarint(2);
                self.writer.bytes.extend_from_slice(&[1, 2]);
            }
        }
    }

    fn kind(&mut self, kind: &'static Kind) {
        match kind {
            Kind::Fixed(bytes) => {
                let number: i64 = match self.random.random_range(0..4) {
                    0 => self.random.random(),
                    1 => 10_000,
                    _ => self.random.random_range(-1..3),
                };
                let sixteen = i128::from(number).to_be_bytes();
                self.writer.bytes.extend_from_slice(&sixteen[16 - bytes..]);
            }
            Kind::String => {
                let text = WORDS[self.random.random_range(0..WORDS.len())];
                self.writer.string(text, self.flexible);
            }
            Kind::Bytes => {
                let bytes: Vec<u8> = (0..self.random.random_range(0..20)).map(|_| self.random.random()).collect();
                self.writer.length(bytes.len(), self.flexible);
                self.writer.bytes.extend_from_slice(&bytes);
            }
            Kind::Array(element) => {
                let count = self.random.random_range(0..4);
                self.writer.length(count, self.flexible);
                (0..count).for_each(|_| self.kind(element));
            }
            Kind::Struct(fields) => self.fields(fields),
        }
    }
}

/// A whole frame: header and message.
pub(crate) fn generate(api: &Api, version: i16, seed: u64) -> Vec<u8> {
    let flexible = version >= api.flexible_since;
    let mut generator = Generator { random: StdRng::seed_from_u64(seed), writer: Writer::default(), version, flexible };
    generator.writer.bytes.extend_from_slice(&(api.key as i16).to_be_bytes());
    generator.writer.bytes.extend_from_slice(&version.to_be_bytes());
    generator.writer.bytes.extend_from_slice(&7_i32.to_be_bytes());
    generator.writer.string("client", false);
    generator.writer.no_tagged_fields(flexible);
    generator.fields(fields(api));
    generator.writer.bytes.to_vec()
}
