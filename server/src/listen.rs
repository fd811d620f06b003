//! `Listener`: one protocol's port, on every address its name stands for.
//!
//! `localhost` and `127.0.0.1` listen on 127.0.0.1 and on ::1 with the same port, because clients resolve `localhost`
//! to ::1 first. Where the machine has no ::1 the IPv4 one alone does; where somebody else has the port on one of the
//! two it counts as busy, for clients would reach now us, now the other.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::{TcpListener, TcpStream};

/// Free ports tried until one is free on both addresses.
const FREE_PORT_ATTEMPTS: usize = 16;

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
        let free_port = address.ends_with(":0");
        let mut attempts_left = if free_port { FREE_PORT_ATTEMPTS } else { 1 };
        loop {
            attempts_left -= 1;
            match Self::bind_once(address).await {
                Ok(listener) => return Ok(listener),
                Err(error) if free_port && error.kind() == io::ErrorKind::AddrInUse && attempts_left > 0 => {}
                Err(error) => {
                    let message = format!("cannot listen for {protocol} on {address}: {error}");
                    return Err(io::Error::new(error.kind(), message));
                }
            }
        }
    }

    async fn bind_once(address: &str) -> io::Result<Self> {
        let first = TcpListener::bind(address).await?;
        let local_addr = first.local_addr()?;
        let second = match twin(address, local_addr.ip()) {
            Some(twin) => bind_twin(SocketAddr::new(twin, local_addr.port())).await?,
            None => None,
        };
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

/// The other address that `localhost` stands for; ::1 alone is asked for by its own name.
fn twin(asked: &str, bound: IpAddr) -> Option<IpAddr> {
    match bound {
        IpAddr::V4(Ipv4Addr::LOCALHOST) => Some(Ipv6Addr::LOCALHOST.into()),
        IpAddr::V6(Ipv6Addr::LOCALHOST) if asked.starts_with("localhost:") => Some(Ipv4Addr::LOCALHOST.into()),
        _ => None,
    }
}

/// Binds it unless the machine has no such address.
async fn bind_twin(address: SocketAddr) -> io::Result<Option<TcpListener>> {
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(error),
        Err(error) => {
            tracing::debug!(%address, %error, "the machine lacks this address");
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_busy_port_is_named_with_its_protocol() {
        let first = Listener::bind("kafka", "127.0.0.1:0").await.unwrap();
        let address = first.local_addr().to_string();
        let error = Listener::bind("kafka", &address).await.unwrap_err();
        assert!(error.to_string().starts_with(&format!("cannot listen for kafka on {address}")), "{error}");
    }

    #[tokio::test]
    async fn localhost_is_reached_by_either_name() {
        let listener = Listener::bind("kafka", "localhost:0").await.unwrap();
        let port = listener.local_addr().port();
        assert!(TcpStream::connect(("127.0.0.1", port)).await.is_ok());
        if TcpListener::bind("[::1]:0").await.is_ok() {
            assert!(TcpStream::connect(("::1", port)).await.is_ok());
        }
    }
}
