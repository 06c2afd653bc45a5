//! The only comparison of observed and desired state.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};

use crate::model::{Listener, ListenerKey, LoadBalancer, Observed};

/// One step from the observed to the desired state. It names what differs, and how; the
/// values are in the desired load balancer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum Change {
    /// Give the load balancer its settings, and repair what has drifted
    /// ([`Observed::drift`]).
    Configure,
    /// Close a listener.
    Close(ListenerKey),
    /// Open a listener, with its backends.
    Open(ListenerKey),
    /// Replace listeners by others of the same claim that have a front port in common with
    /// them: TCP by TCP_UDP, for example. A listener that works is closed only when its
    /// successor can take over, and stays if the successor is refused. One that serves clients
    /// which its successor excludes is closed first instead.
    Replace {
        /// The listeners that close
        close: BTreeSet<ListenerKey>,
        /// Their successors
        open: BTreeSet<ListenerKey>,
    },
    /// Change the backends of a listener that stays open.
    Backends(ListenerKey),
    /// Change the recorded owner of a listener that stays open.
    Own(ListenerKey),
    /// Change the options of a listener that stays open. If its load balancer can have them
    /// only in another place, the listener may close for a moment. If it fails, the listener
    /// keeps its options, and of its other changes only that of its backends is carried out, if
    /// it stays with its claim.
    Options(ListenerKey),
}

impl Change {
    /// The listeners that it changes; none: it changes the load balancer as a whole.
    #[must_use]
    pub fn listeners(&self) -> BTreeSet<ListenerKey> {
        match self {
            Self::Configure => BTreeSet::new(),
            Self::Close(key) | Self::Open(key) | Self::Backends(key) | Self::Own(key) | Self::Options(key) => {
                [*key].into()
            }
            Self::Replace { close, open } => close | open,
        }
    }
}

/// The changes from `observed` to `desired`, in the order in which they are carried out:
///
/// 1. settings;
/// 2. what takes traffic away from a wrong receiver, or from clients that are no longer served:
///    listeners that close, listeners that another claim gets, and options;
/// 3. listeners that replace others of the same claim;
/// 4. listeners that open;
/// 5. backends, and names of ports.
///
/// Replayed on `observed` (see [`replay`]), they give `desired`.
#[must_use]
pub fn diff(observed: &LoadBalancer, desired: &LoadBalancer) -> Vec<Change> {
    let configure = (observed.attributes != desired.attributes).then_some(Change::Configure);
    let (replace, replaced) = replacements(observed, desired);
    let close = observed.listeners.keys().filter(|key| !desired.listeners.contains_key(key) && !replaced.contains(key));
    let close: Vec<Change> = close.copied().map(Change::Close).collect();
    let mut reassign = Vec::new();
    let mut open = Vec::new();
    let mut alter = Vec::new();
    for (key, wanted) in desired.listeners.iter().filter(|(key, _)| !replaced.contains(key)) {
        let Some(found) = observed.listeners.get(key) else {
            open.push(Change::Open(*key));
            continue;
        };
        if found.options != wanted.options {
            reassign.push(Change::Options(*key));
        }
        let changes = if found.owner.is_same_claim(&wanted.owner) { &mut alter } else { &mut reassign };
        if found.owner != wanted.owner {
            changes.push(Change::Own(*key));
        }
        if found.backends != wanted.backends {
            changes.push(Change::Backends(*key));
        }
    }
    configure.into_iter().chain(close).chain(reassign).chain(replace).chain(open).chain(alter).collect()
}

impl Observed {
    /// The changes to `desired`: [`diff()`], and the repair of drift. What a provider keeps
    /// for a listener that waits is no drift.
    #[must_use]
    pub fn changes_to(&self, desired: &LoadBalancer, waiting: &BTreeSet<ListenerKey>) -> Vec<Change> {
        let mut changes = diff(&self.load_balancer, desired);
        if changes.first() != Some(&Change::Configure) && self.drifted(waiting).next().is_some() {
            changes.insert(0, Change::Configure);
        }
        changes
    }

