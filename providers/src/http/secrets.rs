//! Credentials, and the Secrets that they are made of.

use std::collections::BTreeMap;

use async_trait::async_trait;
use reqwest::header::HeaderMap;
use secrecy::SecretString;

use crate::Error;

/// The content of a Secret.
#[derive(Debug, Clone, Default)]
pub struct SecretData {
    /// The values by their keys. Those that are no text are not among them.
    pub values: BTreeMap<String, SecretString>,
    /// The annotations
    pub annotations: BTreeMap<String, String>,
}

/// Reads Secrets by name, in the namespace of the controller: an admin writes a class, and so
/// names no Secret of a tenant.
#[async_trait]
pub trait Secrets: Send + Sync {
    /// The content of a Secret.
    ///
    /// # Errors
    /// [`Error::Refused`] if there is no such Secret or it may not be read, and the error of the
    /// request.
    async fn read(&self, name: &str) -> Result<SecretData, Error>;
}

/// The credentials of a client.
#[async_trait]
pub(crate) trait Credentials: Send + Sync {
    /// The headers of the next call, marked as sensitive.
    ///
    /// # Errors
    /// When there are none.
    async fn headers(&self) -> Result<HeaderMap, Unavailable>;

    /// Has them made again, from what is there now: the API has refused them.
    async fn renew(&self);
}

/// There are no credentials.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{why}")]
pub(crate) struct Unavailable {
    /// What is missing, and what to do about it
    pub(crate) why: String,
    /// Whether it may be there soon (a server does not answer)
    pub(crate) transient: bool,
}
