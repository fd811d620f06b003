//! A connection: its opening, its messages one after the other, its end.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use aquifer_sql::engine::{Engine, SessionOptions};
use aquifer_sql::error::{Error, Result, SqlState};
use aquifer_sql::session::{Session, TransactionStatus};
use aquifer_storage::clock::Random;
use arrow::array::timezone::Tz;
use pgwire::messages::PgWireBackendMessage;
use pgwire::messages::response::{ReadyForQuery, SslResponse, TransactionStatus as WireStatus};
use pgwire::messages::startup::{Authentication, BackendKeyData, NegotiateProtocolVersion, ParameterStatus, SecretKey};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::cancel::{Cancellations, Place};
use super::cursor::{Interrupts, flush};
use super::errors::{Severity, Stop, error_response, notice_response, shutting_down};
use super::extended::Extended;
use super::frame::{Framed, Opening, Request};
use super::wire::{Heard, Wire};
use super::worker::Worker;
use crate::settings::ServerSettings;

/// Version 3.0 of the protocol, as clients write it.
const PROTOCOL_3_0: i32 = 3 << 16;
/// What the database is called, whatever the client asks for.
const DATABASE: &str = "aquifer";

/// What all connections share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) engine: Engine,
    pub(crate) settings: ServerSettings,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) cancellations: Cancellations,
    /// No new work.
    pub(crate) shutdown: CancellationToken,
    /// Where statements compute.
    pub(crate) compute: Handle,
    /// No work at all.
    pub(crate) deadline: CancellationToken,
}

/// Serves one client to its end. `admitted` is false where there are too many already.
pub(crate) async fn serve(socket: TcpStream, client: SocketAddr, shared: Shared, admitted: bool) {
    // Rows are small and somebody waits for them; a socket that cannot be told so still works.
    let _ = socket.set_nodelay(true);
    let mut wire = Wire::new(socket, shared.settings.postgres_message_bytes_max);
    let timeout = Duration::from_millis(shared.settings.postgres_startup_timeout_ms);
    let opened = tokio::select! {
        opened = tokio::time::timeout(timeout, open(&mut wire, &shared)) => opened.unwrap_or(None),
        () = shared.shutdown.cancelled() => None,
    };
    let Some(parameters) = opened else { return };
    if !admitted {
        let max = shared.settings.postgres_connections_max;
        let error = Error::new(SqlState::TooManyConnections, "sorry, too many clients already")
            .with_detail(format!("{max} connections are open"))
            .with_hint("close some, use a pool, or raise postgres.connections_max");
        return last_word(&mut wire, &error, timeout).await;
    }
    let place = shared.cancellations.enter(shared.random.as_ref());
    let mut connection = match Connection::start(wire, parameters, client, place, &shared) {
        Ok(connection) => connection,
        Err(refused) => {
            let (mut wire, error) = *refused;
            return last_word(&mut wire, &error, timeout).await;
        }
    };
    if let Err(Stop::Session(error) | Stop::Statement(error)) = Box::pin(connection.run()).await {
        last_word(&mut connection.wire, &error, timeout).await;
    }
}

/// Tells why the connection ends; a client that does not read is not waited for beyond `timeout`.
async fn last_word(wire: &mut Wire, error: &Error, timeout: Duration) {
    if wire.put(&error_response(error, Severity::Fatal)).is_ok() {
        let _ = tokio::time::timeout(timeout, wire.close()).await;
    }
}

/// Hears who it is; `None` where there is nobody to serve.
async fn open(wire: &mut Wire, shared: &Shared) -> Option<BTreeMap<String, String>> {
    loop {
        match wire.opening().await {
            Heard::Frame(Opening::Ssl | Opening::Gss) => {
                wire.put(&PgWireBackendMessage::SslResponse(SslResponse::Refuse)).ok()?;
                wire.flush().await.ok()?;
            }
            Heard::Frame(Opening::Cancel { pid, secret }) => {
                shared.cancellations.cancel(pid, &secret);
                return None;
            }
            Heard::Frame(Opening::Startup { minor, mut parameters }) => {
                let unknown: Vec<String> =
                    parameters.keys().filter(|name| name.starts_with("_pq_.")).cloned().collect();
                parameters.retain(|name, _| !name.starts_with("_pq_."));
                if minor > 0 || !unknown.is_empty() {
                    let negotiate = NegotiateProtocolVersion::new(PROTOCOL_3_0, unknown);
                    wire.put(&PgWireBackendMessage::NegotiateProtocolVersion(negotiate)).ok()?;
                }
                return Some(parameters);
            }
            Heard::End => return None,
            Heard::Garbage(error) => {
                wire.put(&error_response(&error, Severity::Fatal)).ok()?;
                wire.close().await.ok()?;
                return None;
            }
        }
    }
}

