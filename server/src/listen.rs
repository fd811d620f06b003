//! `Listener`: one protocol's port, on every address its name stands for.
//!
//! `localhost` and `127.0.0.1` listen on 127.0.0.1 and on ::1 with the same port, because clients resolve `localhost`
//! to ::1 first. Where the machine has no ::1 the IPv4 one alone does.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};

/// A bound port.
#[derive(Debug)]
pub struct Listener {
    first: TcpListener,
    second: Option<TcpListener>,
    local_addr: SocketAddr,
}

impl Listener {
    /// Binds `HOST:PORT`; port 0 takes a free one. `protocol` is for the error.
    ///
    /// # Errors
    /// What the operating system says, with protocol and address in front.
    pub async fn bind(protocol: &'static str, address: &str) -> io::Result<Self> {
        let name = |error: io::Error| {
            io::Error::new(error.kind(), format!("cannot listen for {protocol} on {address}: {error}"))
        };
        let first = TcpListener::bind(address).await.map_err(name)?;
        let local_addr = first.local_addr()?;
        let loopback_v4 = local_addr.ip().is_loopback() && local_addr.is_ipv4();
        let second = if loopback_v4 { TcpListener::bind(("::1", local_addr.port())).await.ok() } else { None };
        Ok(Self { first, second, local_addr })
    }

    /// The first address, with the real port.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The next connection on any of the addresses.
    ///
    /// # Errors
    /// What the operating system says; the caller may go on.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        match &self.second {
            None => self.first.accept().await,
            Some(second) => tokio::select! {
                accepted = self.first.accept() => accepted,
                accepted = second.accept() => accepted,
            },
        }
    }
}
