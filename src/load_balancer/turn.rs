//! What is applied in one turn of an LB loop: the changes to what is wanted, without those that
//! have to wait.

use std::collections::{BTreeMap, BTreeSet};

use sharedlb_providers::{Backend, BackendSet, Change, Listener, ListenerKey, LoadBalancer, Observed, replay};

use super::desired::Plan;
use super::state::LbState;

/// What is applied in one turn of an LB loop.
pub(super) struct Turn {
    pub(super) changes: Vec<Change>,
    /// What the changes lead to
    pub(super) target: LoadBalancer,
    /// What the load balancer should be: the target, unless some of it has to wait
    pub(super) wanted: LoadBalancer,
    /// The listeners that failed, and are retried later
    pub(super) waiting: BTreeSet<ListenerKey>,
    /// Whether a listener closes that is wanted, and opens in the next turn
    pub(super) reopens: bool,
}

/// The changes from what is observed to what is wanted, without those that have to wait.
pub(super) fn turn(plan: &Plan, observed: &Observed, wanted: LoadBalancer, kept: &mut LbState) -> Turn {
    // A listener that is as planned by now has not failed, whatever was reported.
    kept.failed.retain(|key, failed| {
        let found = observed.load_balancer.listeners.get(key);
        wanted.listeners.get(key).is_some_and(|wanted| wanted.owner == failed.owner && found != Some(wanted))
    });
    let waiting: BTreeSet<ListenerKey> = kept.failed.keys().copied().collect();
    let mut towards = wanted.clone();
    towards.listeners.retain(|key, wanted| !serves_excluded_clients(*key, &observed.load_balancer, wanted, kept));
    let changes = observed.changes_to(&towards, &waiting);
    kept.unconfigured.take_if(|_| !changes.contains(&Change::Configure));
    // What is freed goes to the listener that has waited longest for it, so all that
    // lack room are tried together.
    let room_is_made = changes.iter().any(|change| matches!(change, Change::Close(_)));
    let (now, later): (Vec<Change>, Vec<Change>) = changes.into_iter().partition(|change| {
        kept.is_due(change, room_is_made) || waits_only_for_options(change, &observed.load_balancer, &wanted, kept)
    });
    // With the backends that listeners have until their successors open.
    let meanwhile = meanwhile(&later, &observed.load_balancer, &wanted);
    let now = now.into_iter().chain(meanwhile.keys().copied().map(Change::Backends)).collect();
    towards.listeners.extend(meanwhile);
    let coalesce = plan.provider.capabilities().coalesce;
    let (mut changes, put_off) = kept.coalesce(now, &observed.load_balancer, &towards, coalesce);
    kept.oldest_first(&mut changes);
    // Providers that write the whole must not be given what is to wait.
    let mut target = observed.load_balancer.clone();
    replay(&mut target, &towards, &changes);
    let all = later.is_empty() && put_off.is_empty();
    debug_assert!(!all || target == towards, "the diff does not lead to what is desired");
    let reopens =
        changes.iter().any(|change| matches!(change, Change::Close(key) if wanted.listeners.contains_key(key)));
    Turn { changes, target, wanted, waiting, reopens }
}

/// Whether a listener still serves clients that the edited claim excludes, since the change of
/// its options failed. It closes then: its options are tried again when it opens.
fn serves_excluded_clients(key: ListenerKey, found: &LoadBalancer, wanted: &Listener, kept: &LbState) -> bool {
    let has_failed = kept.failed.get(&key).is_some_and(|failed| failed.failing.is_reported());
    has_failed && found.listeners.get(&key).is_some_and(|found| found.options.admits_more_than(&wanted.options))
}

/// Whether a change is that of the backends of a listener whose options could not be changed. Its
/// claim is the same, so these are the backends for the clients that it serves: pods that are
/// gone may by now be another tenant's.
fn waits_only_for_options(change: &Change, found: &LoadBalancer, wanted: &LoadBalancer, kept: &LbState) -> bool {
    let Change::Backends(key) = change else { return false };
    let (Some(found), Some(wanted)) = (found.listeners.get(key), wanted.listeners.get(key)) else { return false };
    kept.failed.get(key).is_some_and(|failed| failed.options)
        && found.options != wanted.options
        && found.owner.is_same_claim(&wanted.owner)
}

/// That a listener does not have its options yet, for a message.
pub(super) fn not_in_force(key: ListenerKey, found: &Listener, wanted: &Listener) -> Option<String> {
    if found.options.admits_more_than(&wanted.options) {
        return Some(format!("port {key} still serves clients outside of loadBalancerSourceRanges"));
    }
    let what = if found.options.source_ranges == wanted.options.source_ranges {
        "sessionAffinity"
    } else {
        "loadBalancerSourceRanges"
    };
    (found.options != wanted.options).then(|| format!("{what} of port {key} is not in force yet"))
}

/// Whether a change closes a listener.
pub(super) fn makes_room(change: &Change) -> bool {
    matches!(change, Change::Close(_) | Change::Replace { .. })
}

/// The listeners whose successors cannot be had yet, where they do not have the backends
/// that their successors would have. They get those: what is gone may by now be
/// another tenant's.
fn meanwhile(later: &[Change], found: &LoadBalancer, wanted: &LoadBalancer) -> BTreeMap<ListenerKey, Listener> {
    let replaced = later.iter().flat_map(|change| match change {
        Change::Replace { close, open } => close.iter().map(|key| (*key, open)).collect(),
        _ => Vec::new(),
    });
    let listener = |(key, open): (ListenerKey, &BTreeSet<ListenerKey>)| {
        let found = found.listeners.get(&key)?;
        let backends = Backend::by_transport(key.protocol, |transport| {
            let takes = open.iter().filter(|key| key.protocol.transports().contains(&transport));
            let successors = takes.filter_map(|key| wanted.listeners.get(key));
            successors.flat_map(|listener| listener.backends_of(transport)).collect()
        });
        let backends = BackendSet::from(backends);
        (backends != found.backends).then(|| (key, Listener { backends, ..found.clone() }))
    };
    replaced.filter_map(listener).collect()
}

/// The listeners that a change opens. One that takes up no further port costs no load
/// balancer its address.
pub(super) fn opened(change: &Change) -> Vec<ListenerKey> {
    match change {
        Change::Open(key) => vec![*key],
        Change::Replace { close, open } => {
            let is_new = |key: &ListenerKey| key.front_ports().any(|port| !close.iter().any(|closed| closed.has(port)));
            open.iter().filter(|key| is_new(key)).copied().collect()
        }
        _ => Vec::new(),
    }
}
