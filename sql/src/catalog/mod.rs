//! The catalog: which relations there are, and how they show.

pub mod postgres;
