//! Which objects hold which offsets: per topic one truth, published by compare-and-swap, fenced by epoch.
//!
//! 1. A run of tiering puts an object, then hands an [`model::Entry`] to [`publish::publish`].
//! 2. `publish` makes the next [`model::TopicManifest`] (pure), checks [`invariant`]s, encodes it ([`codec`]) and puts it
//!    under the next version.
//! 3. Only when that counts does [`snapshot::Manifests`] show it to readers, who hold what they pinned.

pub(crate) mod codec;
pub(crate) mod invariant;
pub(crate) mod model;
pub(crate) mod publish;
pub(crate) mod snapshot;