/// A client with a session.
pub(crate) struct Connection {
    pub(crate) wire: Wire,
    pub(crate) worker: Worker,
    pub(crate) place: Place,
    pub(crate) zone: Tz,
    pub(crate) extended: Extended,
    shutdown: CancellationToken,
    deadline: CancellationToken,
}

impl Connection {
    fn start(
        mut wire: Wire,
        parameters: BTreeMap<String, String>,
        client: SocketAddr,
        place: Place,
        shared: &Shared,
    ) -> Result<Self, Box<(Wire, Error)>> {
        let session = match session_of(parameters, client, place.pid, &shared.engine) {
            Ok(session) => session,
            Err(error) => return Err(Box::new((wire, error))),
        };
        let utc = "+00:00".parse::<Tz>().map_err(|error| Error::new(SqlState::InternalError, error.to_string()));
        let opened = wire.put(&PgWireBackendMessage::Authentication(Authentication::Ok));
        let zone = match opened.and(utc) {
            Ok(zone) => zone,
            Err(error) => return Err(Box::new((wire, error))),
        };
        Ok(Self {
            wire,
            worker: Worker::new(session, shared.compute.clone()),
            place,
            zone,
            extended: Extended::default(),
            shutdown: shared.shutdown.clone(),
            deadline: shared.deadline.clone(),
        })
    }

    /// Answers messages until the client or the node ends.
    async fn run(&mut self) -> Result<(), Stop> {
        self.tell_parameters().await?;
        let key = SecretKey::Bytes(self.place.secret.clone());
        self.wire.put(&PgWireBackendMessage::BackendKeyData(BackendKeyData::new(self.place.pid, key)))?;
        self.ready().await?;
        loop {
            let heard = match self.wire.request_at_hand() {
                Some(heard) => heard,
                None => self.wait().await?,
            };
            match heard {
                Heard::End => return Err(Stop::Gone),
                Heard::Garbage(error) => return Err(Stop::Session(error)),
                Heard::Frame(framed) => {
                    if matches!(framed.request, Ok(Request::Terminate)) {
                        return Ok(());
                    }
                    self.answer(framed).await?;
                }
            }
        }
    }

    /// Nothing is at hand: what waits goes out, and the next message comes in.
    async fn wait(&mut self) -> Result<Heard<Framed>, Stop> {
        let interrupts = self.interrupts(CancellationToken::new());
        flush(&mut self.wire, &interrupts, false).await?;
        // Between the messages of one round the client still waits for an answer.
        let end = if self.extended.awaits_sync() { &self.deadline } else { &self.shutdown };
        tokio::select! {
            biased;
            () = end.cancelled() => Err(Stop::Session(shutting_down())),
            heard = self.wire.request() => Ok(heard),
        }
    }

    async fn answer(&mut self, framed: Framed) -> Result<(), Stop> {
        if self.extended.skips(&framed) {
            return Ok(());
        }
        let simple = matches!(framed.request, Ok(Request::Query(_)));
        let answered = match framed.request {
            Ok(Request::Query(text)) => Box::pin(self.query(&text)).await,
            Ok(Request::Sync) => {
                self.sync().await;
                return self.ready().await.map_err(Stop::Session);
            }
            // What a client had on its way when its COPY failed.
            Ok(Request::CopyData(_) | Request::CopyDone | Request::CopyFail(_)) => return Ok(()),
            Ok(Request::Terminate) => Ok(()),
            Ok(request) => self.extended_request(request).await,
            Err(error) => Err(error.into()),
        };
        match answered {
            Ok(()) => {}
            Err(Stop::Statement(error)) => {
                // The error goes out before the session is waited for, which may still be computing what was cancelled.
                self.wire.put(&error_response(&error, Severity::Error))?;
                self.wire.flush().await?;
                self.worker.session().await.fail_transaction();
                self.extended.failed(framed.extended);
            }
            Err(stop) => return Err(stop),
        }
        if simple || !framed.extended {
            self.ready().await?;
        }
        Ok(())
    }

