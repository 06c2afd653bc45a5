//! Keys and metadata of objects.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use kube::Resource;

/// The namespace and the name of an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Its namespace; empty for a cluster-scoped object
    pub namespace: Arc<str>,
    /// Its name
    pub name: Arc<str>,
}

impl ObjectKey {
    /// The key of an object.
    #[must_use]
    pub fn of(object: &impl Resource) -> Self {
        let meta = object.meta();
        Self {
            namespace: meta.namespace.as_deref().unwrap_or_default().into(),
            name: meta.name.as_deref().unwrap_or_default().into(),
        }
    }

    /// The key of a cluster-scoped object.
    #[must_use]
    pub fn cluster_scoped(name: &str) -> Self {
        Self { namespace: "".into(), name: name.into() }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.namespace {
            "" => write!(f, "{}", self.name),
            namespace => write!(f, "{namespace}/{}", self.name),
        }
    }
}

/// The metadata of an object, as far as it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Its namespace and name
    pub key: ObjectKey,
    /// Its uid
    pub uid: Arc<str>,
    /// Its resourceVersion. The versions of objects of one kind are ordered (KEP-5504), so
    /// that a newer one can be told from an older one.
    pub version: u64,
    /// The generation of its spec
    pub generation: i64,
    /// When it was created
    pub created: Timestamp,
    /// Whether it is being deleted
    pub deleting: bool,
    /// All its finalizers
    pub finalizers: Vec<String>,
}

impl ObjectMeta {
    /// Reads the metadata of an object.
    #[must_use]
    pub fn of(object: &impl Resource) -> Self {
        let meta = object.meta();
        Self {
            key: ObjectKey::of(object),
            uid: meta.uid.as_deref().unwrap_or_default().into(),
            version: meta.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0),
            generation: meta.generation.unwrap_or(0),
            created: meta.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0),
            deleting: meta.deletion_timestamp.is_some(),
            finalizers: meta.finalizers.clone().unwrap_or_default(),
        }
    }
}
