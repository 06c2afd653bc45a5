//! The one place that compares what is with what should be.

use std::collections::BTreeSet;

use crate::model::{Attributes, Backend, Listener, ListenerKey, LoadBalancer, Owner};

/// One step from what is to what should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Give the load balancer these settings.
    Configure(Attributes),
    /// Close a listener.
    Close(ListenerKey),
    /// Open a listener, with its backends.
    Open(ListenerKey, Listener),
    /// Change the backends of a listener that stays open.
    Backends {
        /// Which listener
        listener: ListenerKey,
        /// Backends that it does not have yet
        add: BTreeSet<Backend>,
        /// Backends that it should no longer have
        remove: BTreeSet<Backend>,
    },
    /// Write down another owner beside a listener that stays open with the same
    /// backends.
    Own(ListenerKey, Owner),
}

impl Change {
    /// The listener that it is about, if it is about one.
    #[must_use]
    pub fn listener(&self) -> Option<ListenerKey> {
        match self {
            Self::Configure(_) => None,
            Self::Close(key) | Self::Open(key, _) | Self::Own(key, _) => Some(*key),
            Self::Backends { listener, .. } => Some(*listener),
        }
    }
}

/// The changes that lead from `observed` to `desired`: settings first, then what
/// is to be closed, so that a port is free before another protocol opens on it,
/// then what is to be opened, and backends last.
///
/// Carrying them out on `observed` (see [`replay`]) gives `desired`.
#[must_use]
pub fn diff(observed: &LoadBalancer, desired: &LoadBalancer) -> Vec<Change> {
    let mut configure = Vec::new();
    if observed.attributes != desired.attributes {
        configure.push(Change::Configure(desired.attributes.clone()));
    }
    let close =
        observed.listeners.keys().filter(|key| !desired.listeners.contains_key(key)).copied().map(Change::Close);
    let (mut open, mut alter) = (Vec::new(), Vec::new());
    for (key, wanted) in &desired.listeners {
        let Some(found) = observed.listeners.get(key) else {
            open.push(Change::Open(*key, wanted.clone()));
            continue;
        };
        if found.owner != wanted.owner {
            alter.push(Change::Own(*key, wanted.owner.clone()));
        }
        if found.backends != wanted.backends {
            alter.push(Change::Backends {
                listener: *key,
                add: &wanted.backends - &found.backends,
                remove: &found.backends - &wanted.backends,
            });
        }
    }
    configure.into_iter().chain(close).chain(open).chain(alter).collect()
}

/// Carries the changes out on data. It is how the kept state follows what a
/// provider did, and the whole of the `memory` provider.
pub fn replay<'a>(load_balancer: &mut LoadBalancer, changes: impl IntoIterator<Item = &'a Change>) {
    for change in changes {
        match change {
            Change::Configure(attributes) => load_balancer.attributes.clone_from(attributes),
            Change::Close(key) => {
                load_balancer.listeners.remove(key);
            }
            Change::Open(key, listener) => {
                load_balancer.listeners.insert(*key, listener.clone());
            }
            Change::Backends { listener, add, remove } => {
                if let Some(listener) = load_balancer.listeners.get_mut(listener) {
                    listener.backends.retain(|backend| !remove.contains(backend));
                    listener.backends.extend(add.iter().cloned());
                }
            }
            Change::Own(key, owner) => {
                if let Some(listener) = load_balancer.listeners.get_mut(key) {
                    listener.owner = owner.clone();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::num::NonZeroU16;

    use proptest::prelude::*;

    use super::*;
    use crate::model::Protocol;

    fn load_balancers() -> impl Strategy<Value = LoadBalancer> {
        let backend = (0u8..4, 1u16..3).prop_map(|(host, port)| Backend {
            address: IpAddr::V4(Ipv4Addr::new(10, 244, 0, host)),
            port: NonZeroU16::new(port).unwrap(),
            pod: Some(format!("pod-{host}").into()),
            node: None,
            provider_id: None,
        });
        let owner = (0u8..3).prop_map(|n| Owner {
            namespace: "team".into(),
            claim: format!("claim-{n}").into(),
            port: "".into(),
        });
        let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp), Just(Protocol::TcpUdp)];
        let key = (1u16..6, protocol)
            .prop_map(|(port, protocol)| ListenerKey { port: NonZeroU16::new(port).unwrap(), protocol });
        let listener = (owner, prop::collection::btree_set(backend, 0..4))
            .prop_map(|(owner, backends)| Listener { owner, backends });
        let attributes = prop::collection::btree_map("[ab]", "[xy]", 0..2);
        (attributes, prop::collection::btree_map(key, listener, 0..6))
            .prop_map(|(attributes, listeners)| LoadBalancer { attributes, listeners })
    }

    proptest! {
        #[test]
        fn carrying_out_the_diff_of_a_and_b_on_a_gives_b(a in load_balancers(), b in load_balancers()) {
            let mut replayed = a.clone();
            replay(&mut replayed, &diff(&a, &b));
            prop_assert_eq!(replayed, b);
        }

        #[test]
        fn what_is_as_it_should_be_needs_no_change(a in load_balancers()) {
            prop_assert_eq!(diff(&a, &a), vec![]);
        }

        #[test]
        fn what_is_to_be_closed_comes_before_what_is_to_be_opened(a in load_balancers(), b in load_balancers()) {
            let changes = diff(&a, &b);
            let last_close = changes.iter().rposition(|c| matches!(c, Change::Close(_)));
            let first_open = changes.iter().position(|c| matches!(c, Change::Open(..)));
            if let (Some(close), Some(open)) = (last_close, first_open) {
                prop_assert!(close < open);
            }
        }
    }
}