    /// What may end a statement that runs under `cancel`.
    pub(crate) fn interrupts(&self, cancel: CancellationToken) -> Interrupts {
        Interrupts { cancel, shutdown: self.shutdown.clone(), deadline: self.deadline.clone() }
    }

    /// Notices of the session, in front of what they belong to.
    pub(crate) async fn tell_notices(&mut self) -> Result<()> {
        let notices = self.worker.session().await.take_notices();
        notices.iter().try_for_each(|notice| self.wire.put(&notice_response(notice)))
    }

    async fn tell_parameters(&mut self) -> Result<()> {
        let changes = self.worker.session().await.take_parameter_changes();
        for (name, value) in changes {
            if name.eq_ignore_ascii_case("timezone") {
                // A zone unknown here keeps the one before: times are right in any zone, as they carry its offset.
                self.zone = value.parse().unwrap_or(self.zone);
            }
            self.wire.put(&PgWireBackendMessage::ParameterStatus(ParameterStatus::new(name, value)))?;
        }
        Ok(())
    }

    async fn ready(&mut self) -> Result<()> {
        self.tell_notices().await?;
        self.tell_parameters().await?;
        let status = match self.worker.session().await.transaction_status() {
            TransactionStatus::Idle => WireStatus::Idle,
            TransactionStatus::InBlock => WireStatus::Transaction,
            TransactionStatus::Failed => WireStatus::Error,
        };
        self.wire.put(&PgWireBackendMessage::ReadyForQuery(ReadyForQuery::new(status)))
    }
}

/// A session as the startup message asks for it.
fn session_of(
    mut parameters: BTreeMap<String, String>,
    client: SocketAddr,
    backend_pid: i32,
    engine: &Engine,
) -> Result<Session> {
    let user = parameters.remove("user").filter(|user| !user.is_empty()).ok_or_else(|| {
        Error::new(SqlState::InvalidAuthorization, "no user name is given in the startup packet")
            .with_hint("any name will do")
    })?;
    if parameters.remove("replication").is_some_and(|value| !matches!(value.as_str(), "false" | "off" | "no" | "0")) {
        return Err(Error::unsupported("a replication connection").with_hint("COPY (SELECT … EMIT CHANGES) TO STDOUT"));
    }
    parameters.remove("database");
    let application_name = parameters.remove("application_name").unwrap_or_default();
    let options = parameters.remove("options").unwrap_or_default();
    let mut session = engine.session(SessionOptions {
        user,
        database: DATABASE.to_owned(),
        application_name,
        client_addr: client.to_string(),
        backend_pid,
    });
    for (name, value) in options_of(&options)? {
        session.set(&name, &value)?;
    }
    for (name, value) in parameters {
        // Some drivers send the encoding's name in quotes, which Postgres passes over as it does punctuation.
        let value = if name == "client_encoding" { value.trim_matches('\'') } else { &value };
        session.set(&name, value)?;
    }
    Ok(session)
}

/// `-c name=value --name=value`, spaces escaped by a backslash.
fn options_of(options: &str) -> Result<Vec<(String, String)>> {
    let mut words = vec![String::new()];
    let mut chars = options.chars();
    while let Some(char) = chars.next() {
        match (char, words.last_mut()) {
            ('\\', Some(word)) => word.extend(chars.next()),
            (space, _) if space.is_whitespace() => words.push(String::new()),
            (char, Some(word)) => word.push(char),
            (_, None) => {}
        }
    }
    let mut settings = Vec::new();
    let mut words = words.into_iter().filter(|word| !word.is_empty());
    while let Some(word) = words.next() {
        let assignment = match word.as_str() {
            "-c" => words.next().unwrap_or_default(),
            word => word.strip_prefix("--").or_else(|| word.strip_prefix("-c")).unwrap_or_default().to_owned(),
        };
        let Some((name, value)) = assignment.split_once('=') else {
            return Err(Error::new(
                SqlState::SyntaxError,
                format!("invalid command-line argument for server process: {word}"),
            )
            .with_hint("options are written -c name=value"));
        };
        settings.push((name.replace('-', "_"), value.to_owned()));
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_settings_with_escaped_spaces() {
        let options = options_of(r"-c search_path=a,\ b --statement-timeout=5 -cTimeZone=UTC").unwrap();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(options, [pair("search_path", "a, b"), pair("statement_timeout", "5"), pair("TimeZone", "UTC")]);
        assert!(options_of("-x").is_err());
        assert!(options_of("").unwrap().is_empty());
    }
}
