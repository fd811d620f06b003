//! What can go wrong in a benchmark, in words: nobody acts on its kind, somebody reads it.

/// Any failure, told by its message.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The result of everything here that can fail.
pub(crate) type Result<T> = std::result::Result<T, Failure>;