    /// The drift, without that of listeners that wait.
    pub fn drifted(&self, waiting: &BTreeSet<ListenerKey>) -> impl Iterator<Item = (NonZeroU16, &str)> {
        let waits = |port: NonZeroU16| ListenerKey::of_number(port).iter().any(|key| waiting.contains(key));
        self.drift.iter().map(|(port, what)| (*port, what.as_str())).filter(move |(port, _)| !waits(*port))
    }
}

/// The replacements, and the keys of all listeners in them. A listener with an unknown owner
/// counts as one of the claim that gets its port.
fn replacements(observed: &LoadBalancer, desired: &LoadBalancer) -> (Vec<Change>, BTreeSet<ListenerKey>) {
    let going: Vec<(&ListenerKey, &Listener)> =
        observed.listeners.iter().filter(|(key, _)| !desired.listeners.contains_key(key)).collect();
    let mut replacements: BTreeMap<BTreeSet<ListenerKey>, BTreeSet<ListenerKey>> = BTreeMap::new();
    for (key, wanted) in desired.listeners.iter().filter(|(key, _)| !observed.listeners.contains_key(key)) {
        let succeeds = |found: &Listener| {
            let same_claim = found.owner.is_unknown() || found.owner.is_same_claim(&wanted.owner);
            same_claim && !found.options.admits_more_than(&wanted.options)
        };
        let close: BTreeSet<ListenerKey> =
            going.iter().filter(|(old, found)| old.overlaps(*key) && succeeds(found)).map(|(old, _)| **old).collect();
        if !close.is_empty() {
            replacements.entry(close).or_default().insert(*key);
        }
    }
    let replaced = replacements.iter().flat_map(|(close, open)| close | open).collect();
    let replace = replacements.into_iter().map(|(close, open)| Change::Replace { close, open }).collect();
    (replace, replaced)
}

/// Carries changes out on data: copies from `desired` to `load_balancer` what each of them is
/// about. By it the LB loop's state follows what a provider did, and the `memory` provider
/// is built on it.
pub fn replay<'a>(
    load_balancer: &mut LoadBalancer,
    desired: &LoadBalancer,
    changes: impl IntoIterator<Item = &'a Change>,
) {
    for change in changes {
        match change {
            Change::Configure => load_balancer.attributes.clone_from(&desired.attributes),
            Change::Close(key) => {
                load_balancer.listeners.remove(key);
            }
            Change::Open(key) => open(load_balancer, desired, key),
            Change::Replace { close, open: successors } => {
                load_balancer.listeners.retain(|key, _| !close.contains(key));
                successors.iter().for_each(|key| open(load_balancer, desired, key));
            }
            Change::Backends(key) => {
                if let (Some(found), Some(wanted)) = (load_balancer.listeners.get_mut(key), desired.listeners.get(key))
                {
                    found.backends.clone_from(&wanted.backends);
                }
            }
            Change::Own(key) => {
                if let (Some(found), Some(wanted)) = (load_balancer.listeners.get_mut(key), desired.listeners.get(key))
                {
                    found.owner.clone_from(&wanted.owner);
                }
            }
            Change::Options(key) => {
                if let (Some(found), Some(wanted)) = (load_balancer.listeners.get_mut(key), desired.listeners.get(key))
                {
                    found.options.clone_from(&wanted.options);
                }
            }
        }
    }
}

