//! What continuous queries compute with: operators that take changes and answer with changes, free of I/O, clocks and
//! async, so that the same input gives the same output wherever it is cut.
//!
//! A tick goes through [`chain::Chain::step`], which looks at the state and gives changes and a delta; the delta is
//! applied by [`chain::ChainState::apply`] only after the tick's commit is durable. State therefore never leads the log.

pub(crate) mod aggregate;
pub(crate) mod cell;
pub(crate) mod chain;
pub(crate) mod change;
pub(crate) mod filter;
pub(crate) mod window;
