//! Which objects hold which offsets: per topic one truth, published by compare-and-swap, fenced by epoch.
//!
//! 1. Whoever has put an object hands an [`edit::Edit`] to `Cold::publish`, which lets one at a time through per topic.
//! 2. [`publish::Publisher`] has the next [`model::TopicManifest`] made ([`draft`]: only what the edit hits is read and
//!    rewritten), [`invariant`]s checked, encodes it ([`codec`]) and puts it under the next version.
//! 3. Only when that counts does [`snapshot::Manifests`] show it to readers, who hold what they pinned and read its
//!    chunks when they need them ([`walk`]).

pub(crate) mod chunks;
pub(crate) mod codec;
pub(crate) mod draft;
pub(crate) mod edit;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod fuzz;
pub(crate) mod invariant;
pub(crate) mod model;
pub(crate) mod publish;
pub(crate) mod snapshot;
#[cfg(test)]
mod tests;
pub(crate) mod uploads;
pub(crate) mod walk;
