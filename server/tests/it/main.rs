//! The listeners as a client meets them: a real storage, real ports, bytes on the wire.

mod kafka;
