//! Frames: what a client's bytes say, read without trusting a single length in them.
//!
//! pgwire's own decoders read a body's counts before they check that the bytes are there, and panic if they are not;
//! so the frontend's messages are taken apart here, inside their frame's bounds. A frame whose body lies costs an
//! error; one whose length or type lies costs the connection, because nobody knows where the next begins.

use std::collections::BTreeMap;

use aquifer_sql::error::{Error, Result, SqlState};
use bytes::{Buf, Bytes, BytesMut};

/// Largest frame before a session is open; Postgres's own limit.
pub(crate) const OPENING_BYTES_MAX: usize = 10_000;

const SSL_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;
const CANCEL_REQUEST: u32 = 80_877_102;
const LENGTH_BYTES: usize = 4;
const HEADER_BYTES: usize = 1 + LENGTH_BYTES;

/// What a connection may open with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Opening {
    /// Asks for TLS; answered by one byte.
    Ssl,
    /// Asks for GSS encryption; answered by one byte.
    Gss,
    /// Ends the statement of another connection.
    Cancel { pid: i32, secret: Bytes },
    /// Opens a session.
    Startup { minor: u16, parameters: BTreeMap<String, String> },
}

/// What a prepared name is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A prepared statement.
    Statement,
    /// A portal.
    Portal,
}

/// A portal to be made.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Bind {
    pub(crate) portal: String,
    pub(crate) statement: String,
    pub(crate) parameter_formats: Vec<i16>,
    pub(crate) parameters: Vec<Option<Bytes>>,
    pub(crate) result_formats: Vec<i16>,
}

/// A message of an open session.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Request {
    Query(String),
    Parse {
        name: String,
        query: String,
        type_oids: Vec<u32>,
    },
    Bind(Bind),
    Describe(Target, String),
    Execute {
        portal: String,
        rows_max: usize,
    },
    Close(Target, String),
    Flush,
    Sync,
    Terminate,
    /// Bytes of a COPY; nobody hears what comes after one that failed.
    CopyData(Bytes),
    /// A COPY's end.
    CopyDone,
    /// A COPY that the client gives up, and why.
    CopyFail(String),
}

impl Request {
    /// The kinds whose errors are answered once and then pass over everything up to Sync.
    fn is_extended(kind: u8) -> bool {
        matches!(kind, b'P' | b'B' | b'D' | b'E' | b'C' | b'H')
    }
}

/// One frame: what it says, or why its body cannot be read.
#[derive(Debug)]
pub(crate) struct Framed {
    /// Errors of it skip to Sync.
    pub(crate) extended: bool,
    /// What it says.
    pub(crate) request: Result<Request>,
}

fn violation(message: impl Into<String>) -> Error {
    Error::new(SqlState::ProtocolViolation, message)
}

/// Takes the next opening frame off `buffer`, if it is all there.
///
/// # Errors
/// 08P01 for what no client of Postgres sends; the connection is to be closed.
pub(crate) fn opening(buffer: &mut BytesMut) -> Result<Option<Opening>> {
    let Some(length) = buffer.first_chunk::<LENGTH_BYTES>().map(|bytes| u32::from_be_bytes(*bytes) as usize) else {
        return Ok(None);
    };
    if !(2 * LENGTH_BYTES..=OPENING_BYTES_MAX).contains(&length) {
        return Err(violation(format!("invalid length of startup packet: {length} bytes"))
            .with_hint("this port speaks Postgres's protocol; look whether the client is told the right one"));
    }
    if buffer.len() < length {
        return Ok(None);
    }
    let mut body = Body(buffer.split_to(length).freeze());
    body.0.advance(LENGTH_BYTES);
    let code = body.u32()?;
    Ok(Some(match code {
        SSL_REQUEST => Opening::Ssl,
        GSS_REQUEST => Opening::Gss,
        CANCEL_REQUEST => Opening::Cancel { pid: body.i32()?, secret: body.0 },
        _ if code >> 16 == 3 => {
            let mut parameters = BTreeMap::new();
            loop {
                let name = body.text()?;
                if name.is_empty() {
                    break;
                }
                parameters.insert(name, body.text()?);
            }
            #[expect(clippy::cast_possible_truncation, reason = "the low half is the minor version")]
            let minor = code as u16;
            Opening::Startup { minor, parameters }
        }
        _ => {
            let (major, minor) = (code >> 16, code & 0xffff);
            return Err(Error::new(
                SqlState::FeatureNotSupported,
                format!("unsupported frontend protocol {major}.{minor}: server supports 3.0"),
            ));
        }
    }))
}

/// Takes the next frame of an open session off `buffer`, if it is all there.
///
/// # Errors
/// 08P01 for an unknown type or an impossible length; the connection is to be closed.
pub(crate) fn request(buffer: &mut BytesMut, message_bytes_max: usize) -> Result<Option<Framed>> {
    let Some(header) = buffer.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let [kind, length @ ..] = *header;
    let length = u32::from_be_bytes(length) as usize;
    if !b"QPBDECHSXdcfpF".contains(&kind) {
        return Err(violation(format!("invalid frontend message type {kind}")));
    }
    if length < LENGTH_BYTES || length > message_bytes_max {
        return Err(violation(format!(
            "invalid length of message \"{}\": {length} bytes, at most {message_bytes_max} are taken",
            char::from(kind)
        ))
        .with_hint("send less at once, or raise postgres.message_bytes_max"));
    }
    if buffer.len() < 1 + length {
        return Ok(None);
    }
    let mut body = Body(buffer.split_to(1 + length).freeze());
    body.0.advance(HEADER_BYTES);
    Ok(Some(Framed { extended: Request::is_extended(kind), request: read(kind, body) }))
}

