//! Where objects are in a project, and the URLs that name them.

use std::fmt;

/// The place of an object in its project: `regions/r/addresses/a`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ObjectPath(String);

impl ObjectPath {
    /// `path` is what follows `projects/PROJECT/` in a URL.
    pub(super) fn new(path: impl Into<String>) -> Self {
        Self(path.into())
    }

    /// The object of this name in a collection: `regions/r/addresses` and `a`.
    pub(super) fn within(collection: &str, name: &str) -> Self {
        Self(format!("{collection}/{name}"))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }

    /// The name of its collection: `addresses`.
    pub(super) fn collection(&self) -> &str {
        self.0.rsplit('/').nth(1).unwrap_or_default()
    }

    /// Where its collection is: `regions/r`, `zones/z` or `global`.
    pub(super) fn scope(&self) -> &str {
        scope(&self.0)
    }
}

impl fmt::Display for ObjectPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The scope that a path begins with.
pub(super) fn scope(path: &str) -> &str {
    let segments = if path.starts_with("global") { 1 } else { 2 };
    let end = path.match_indices('/').nth(segments - 1).map_or(path.len(), |(end, _)| end);
    &path[..end]
}

/// The kinds of objects that can be created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Address,
    HealthCheck,
    EndpointGroup,
    BackendService,
    ForwardingRule,
    Firewall,
}

impl Kind {
    /// The kind of a collection's objects.
    pub(super) fn of_collection(collection: &str) -> Option<Self> {
        Some(match collection {
            "addresses" => Self::Address,
            "healthChecks" => Self::HealthCheck,
            "networkEndpointGroups" => Self::EndpointGroup,
            "backendServices" => Self::BackendService,
            "forwardingRules" => Self::ForwardingRule,
            "firewalls" => Self::Firewall,
            _ => return None,
        })
    }

    /// The value of the field `kind`, without `compute#`.
    pub(super) fn api_name(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::HealthCheck => "healthCheck",
            Self::EndpointGroup => "networkEndpointGroup",
            Self::BackendService => "backendService",
            Self::ForwardingRule => "forwardingRule",
            Self::Firewall => "firewall",
        }
    }

    /// The kind in Google's messages.
    pub(super) fn in_messages(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::HealthCheck => "health_check",
            Self::EndpointGroup => "network_endpoint_group",
            Self::BackendService => "backend_service",
            Self::ForwardingRule => "forwarding_rule",
            Self::Firewall => "firewall",
        }
    }
}
