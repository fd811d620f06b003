//! Aquifer's server: who speaks with us. One door, [`Server`]: three listeners, bound before anything is served.
//!
//! 1. [`Server::bind`] takes the ports (port 0: a free one) and fails by name if one is busy.
//! 2. [`Server::run`] serves until the token is cancelled, then drains.

pub mod listen;
pub mod settings;

mod http;
mod kafka;
mod postgres;
mod server;

pub use http::describe_metrics;
pub use server::{Addresses, BoundAddresses, Components, Server};