fn read(kind: u8, mut body: Body) -> Result<Request> {
    let request = match kind {
        b'Q' => Request::Query(body.text()?),
        b'P' => {
            let (name, query) = (body.text()?, body.text()?);
            Request::Parse { name, query, type_oids: body.counted(Body::u32)? }
        }
        b'B' => Request::Bind(Bind {
            portal: body.text()?,
            statement: body.text()?,
            parameter_formats: body.counted(Body::i16)?,
            parameters: body.counted(Body::value)?,
            result_formats: body.counted(Body::i16)?,
        }),
        b'D' => Request::Describe(body.target()?, body.text()?),
        b'C' => Request::Close(body.target()?, body.text()?),
        b'E' => Request::Execute { portal: body.text()?, rows_max: usize::try_from(body.i32()?).unwrap_or(0) },
        b'H' => Request::Flush,
        b'S' => Request::Sync,
        b'X' => Request::Terminate,
        b'd' => return Ok(Request::CopyData(body.0)),
        b'c' => Request::CopyDone,
        b'f' => Request::CopyFail(body.text()?),
        b'F' => return Err(Error::unsupported("the function call message").with_hint("call it in a SELECT")),
        _ => return Err(violation("a password was not asked for")),
    };
    if body.0.has_remaining() {
        return Err(violation(format!("invalid message format: {} bytes too many", body.0.len())));
    }
    Ok(request)
}

/// The rest of one frame's body.
struct Body(Bytes);

impl Body {
    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let taken = *self.0.first_chunk::<N>().ok_or_else(|| violation("insufficient data left in message"))?;
        self.0.advance(N);
        Ok(taken)
    }

    fn i16(&mut self) -> Result<i16> {
        Ok(i16::from_be_bytes(self.take()?))
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_be_bytes(self.take()?))
    }

    fn i32(&mut self) -> Result<i32> {
        Ok(i32::from_be_bytes(self.take()?))
    }

    fn text(&mut self) -> Result<String> {
        let end =
            self.0.iter().position(|byte| *byte == 0).ok_or_else(|| violation("a string in the message has no end"))?;
        let text = self.0.split_to(end);
        self.0.advance(1);
        String::from_utf8(text.into()).map_err(|error| {
            Error::new(
                SqlState::CharacterNotInRepertoire,
                format!("invalid byte sequence for encoding \"UTF8\" at byte {}", error.utf8_error().valid_up_to()),
            )
            .with_hint("client_encoding is UTF8; send text as such")
        })
    }

    fn value(&mut self) -> Result<Option<Bytes>> {
        let Ok(length) = usize::try_from(self.i32()?) else { return Ok(None) };
        if length > self.0.len() {
            return Err(violation("insufficient data left in message"));
        }
        Ok(Some(self.0.split_to(length)))
    }

    fn target(&mut self) -> Result<Target> {
        let [kind] = self.take()?;
        match kind {
            b'S' => Ok(Target::Statement),
            b'P' => Ok(Target::Portal),
            _ => Err(violation(format!("invalid message subtype {kind}"))),
        }
    }

    /// As many as a count says; nothing is reserved for what the body cannot hold.
    fn counted<T>(&mut self, mut one: impl FnMut(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let count = u16::from_be_bytes(self.take()?);
        (0..count).map(|_| one(self)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(kind: u8, body: &[u8]) -> BytesMut {
        let mut buffer = BytesMut::from(&[kind][..]);
        buffer.extend_from_slice(&u32::try_from(body.len() + 4).unwrap().to_be_bytes());
        buffer.extend_from_slice(body);
        buffer
    }

    #[test]
    fn a_query_is_read_only_when_all_of_it_is_there() {
        let whole = framed(b'Q', b"SELECT 1\0");
        let mut half = BytesMut::from(&whole[..7]);
        assert!(request(&mut half, 1000).unwrap().is_none());
        let mut buffer = whole;
        let read = request(&mut buffer, 1000).unwrap().unwrap().request.unwrap();
        assert_eq!(read, Request::Query("SELECT 1".into()));
        assert!(buffer.is_empty());
    }

    #[test]
    fn a_body_that_promises_more_than_it_holds_is_an_error_and_the_next_frame_is_read() {
        let mut buffer = framed(b'B', b"\0\0\xff\xff");
        buffer.extend_from_slice(&framed(b'S', b""));
        let framed = request(&mut buffer, 1000).unwrap().unwrap();
        assert!(framed.extended);
        assert_eq!(framed.request.unwrap_err().state, SqlState::ProtocolViolation);
        assert_eq!(request(&mut buffer, 1000).unwrap().unwrap().request.unwrap(), Request::Sync);
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_its_bytes_are_waited_for() {
        let mut buffer = BytesMut::from(&b"Q\x7f\xff\xff\xff"[..]);
        assert_eq!(request(&mut buffer, 1000).unwrap_err().state, SqlState::ProtocolViolation);
    }

    #[test]
    fn bytes_of_another_protocol_are_refused_by_name() {
        let mut buffer = BytesMut::from(&b"GET / HTTP/1.1\r\n"[..]);
        assert!(opening(&mut buffer).unwrap_err().message.starts_with("invalid length of startup packet"));
    }

    #[test]
    fn a_startup_names_its_parameters() {
        let mut body = 196_608_u32.to_be_bytes().to_vec();
        body.extend_from_slice(b"user\0bi\0\0");
        let mut buffer = BytesMut::new();
        buffer.extend_from_slice(&u32::try_from(body.len() + 4).unwrap().to_be_bytes());
        buffer.extend_from_slice(&body);
        let Some(Opening::Startup { minor, parameters }) = opening(&mut buffer).unwrap() else { panic!() };
        assert_eq!((minor, parameters["user"].as_str()), (0, "bi"));
    }
}
