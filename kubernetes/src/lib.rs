//! What every client of the Kubernetes API needs: object metadata, a cache with
//! read-your-writes, watches, limits of requests, write errors, conditions and Events.
//!
//! The controller uses it, and so does every provider that keeps objects in a cluster. Of
//! SharedLB it knows the names of labels, and the name that its Events and writes have.

pub mod cache;
pub mod conditions;
pub mod error;
pub mod events;
pub mod names;
mod object;
pub mod parameters;
pub mod requests;
pub mod text;
pub mod watch;
pub mod writes;

pub use self::object::{ObjectKey, ObjectMeta};
