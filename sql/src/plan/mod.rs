//! From a statement to a DataFusion plan.
