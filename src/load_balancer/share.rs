//! Which backends are served where there are more than a load balancer takes.
//! Pure.

use sharedlb_providers::model::fnv1a;
use sharedlb_providers::{Backend, BackendSet, ListenerKey};

/// How many backends a load balancer takes; `None`: as many as there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct TargetLimits {
    /// Behind one listener
    pub of_listener: Option<u32>,
    /// Behind all listeners together, one that is behind two counted twice
    pub in_all: Option<u32>,
}

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

/// How many backends each listener gets, of which there are so many: all that it
/// has, or else an equal share, and what some don't need is shared by the others.
///
/// Few of the shares change when one count does, and each by little, so that few
/// backends are exchanged: what can't be shared equally stays unused.
pub(crate) fn shares(counts: &[u32], limits: TargetLimits) -> Vec<u32> {
    let most = limits.of_listener.unwrap_or(u32::MAX);
    let mut shares: Vec<u32> = counts.iter().map(|count| (*count).min(most)).collect();
    let Some(in_all) = limits.in_all else { return shares };
    let used = |share: u32| shares.iter().map(|count| u64::from((*count).min(share))).sum::<u64>();
    let fits = |share: u32| used(share) <= u64::from(in_all);
    let highest = shares.iter().copied().max().unwrap_or(0);
    if fits(highest) {
        return shares;
    }
    // The highest share that fits: all above do not, all below do.
    let (mut low, mut high) = (0, highest);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if fits(middle) { low = middle } else { high = middle }
    }
    let mut left = if low == 0 { in_all } else { 0 };
    for share in shares.iter_mut().filter(|share| **share > 0) {
        // More listeners than backends fit: the first ones get one each.
        let one = u32::from(left > 0);
        left = left.saturating_sub(1);
        *share = (*share).min(low.max(one));
    }
    shares
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
    let mut ranked: Vec<(u64, &Backend)> = backends.iter().map(|backend| (rank(&listener, backend), backend)).collect();
    ranked.sort_unstable();
    ranked.into_iter().take(most).map(|(_, backend)| backend.clone()).collect()
}

fn rank(listener: &str, backend: &Backend) -> u64 {
    let (address, port) = (backend.address.to_string(), backend.port.get().to_be_bytes());
    let id = backend.provider_id.as_deref().unwrap_or_default();
    let hash = fnv1a([listener.as_bytes(), address.as_bytes(), &port, id.as_bytes()]);
    // Once more, or what differs in its last bytes alone would keep close together.
    fnv1a([hash.to_be_bytes().as_slice()])
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

    fn in_all(limit: u32) -> TargetLimits {
        TargetLimits { of_listener: None, in_all: Some(limit) }
    }

    #[test]
    fn each_gets_an_equal_share_and_what_some_do_not_need_goes_to_the_others() {
        assert_eq!(shares(&[3, 4], TargetLimits::default()), [3, 4]);
        assert_eq!(shares(&[3, 4], in_all(7)), [3, 4]);
        assert_eq!(shares(&[2, 100, 100], in_all(20)), [2, 9, 9]);
        assert_eq!(shares(&[2, 100, 100], TargetLimits { of_listener: Some(8), in_all: Some(20) }), [2, 8, 8]);
        assert_eq!(shares(&[100], TargetLimits { of_listener: Some(8), in_all: None }), [8]);
    }

    #[test]
    fn more_listeners_than_backends_fit_leave_the_last_ones_without() {
        assert_eq!(shares(&[5, 0, 5, 5], in_all(2)), [1, 0, 1, 0]);
        assert_eq!(shares(&[5, 5], in_all(0)), [0, 0]);
    }

    proptest! {
        #[test]
        fn shares_fit_and_one_backend_more_changes_none_by_more_than_one(
            counts in prop::collection::vec(0u32..50, 1..20), which in any::<prop::sample::Index>(), limit in 0u32..500,
        ) {
            let before = shares(&counts, in_all(limit));
            prop_assert!(before.iter().sum::<u32>() <= limit);
            prop_assert!(before.iter().zip(&counts).all(|(share, count)| share <= count));
            let mut grown = counts.clone();
            let which = which.index(counts.len());
            grown[which] += 1;
            for (n, (before, after)) in before.iter().zip(shares(&grown, in_all(limit))).enumerate() {
                prop_assert!(after <= *before || n == which, "a neighbour that grows gives nobody more");
                prop_assert!(before.abs_diff(after) <= 1);
            }
        }

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
