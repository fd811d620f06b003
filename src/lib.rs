//! Aquifer.
