//! From a statement to a DataFusion plan.

pub(crate) mod bind;
pub(crate) mod continuous;
pub(crate) mod hidden;
pub(crate) mod naming;
pub(crate) mod pair;
pub(crate) mod parameters;
pub(crate) mod point;
pub(crate) mod returning;
pub(crate) mod scalar;
pub(crate) mod spelling;
pub(crate) mod travel;
pub(crate) mod union;
