//! Every request we advertise, in every version, against a real storage: it is answered, or it closes the connection by
//! name; it never panics and never meets a value that its version cannot carry.

use std::sync::Arc;
use std::time::Duration;

use aquifer_storage::clock::{SystemClock, SystemRandom};
use aquifer_storage::settings::StorageSettings;
use aquifer_storage::{OpenOptions, Storage};
use bytes::Buf;
use tokio_util::sync::CancellationToken;

use super::super::api::{APIS, Incoming};
use super::super::broker::text;
use super::super::coordinator::Coordinator;
use super::super::fetch::FetchRoom;
use super::super::frame::RequestRoom;
use super::super::produce::{self, Produced};
use super::super::schema::generate::generate;
use super::*;
use crate::settings::ServerSettings;

async fn broker(data_dir: &std::path::Path) -> Arc<Broker> {
    let options = OpenOptions {
        data_dir: data_dir.to_owned(),
        object_store_url: None,
        object_store: Default::default(),
        settings: StorageSettings::default(),
        clock: Arc::new(SystemClock),
        random: Arc::new(SystemRandom),
    };
    let storage = Storage::open(options).await.unwrap();
    let settings = ServerSettings { kafka_fetch_wait_max_ms: 1, ..ServerSettings::default() };
    Arc::new(Broker {
        coordinator: Coordinator::new(storage.random().clone()),
        storage,
        host: text("127.0.0.1"),
        port: 9092,
        fetch_room: FetchRoom::new(settings.kafka_fetch_bytes_in_flight_max),
        request_room: RequestRoom::new(settings.kafka_request_bytes_in_flight_max),
        meter: Default::default(),
        settings,
        shutdown: CancellationToken::new(),
    })
}

/// What the connection does with a request; `None` if the answer waits for other members.
async fn answer_or_wait(broker: &Arc<Broker>, request: &Request) -> Option<Response> {
    if request.header.api.key == ApiKey::Produce {
        return match produce::submit(broker.clone(), request).unwrap().await {
            Produced::Answer(response) => Some(response),
            Produced::Silent | Produced::Close => None,
        };
    }
    let caller = Caller { broker, peer: ([127, 0, 0, 1], 1).into() };
    let answered = tokio::time::timeout(Duration::from_millis(50), answer(caller, request)).await;
    answered.ok().map(|answered| {
        let header = &request.header;
        answered.unwrap_or_else(|error| panic!("{:?} {}: {error}", header.api.key, header.version))
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_version_of_every_request_is_answered_with_what_it_can_carry() {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker(dir.path()).await;
    for seed in 0..12 {
        for api in APIS {
            for version in api.min..=api.max {
                let Incoming::Request(request) = Incoming::parse(generate(api, version, seed).into()).unwrap() else {
                    panic!("{:?} {version} is not known", api.key)
                };
                let Some(mut response) = answer_or_wait(&broker, &request).await else { continue };
                let length = usize::try_from(response.get_i32()).unwrap();
                assert_eq!(response.remaining(), length, "{:?} {version}", api.key);
                assert_eq!(response.get_i32(), request.header.correlation_id);
            }
        }
    }
    broker.storage.close().await.unwrap();
}