fn open(load_balancer: &mut LoadBalancer, desired: &LoadBalancer, key: &ListenerKey) {
    if let Some(wanted) = desired.listeners.get(key) {
        load_balancer.listeners.insert(*key, wanted.clone());
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use proptest::prelude::*;

    use super::*;
    use crate::model::arbitrary::load_balancers;
    use crate::model::{BackendSet, ListenerOptions, Owner, Protocol};

    proptest! {
        #[test]
        fn carrying_out_the_diff_of_a_and_b_on_a_gives_b(a in load_balancers(), b in load_balancers()) {
            let mut replayed = a.clone();
            replay(&mut replayed, &b, &diff(&a, &b));
            prop_assert_eq!(replayed, b);
        }

        #[test]
        fn what_no_change_is_carried_out_for_stays_as_it_was(
            a in load_balancers(), b in load_balancers(), mask in any::<u64>(),
        ) {
            let (now, later): (Vec<_>, Vec<_>) =
                diff(&a, &b).into_iter().enumerate().partition(|(n, _)| mask >> (n % 64) & 1 == 1);
            let now: Vec<Change> = now.into_iter().map(|(_, change)| change).collect();
            let mut replayed = a.clone();
            replay(&mut replayed, &b, &now);
            for (_, change) in later {
                match &change {
                    Change::Configure => prop_assert_eq!(&replayed.attributes, &a.attributes),
                    Change::Own(key) => prop_assert_eq!(&replayed.listeners[key].owner, &a.listeners[key].owner),
                    Change::Backends(key) => {
                        prop_assert_eq!(&replayed.listeners[key].backends, &a.listeners[key].backends);
                    }
                    Change::Options(key) => {
                        prop_assert_eq!(&replayed.listeners[key].options, &a.listeners[key].options);
                    }
                    _ => for key in change.listeners() {
                        prop_assert_eq!(replayed.listeners.get(&key), a.listeners.get(&key));
                    },
                }
            }
        }

        #[test]
        fn what_is_as_it_should_be_needs_no_change(a in load_balancers()) {
            prop_assert_eq!(diff(&a, &a), vec![]);
        }

        #[test]
        fn what_takes_traffic_from_a_wrong_receiver_comes_before_what_opens(a in load_balancers(), b in load_balancers()) {
            let changes = diff(&a, &b);
            let reassigns = |change: &Change| match change {
                Change::Close(_) | Change::Options(_) => true,
                Change::Own(key) => !a.listeners[key].owner.is_same_claim(&b.listeners[key].owner),
                _ => false,
            };
            let last = changes.iter().rposition(reassigns);
            let opens = |change: &Change| matches!(change, Change::Open(_) | Change::Replace { .. });
            if let (Some(last), Some(first)) = (last, changes.iter().position(opens)) {
                prop_assert!(last < first);
            }
        }

        #[test]
        fn no_listener_waits_for_a_successor_that_excludes_clients_of_it(a in load_balancers(), b in load_balancers()) {
            for change in diff(&a, &b) {
                let Change::Replace { close, open } = change else { continue };
                for (closes, opens) in close.iter().flat_map(|key| open.iter().map(move |open| (key, open))) {
                    let (before, after) = (&a.listeners[closes].options, &b.listeners[opens].options);
                    prop_assert!(!closes.overlaps(*opens) || !before.admits_more_than(after), "{closes}, {opens}");
                }
            }
        }

        #[test]
        fn a_listener_never_closes_alone_that_has_a_successor(a in load_balancers(), b in load_balancers()) {
            for change in diff(&a, &b) {
                let Change::Close(key) = change else { continue };
                let Listener { owner, options, .. } = &a.listeners[&key];
                let succeeds = |(new, listener): (&ListenerKey, &Listener)| {
                    new.overlaps(key)
                        && !a.listeners.contains_key(new)
                        && (owner.is_unknown() || listener.owner.is_same_claim(owner))
                        && !options.admits_more_than(&listener.options)
                };
                prop_assert!(!b.listeners.iter().any(succeeds));
            }
        }
    }

    /// Other programs and golden files rely on it.
    #[test]
    fn the_form_of_changes_is_stable() {
        let key = |text: &str| text.parse::<ListenerKey>().unwrap();
        let changes = [
            Change::Configure,
            Change::Close(key("20000/UDP")),
            Change::Own(key("20001/TCP")),
            Change::Replace { close: [key("53/TCP")].into(), open: [key("53/TCP_UDP")].into() },
            Change::Open(key("20002/TCP")),
            Change::Backends(key("20003/TCP")),
            Change::Options(key("20004/TCP")),
        ];
        let expected = serde_json::json!([
            "configure",
            {"close": "20000/UDP"},
            {"own": "20001/TCP"},
            {"replace": {"close": ["53/TCP"], "open": ["53/TCP_UDP"]}},
            {"open": "20002/TCP"},
            {"backends": "20003/TCP"},
            {"options": "20004/TCP"},
        ]);
        assert_eq!(serde_json::to_value(&changes).unwrap(), expected);
        assert_eq!(serde_json::from_value::<Vec<Change>>(expected).unwrap(), changes);
    }

    #[test]
    fn drift_is_repaired_unless_it_belongs_to_a_listener_that_waits() {
        let port = NonZeroU16::new(20001).unwrap();
        let observed =
            Observed { drift: [(port, "a target group serves no listener".into())].into(), ..Observed::default() };
        let changes = |waiting: &[u16]| {
            let key = |port: &u16| ListenerKey { port: NonZeroU16::new(*port).unwrap(), protocol: Protocol::Udp };
            observed.changes_to(&LoadBalancer::default(), &waiting.iter().map(key).collect())
        };
        assert_eq!(changes(&[]), [Change::Configure]);
        assert_eq!(changes(&[20002]), [Change::Configure]);
        assert_eq!(changes(&[20001]), []);
    }

    #[test]
    fn a_listener_is_replaced_only_by_one_that_takes_up_its_port() {
        let claim = Owner { namespace: "team".into(), claim: "claim".into(), port: "".into() };
        let with = |protocols: &[Protocol], owner: &Owner| {
            let listener = |protocol: &Protocol| {
                let key = ListenerKey { port: NonZeroU16::MIN, protocol: *protocol };
                (key, Listener::new(owner.clone(), BackendSet::default()))
            };
            LoadBalancer { listeners: protocols.iter().map(listener).collect(), ..LoadBalancer::default() }
        };
        let changes = |from: &[Protocol], owner: &Owner, to: &[Protocol]| {
            let kinds = diff(&with(from, owner), &with(to, &claim));
            kinds
                .iter()
                .map(|change| format!("{change:?}").split(['(', ' ']).next().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        let (tcp, udp, both) = (Protocol::Tcp, Protocol::Udp, Protocol::TcpUdp);
        assert_eq!(changes(&[tcp], &claim, &[both]), ["Replace"]);
        assert_eq!(changes(&[both], &claim, &[tcp, udp]), ["Replace"]);
        assert_eq!(changes(&[tcp, udp], &claim, &[both]), ["Replace"]);
        assert_eq!(changes(&[tcp], &claim, &[udp]), ["Close", "Open"], "nothing takes over the port");
        assert_eq!(changes(&[tcp, udp], &Owner::unknown(), &[both]), ["Replace"], "its record was lost");
        let other = Owner { claim: "other".into(), ..claim.clone() };
        assert_eq!(changes(&[tcp, udp], &other, &[both]), ["Close", "Close", "Open"], "it is another claim's");
    }

    #[test]
    fn a_listener_that_serves_excluded_clients_closes_before_its_successor_opens() {
        let owner = Owner { namespace: "team".into(), claim: "claim".into(), port: "".into() };
        let with = |protocol, ranges: &[&str]| {
            let source_ranges = ranges.iter().map(|range| range.parse().unwrap()).collect();
            let options = ListenerOptions { source_ranges, ..ListenerOptions::default() };
            let listener = Listener { options, ..Listener::new(owner.clone(), BackendSet::default()) };
            let key = ListenerKey { port: NonZeroU16::MIN, protocol };
            (key, LoadBalancer { listeners: [(key, listener)].into(), ..LoadBalancer::default() })
        };
        let (tcp, narrow) = with(Protocol::Tcp, &["10.0.0.0/8"]);
        let (both, narrower) = with(Protocol::TcpUdp, &["10.1.0.0/16"]);
        assert_eq!(diff(&narrow, &narrower), [Change::Close(tcp), Change::Open(both)]);
        assert_eq!(diff(&narrower, &narrow), [Change::Replace { close: [both].into(), open: [tcp].into() }]);
    }
}
