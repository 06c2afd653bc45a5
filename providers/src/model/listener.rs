//! Listeners, their owners and their backends.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::ops::{Deref, Sub};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;

use super::options::ListenerOptions;
use super::port::{Protocol, Transport};

/// A front port of a load balancer, with its backends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Listener {
    /// The claim and port that it is for
    pub owner: Owner,
    /// Its backends; a listener may have none, and then refuses connections
    #[serde(default)]
    pub backends: BackendSet,
    /// Which clients it serves, and how it distributes them
    #[serde(default, skip_serializing_if = "ListenerOptions::is_default")]
    pub options: ListenerOptions,
}

impl Listener {
    /// A listener with default options.
    #[must_use]
    pub fn new(owner: Owner, backends: impl Into<BackendSet>) -> Self {
        Self { owner, backends: backends.into(), options: ListenerOptions::default() }
    }

    /// The backends of one of its transports: the reverse of [`Backend::by_transport`].
    #[must_use]
    pub fn backends_of(&self, transport: Transport) -> BTreeSet<Backend> {
        let backends = self.backends.iter().filter(|backend| backend.takes(transport));
        backends.map(|backend| Backend { transport: None, ..backend.clone() }).collect()
    }
}

/// The claim and port that a listener is for. Providers record it beside the listener (in a
/// tag or an annotation), where an admin can read it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Owner {
    /// Namespace of the claim
    pub namespace: Arc<str>,
    /// Name of the claim
    pub claim: Arc<str>,
    /// Name of the claim's port; may be empty if it is the only one
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub port: Arc<str>,
}

impl Owner {
    /// The owner of a listener whose record is missing or damaged. It differs from
    /// the owner of every desired listener.
    #[must_use]
    pub fn unknown() -> Self {
        Self { namespace: "".into(), claim: "".into(), port: "".into() }
    }

    /// Whether the record of the listener is missing or damaged.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        self.claim.is_empty()
    }

    /// Whether both are ports of one claim.
    #[must_use]
    pub fn is_same_claim(&self, other: &Self) -> bool {
        self.namespace == other.namespace && self.claim == other.claim
    }

    /// Parses the text of [`fmt::Display`]; `None`: it is another text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split('/').collect();
        let (namespace, claim, port) = match *parts.as_slice() {
            [namespace, claim] => (namespace, claim, ""),
            [namespace, claim, port] if !port.is_empty() => (namespace, claim, port),
            _ => return None,
        };
        let named = !namespace.is_empty() && !claim.is_empty();
        named.then(|| Self { namespace: namespace.into(), claim: claim.into(), port: port.into() })
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.claim)?;
        if self.port.is_empty() { Ok(()) } else { write!(f, "/{}", self.port) }
    }
}

/// An address and port that traffic goes to.
#[skip_serializing_none]
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Backend {
    /// IPv4 or IPv6; a listener may have both
    pub address: IpAddr,
    /// 1 to 65535
    pub port: NonZeroU16,
    /// The name of the pod, in the namespace of the listener's owner; `None`: the address is
    /// not that of a pod
    pub pod: Option<Arc<str>>,
    /// The node that it runs on, if known
    pub node: Option<Arc<str>>,
    /// For a node port: the node's id at its cloud, as in its `spec.providerID`
    /// (`aws:///eu-central-1a/i-0123456789abcdef0`)
    pub provider_id: Option<Arc<str>>,
    /// The only transport whose traffic it gets, behind a listener of both with different
    /// backends for each; `None`: every transport of the listener
    pub transport: Option<Transport>,
}

/// The backends of a listener, in their order.
///
/// A large class has ten thousands of listeners, most with one or two backends, and each
/// is kept by several: copies share the memory of their backends.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "BTreeSet<Backend>")]
pub struct BackendSet(Arc<[Backend]>);

impl BackendSet {
    /// Whether this backend is one of them.
    #[must_use]
    pub fn contains(&self, backend: &Backend) -> bool {
        self.0.binary_search(backend).is_ok()
    }
}

