//! `Proxy`: what stands between a node and its object store when the way there is bad: it drops, delays, answers 500 and
//! 503 in the store's place, or lets the store do what was asked and swallows the answer. By seed.
//!
//! One request per connection: both sides are told to close, so no state is carried from one fault to the next request.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::wait::within;

/// A request's head is at most this large.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// How long a stalled request is kept without an answer.
const STALL_MAX: Duration = Duration::from_secs(60);
/// How long a delayed request waits.
const DELAY: Duration = Duration::from_millis(150);

/// How the way is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weather {
    /// Nothing happens to a request.
    Fair,
    /// A third of them suffer, each in its own way.
    Stormy,
    /// No connection stays open.
    Down,
    /// Nobody answers.
    Still,
    /// The store asks for patience.
    Throttling,
    /// A store that takes every put and keeps nothing.
    Forgetful,
}

/// What becomes of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Pass,
    Drop,
    Delay,
    Fail,
    Throttle,
    Swallow,
    Stall,
    Forget,
}

/// See the top of this file.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    listening: Option<JoinHandle<()>>,
}

struct Shared {
    target: SocketAddr,
    weather: Mutex<Weather>,
    seed: AtomicU64,
    suffered: AtomicU64,
    closed: AtomicBool,
}

impl Proxy {
    /// In front of `target`, in fair weather.
    pub(crate) fn start(target: SocketAddr, seed: u64) -> Self {
        println!("the proxy's seed is {seed}");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            target,
            weather: Mutex::new(Weather::Fair),
            seed: AtomicU64::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            suffered: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        });
        let of_listener = Arc::clone(&shared);
        let listening = std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if of_listener.closed.load(Ordering::SeqCst) {
                    return;
                }
                let shared = Arc::clone(&of_listener);
                std::thread::spawn(move || {
                    // A side that went away is what the other side is told.
                    let _ = shared.serve(stream);
                });
            }
        });
        Self { address, shared, listening: Some(listening) }
    }

    /// Changes the weather from the next request on.
    pub(crate) fn turn(&self, weather: Weather) {
        *self.shared.weather.lock().expect("the weather") = weather;
    }

    /// Requests that something has happened to.
    pub(crate) fn suffered(&self) -> u64 {
        self.shared.suffered.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        // Wakes the listener, which then sees that it is over.
        drop(TcpStream::connect(self.address));
        if let Some(listening) = self.listening.take() {
            let _ = listening.join();
        }
    }
}

impl Shared {
    fn weather(&self) -> Weather {
        *self.weather.lock().expect("the weather")
    }

    fn fate(&self) -> Fate {
        let fate = match self.weather() {
            Weather::Fair => Fate::Pass,
            Weather::Down => Fate::Drop,
            Weather::Still => Fate::Stall,
            Weather::Throttling => Fate::Throttle,
            Weather::Forgetful => Fate::Forget,
            Weather::Stormy => match self.next() % 100 {
                0..=6 => Fate::Drop,
                7..=13 => Fate::Delay,
                14..=19 => Fate::Fail,
                20..=23 => Fate::Throttle,
                24..=31 => Fate::Swallow,
                32 => Fate::Stall,
                _ => Fate::Pass,
            },
        };
        if fate != Fate::Pass {
            self.suffered.fetch_add(1, Ordering::SeqCst);
        }
        fate
    }

    /// Xorshift: the same seed gives the same faults, request by request.
    fn next(&self) -> u64 {
        let step = |mut state: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^ (state << 17)
        };
        let before = self.seed.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |state| Some(step(state)));
        step(before.unwrap_or(1)) >> 11
    }

    fn serve(&self, mut client: TcpStream) -> std::io::Result<()> {
        let Some(request) = read_request(&mut client)? else { return Ok(()) };
        match self.fate() {
            Fate::Pass => client.write_all(&self.forward(&request)?),
            Fate::Drop => Ok(()),
            Fate::Delay => {
                within(DELAY, || false);
                client.write_all(&self.forward(&request)?)
            }
            Fate::Fail => answer(&mut client, "500 Internal Server Error", "InternalError"),
            Fate::Throttle => answer(&mut client, "503 Service Unavailable", "SlowDown"),
            Fate::Forget => {
                client.write_all(b"HTTP/1.1 200 OK\r\nETag: \"1\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            }
            Fate::Swallow => self.forward(&request).map(drop),
            Fate::Stall => {
                let calm = || self.closed.load(Ordering::SeqCst) || self.weather() == Weather::Fair;
                within(STALL_MAX, calm);
                Ok(())
            }
        }
    }

    /// The store's whole answer.
    fn forward(&self, request: &[u8]) -> std::io::Result<Vec<u8>> {
        let mut store = TcpStream::connect(self.target)?;
        store.write_all(request)?;
        let mut answer = Vec::new();
        store.read_to_end(&mut answer)?;
        Ok(told_to_close(&answer))
    }
}

fn answer(client: &mut TcpStream, status: &str, code: &str) -> std::io::Result<()> {
    let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>by the proxy</Message></Error>");
    let length = body.len();
    write!(
        client,
        "HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

/// Head and body, with the head saying that the connection ends here; `None` if the client said nothing.
fn read_request(client: &mut TcpStream) -> std::io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    let head_end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        assert!(bytes.len() < HEAD_BYTES_MAX, "a request's head ends");
        match client.read(&mut buffer)? {
            0 => return Ok(None),
            count => bytes.extend_from_slice(&buffer[..count]),
        }
    };
    let head = String::from_utf8_lossy(&bytes[..head_end]).to_lowercase();
    assert!(!head.contains("transfer-encoding"), "the object store's client names the length of what it sends");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    let whole = head_end + length.unwrap_or(0);
    while bytes.len() < whole {
        match client.read(&mut buffer)? {
            0 => return Ok(None),
            count => bytes.extend_from_slice(&buffer[..count]),
        }
    }
    Ok(Some(told_to_close(&bytes)))
}

/// The message with `Connection: close` in its head.
fn told_to_close(message: &[u8]) -> Vec<u8> {
    let Some(head_end) = message.windows(4).position(|four| four == b"\r\n\r\n") else { return message.to_vec() };
    let head = String::from_utf8_lossy(&message[..head_end]).into_owned();
    let kept = head.split("\r\n").filter(|line| {
        let name = line.split(':').next().unwrap_or_default().to_lowercase();
        name != "connection" && name != "keep-alive"
    });
    let mut told = kept.collect::<Vec<_>>().join("\r\n").into_bytes();
    told.extend_from_slice(b"\r\nConnection: close");
    told.extend_from_slice(&message[head_end..]);
    told
}
