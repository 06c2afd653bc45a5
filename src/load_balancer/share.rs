//! Which backends are served where there are more than a load balancer takes.
//! Pure.

use sharedlb_providers::share::{self, chosen};
pub(crate) use sharedlb_providers::share::{TargetLimits, shares};
use sharedlb_providers::{Backend, BackendSet, ListenerKey};

/// That some backends of a listener get no traffic, since there are too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LeftOut {
    /// Backends that get traffic
    pub served: u32,
    /// Backends that there are
    pub all: u32,
    /// What the load balancer takes
    pub limit: u32,
    /// Whether it takes that many behind one listener, or in all
    pub of_listener: bool,
}

/// So many of the backends of a listener, always the same ones as far as they
/// are there: when one comes or goes, at most one other changes (rendezvous
/// hashing). Each listener has others, so that no backend is in all of them.
pub(crate) fn subset(listener: ListenerKey, backends: &BackendSet, most: u32) -> BackendSet {
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    if backends.len() <= most {
        return backends.clone();
    }
    let listener = listener.to_string();
    chosen(backends, most, |backend| rank(&listener, backend)).into_iter().cloned().collect()
}

fn rank(listener: &str, backend: &Backend) -> u64 {
    let (address, port) = (backend.address.to_string(), backend.port.get().to_be_bytes());
    let id = backend.provider_id.as_deref().unwrap_or_default();
    share::rank([listener.as_bytes(), address.as_bytes(), &port, id.as_bytes()])
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use proptest::prelude::*;
    use sharedlb_providers::Protocol;

    use super::*;

    fn backend(n: u16) -> Backend {
        let [high, low] = n.to_be_bytes();
        let address = IpAddr::V4(Ipv4Addr::new(10, 244, high, low));
        Backend { address, port: 6379.try_into().unwrap(), pod: None, node: None, provider_id: None, transport: None }
    }

    fn listener(port: u16) -> ListenerKey {
        ListenerKey { port: port.try_into().unwrap(), protocol: Protocol::Tcp }
    }

    proptest! {
        #[test]
        fn a_backend_that_comes_or_goes_changes_at_most_one_other(
            hosts in prop::collection::btree_set(0u16..2000, 2..200), port in 1u16..1000, most in 1u32..100,
        ) {
            let all: BackendSet = hosts.iter().copied().map(backend).collect();
            let before = subset(listener(port), &all, most);
            prop_assert_eq!(before.len(), all.len().min(most as usize));
            for gone in all.iter().take(20) {
                let left = all.iter().filter(|each| *each != gone).cloned().collect();
                let after = subset(listener(port), &left, most);
                let (lost, won) = ((&before - &after).len(), (&after - &before).len());
                prop_assert!(lost <= 1 && won <= 1, "{lost} lost and {won} won");
                prop_assert!(before.contains(gone) || before == after, "one that got no traffic is missed by nobody");
            }
        }

        #[test]
        fn a_smaller_share_is_part_of_a_larger_one(hosts in prop::collection::btree_set(0u16..2000, 2..100), most in 1u32..50) {
            let all: BackendSet = hosts.into_iter().map(backend).collect();
            let (less, more) = (subset(listener(1), &all, most), subset(listener(1), &all, most + 1));
            prop_assert!(less.iter().all(|backend| more.contains(backend)));
        }
    }

    #[test]
    fn listeners_choose_different_backends() {
        let all: BackendSet = (0..100).map(backend).collect();
        let mut times = std::collections::BTreeMap::<Backend, u32>::new();
        for port in 1..=200 {
            for chosen in &subset(listener(port), &all, 10) {
                *times.entry(chosen.clone()).or_default() += 1;
            }
        }
        // Each is chosen 20 times on average.
        assert_eq!(times.len(), 100);
        assert!(times.values().all(|times| (4..40).contains(times)), "{times:?}");
    }
}
