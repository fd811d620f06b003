//! Settings of one session.
