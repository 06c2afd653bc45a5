//! What every client of the Kubernetes API needs: object metadata, a cache with
//! read-your-writes, watches, write errors, and Events.

pub mod cache;
pub mod events;
mod object;
pub mod text;
pub(crate) mod writes;

pub use self::object::{ObjectKey, ObjectMeta};