impl Sub for &BackendSet {
    type Output = BackendSet;

    fn sub(self, others: Self) -> BackendSet {
        self.iter().filter(|backend| !others.contains(backend)).cloned().collect()
    }
}

impl Deref for BackendSet {
    type Target = [Backend];

    fn deref(&self) -> &[Backend] {
        &self.0
    }
}

impl<'a> IntoIterator for &'a BackendSet {
    type Item = &'a Backend;
    type IntoIter = std::slice::Iter<'a, Backend>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl FromIterator<Backend> for BackendSet {
    fn from_iter<I: IntoIterator<Item = Backend>>(backends: I) -> Self {
        BTreeSet::from_iter(backends).into()
    }
}

impl From<BTreeSet<Backend>> for BackendSet {
    fn from(backends: BTreeSet<Backend>) -> Self {
        Self(backends.into_iter().collect())
    }
}

impl<const N: usize> From<[Backend; N]> for BackendSet {
    fn from(backends: [Backend; N]) -> Self {
        backends.into_iter().collect()
    }
}

impl Backend {
    /// The backends of a listener of this protocol, from those of each of its transports. A
    /// backend of both transports is one element, so that a listener has one representation.
    #[must_use]
    pub fn by_transport(protocol: Protocol, of: impl Fn(Transport) -> BTreeSet<Self>) -> BTreeSet<Self> {
        let of_each: Vec<(Transport, BTreeSet<Self>)> =
            protocol.transports().iter().map(|&transport| (transport, of(transport))).collect();
        let of_all = |backend: &Self| of_each.iter().all(|(_, backends)| backends.contains(backend));
        let mark = |transport: Transport, backend: &Self| {
            let transport = (!of_all(backend)).then_some(transport);
            Self { transport, ..backend.clone() }
        };
        of_each
            .iter()
            .flat_map(|(transport, backends)| backends.iter().map(move |backend| mark(*transport, backend)))
            .collect()
    }

    /// Whether it gets the traffic of this transport.
    #[must_use]
    pub fn takes(&self, transport: Transport) -> bool {
        self.transport.is_none_or(|only| only == transport)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backends(ports: &[u16]) -> BTreeSet<Backend> {
        let backend = |port: &u16| Backend {
            address: [10, 244, 0, 1].into(),
            port: (*port).try_into().unwrap(),
            pod: None,
            node: None,
            provider_id: None,
            transport: None,
        };
        ports.iter().map(backend).collect()
    }

    #[test]
    fn each_transport_of_a_listener_reads_back_with_its_own_backends() {
        let of = |transport| backends(if transport == Transport::Tcp { &[1, 2] } else { &[2, 3] });
        let owner = Owner { namespace: "".into(), claim: "".into(), port: "".into() };
        let listener = Listener::new(owner, Backend::by_transport(Protocol::TcpUdp, of));
        let marks: Vec<_> = listener.backends.iter().map(|backend| (backend.port.get(), backend.transport)).collect();
        assert_eq!(marks, [(1, Some(Transport::Tcp)), (2, None), (3, Some(Transport::Udp))]);
        for transport in [Transport::Tcp, Transport::Udp] {
            assert_eq!(listener.backends_of(transport), of(transport));
        }
    }

    #[test]
    fn backends_that_get_the_traffic_of_every_transport_bear_no_mark() {
        for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::TcpUdp] {
            assert_eq!(Backend::by_transport(protocol, |_| backends(&[1, 2])), backends(&[1, 2]), "{protocol}");
        }
    }

    #[test]
    fn an_owner_reads_back_as_it_was_written() {
        for text in ["team-a/redis", "team-a/redis/metrics"] {
            assert_eq!(Owner::parse(text).map(|o| o.to_string()).as_deref(), Some(text));
        }
        for nonsense in
            ["", "nonsense", "/", "//", "team/", "/redis", "team//main", "team/redis/", "team/redis/main/more"]
        {
            assert_eq!(Owner::parse(nonsense), None, "{nonsense}");
        }
    }
}
