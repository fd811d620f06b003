//! `Server`: the one door. It binds the three ports, serves them, drains them.

use std::net::SocketAddr;
use std::sync::Arc;

use aquifer_sql::engine::Engine;
use aquifer_storage::Storage;
use tokio_util::sync::CancellationToken;

use crate::listen::Listener;
use crate::settings::ServerSettings;

/// Where to listen. Several addresses per protocol: the default listens on 127.0.0.1 and ::1 with the same port.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// `HOST:PORT` of Kafka.
    pub kafka: String,
    /// What Kafka's Metadata tells clients; `None`: the bound address.
    pub kafka_advertised: Option<String>,
    /// `HOST:PORT` of Postgres.
    pub postgres: String,
    /// `HOST:PORT` of HTTP.
    pub http: String,
}

/// Where we listen, as `HOST:PORT` with the real port, for the `ready` line.
#[derive(Clone, Debug)]
pub struct BoundAddresses {
    /// Kafka.
    pub kafka: SocketAddr,
    /// Postgres.
    pub postgres: SocketAddr,
    /// HTTP.
    pub http: SocketAddr,
}

/// What the listeners speak for.
#[derive(Clone)]
pub struct Components {
    /// For Kafka.
    pub storage: Storage,
    /// For Postgres.
    pub engine: Engine,
    /// Renders `GET /metrics` in Prometheus's text format.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
}

/// The listeners of one node.
pub struct Server {
    kafka: Listener,
    postgres: Listener,
    http: Listener,
    advertised: Option<String>,
    settings: ServerSettings,
}

impl Server {
    /// Takes the ports.
    ///
    /// # Errors
    /// A busy or forbidden port, an address that does not resolve, a wildcard without `kafka_advertised`; each by name.
    pub async fn bind(addresses: Addresses, settings: ServerSettings) -> std::io::Result<Self> {
        let kafka = Listener::bind("kafka", &addresses.kafka).await?;
        if addresses.kafka_advertised.is_none() && kafka.local_addr().ip().is_unspecified() {
            let message =
                format!("kafka on {} is everywhere: clients need one address, set kafka_advertised", addresses.kafka);
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, message));
        }
        Ok(Self {
            kafka,
            postgres: Listener::bind("postgres", &addresses.postgres).await?,
            http: Listener::bind("http", &addresses.http).await?,
            advertised: addresses.kafka_advertised,
            settings,
        })
    }

    /// Where we listen.
    #[must_use]
    pub fn addresses(&self) -> BoundAddresses {
        BoundAddresses {
            kafka: self.kafka.local_addr(),
            postgres: self.postgres.local_addr(),
            http: self.http.local_addr(),
        }
    }

    /// Serves until `shutdown`, then lets what is under way end.
    pub async fn run(self, components: Components, shutdown: CancellationToken) {
        let advertised = self.advertised.unwrap_or_else(|| self.kafka.local_addr().to_string());
        let kafka = crate::kafka::serve(
            self.kafka,
            components.storage.clone(),
            advertised,
            self.settings.clone(),
            shutdown.clone(),
        );
        let postgres =
            crate::postgres::serve(self.postgres, components.engine.clone(), self.settings.clone(), shutdown.clone());
        let http = crate::http::serve(self.http, components, self.settings, shutdown);
        tokio::join!(kafka, postgres, http);
    }
}
