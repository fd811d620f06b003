//! From a statement to a DataFusion plan.

pub(crate) mod continuous;
