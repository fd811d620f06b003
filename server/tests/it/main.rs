//! The listeners as a client meets them: a real storage, real ports, bytes on the wire.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod admin;
mod http;
mod kafka;
mod postgres;
