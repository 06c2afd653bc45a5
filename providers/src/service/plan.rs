//! What one apply is to write: pure, from what is wanted and what was seen.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::cache::Entry;
use super::front::Front;
use super::slices::{Place, SeenSlice, Slice, arrange};
use crate::Error;
use crate::diff::Change;
use crate::model::{FrontPort, LbName, Listener, ListenerKey, LoadBalancer};

/// What one apply is about.
pub(super) struct Plan<'a> {
    pub(super) desired: &'a LoadBalancer,
    /// All ports that the Service shall have of ours.
    pub(super) ports: BTreeSet<FrontPort>,
    pub(super) alters_service: bool,
    pub(super) failed: BTreeMap<ListenerKey, Error>,
    /// Ports that the Service has now
    open: BTreeSet<FrontPort>,
    /// Listeners whose slices are to be looked at.
    touched: Vec<(ListenerKey, &'a Listener)>,
}

/// What is to be done to the slices of a load balancer.
#[derive(Default)]
pub(super) struct SliceWrites {
    /// What an earlier listener has left at a port that is not open: it must be
    /// gone before the port opens, or traffic would go to somebody else's pods
    pub(super) delete_first: Vec<SliceId>,
    pub(super) write: Vec<Slice>,
    /// What must not go before a port is closed, or its traffic is where it shall be
    pub(super) delete: Vec<SliceId>,
}

/// A slice that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SliceId {
    pub(super) name: Arc<str>,
    pub(super) uid: Arc<str>,
    pub(super) version: u64,
}

impl<'a> Plan<'a> {
    /// Leaves out the listeners whose ports a stranger has: to apply such a port
    /// would be to take it over.
    pub(super) fn new(desired: &'a LoadBalancer, changes: &[Change], there: Option<&Front>) -> Self {
        let (mut ports, mut failed) = (BTreeSet::new(), BTreeMap::new());
        for listener in desired.listeners.keys() {
            match there.and_then(|front| listener.front_ports().find_map(|port| front.stranger_at(port))) {
                Some(taken) => drop(failed.insert(*listener, Error::PortInUse(taken))),
                None => ports.extend(listener.front_ports()),
            }
        }
        let changed: BTreeSet<_> = changes.iter().flat_map(Change::listeners).collect();
        let touched = desired.listeners.iter().map(|(key, listener)| (*key, listener)).filter(|(key, _)| {
            // A new Service needs all its slices.
            !failed.contains_key(key) && (there.is_none() || changed.contains(key))
        });
        let alters = |change: &Change| !matches!(change, Change::Own(..) | Change::Backends { .. });
        let open = there.map(|front| front.ours.clone()).unwrap_or_default();
        Self { desired, touched: touched.collect(), ports, alters_service: changes.iter().any(alters), failed, open }
    }

    /// The slices of the listeners that changes name, where they differ from
    /// what is there; and those that nothing needs any more, whoever left them.
    pub(super) fn slices<'s>(
        &self,
        load_balancer: &LbName,
        service_uid: &Arc<str>,
        there: impl Iterator<Item = (&'s Arc<str>, &'s Entry<SeenSlice>)>,
    ) -> SliceWrites {
        let mut of_port: BTreeMap<FrontPort, BTreeMap<Place, (SliceId, &SeenSlice)>> = BTreeMap::new();
        for (name, Entry { uid, version, seen, .. }) in there {
            let id = SliceId { name: name.clone(), uid: uid.clone(), version: *version };
            of_port.entry(seen.place.port).or_default().insert(seen.place, (id, seen));
        }
        let mut writes = SliceWrites::default();
        for (key, listener) in &self.touched {
            for port in key.front_ports() {
                let mut there = of_port.remove(&port).unwrap_or_default();
                for (place, backends) in
                    arrange(port, &listener.backends_of(port.transport), there.values().map(|(_, seen)| *seen))
                {
                    let slice = Slice {
                        load_balancer: load_balancer.clone(),
                        service_uid: service_uid.clone(),
                        listener: *key,
                        owner: listener.owner.clone(),
                        place,
                        backends,
                    };
                    let found = there.remove(&place).and_then(|(_, seen)| seen.slice.as_ref());
                    if found != Some(&slice) {
                        writes.write.push(slice);
                    }
                }
                self.delete(&mut writes, port, there);
            }
        }
        for (port, there) in of_port.into_iter().filter(|(port, _)| !self.ports.contains(port)) {
            self.delete(&mut writes, port, there);
        }
        writes
    }

    fn delete(&self, writes: &mut SliceWrites, port: FrontPort, there: BTreeMap<Place, (SliceId, &SeenSlice)>) {
        let open = self.open.contains(&port);
        let when = if open { &mut writes.delete } else { &mut writes.delete_first };
        when.extend(there.into_values().map(|(id, _)| id));
    }

    /// A port that somebody else's field manager asks for too outlives our
    /// closing it.
    pub(super) fn fail_what_would_not_close(&mut self, changes: &[Change], service: &Front) {
        let closed = changes.iter().flat_map(|change| match change {
            Change::Close(listener) => [*listener].into(),
            Change::Replace { close, .. } => close.clone(),
            _ => BTreeSet::new(),
        });
        for listener in closed {
            let open = listener.front_ports().find(|port| service.ours.contains(port) && !self.ports.contains(port));
            if let Some(port) = open {
                let why = format!("{port} stays open: somebody else asks for it on the Service too");
                self.failed.insert(listener, Error::PortInUse(why));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use super::*;
    use crate::diff::diff;
    use crate::model::{Backend, Owner, Protocol};

    fn lb() -> LbName {
        LbName::from_recorded("slb-default-0-0123456789")
    }

    fn key(port: u16, protocol: Protocol) -> ListenerKey {
        ListenerKey { port: NonZeroU16::new(port).unwrap(), protocol }
    }

    fn listener(hosts: impl IntoIterator<Item = u8>) -> Listener {
        let backend = |host| Backend {
            address: [10, 244, 0, host].into(),
            port: NonZeroU16::MIN,
            pod: None,
            node: None,
            provider_id: None,
            transport: None,
        };
        let owner = Owner { namespace: "team".into(), claim: "claim".into(), port: "".into() };
        Listener { owner, backends: hosts.into_iter().map(backend).collect() }
    }

    fn wanted(listeners: impl IntoIterator<Item = (ListenerKey, Listener)>) -> LoadBalancer {
        LoadBalancer { listeners: listeners.into_iter().collect(), ..LoadBalancer::default() }
    }

    /// The names of the slices that are written and deleted on the way from one
    /// to the other, without the load balancer's.
    fn writes(from: &LoadBalancer, to: &LoadBalancer) -> (Vec<String>, Vec<String>) {
        let front =
            Front { ours: from.listeners.keys().flat_map(|key| key.front_ports()).collect(), ..Front::default() };
        let (first, written, last) = writes_with(&front, from, to);
        assert_eq!(first, are(&[]));
        (written, last)
    }

    /// The slices that are deleted first, written, and deleted last.
    fn writes_with(front: &Front, from: &LoadBalancer, to: &LoadBalancer) -> (Vec<String>, Vec<String>, Vec<String>) {
        let uid = Arc::from("uid");
        let first = Plan::new(from, &[], None).slices(&lb(), &uid, [].into_iter());
        let there: Vec<(Arc<str>, Entry<SeenSlice>)> = first
            .write
            .into_iter()
            .map(|slice| {
                let name = slice.name().into();
                let seen = SeenSlice { place: slice.place, slice: Some(slice) };
                (name, Entry { load_balancer: lb(), uid: "slice".into(), version: 1, seen })
            })
            .collect();
        let plan = Plan::new(to, &diff(from, to), Some(front)).slices(
            &lb(),
            &uid,
            there.iter().map(|(name, entry)| (name, entry)),
        );
        let short = |name: &str| name.strip_prefix(&format!("{}-", lb())).unwrap().to_owned();
        let ids = |ids: &[SliceId]| ids.iter().map(|id| short(&id.name)).collect();
        let written = plan.write.iter().map(|slice| short(&slice.name())).collect();
        (ids(&plan.delete_first), written, ids(&plan.delete))
    }

    fn are(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn only_the_slices_of_what_changes_are_written() {
        let (a, b) = (key(20000, Protocol::Tcp), key(20001, Protocol::TcpUdp));
        let from = wanted([(a, listener([1])), (b, listener([2]))]);
        let to = wanted([(a, listener([1])), (b, listener([2, 3]))]);
        assert_eq!(writes(&from, &to), (are(&["20001-tcp-v4-1-0", "20001-udp-v4-1-0"]), are(&[])));
        assert_eq!(writes(&from, &from), (are(&[]), are(&[])));
    }

    #[test]
    fn the_first_backend_replaces_the_empty_slice_and_the_last_one_leaves_it() {
        let key = key(20000, Protocol::Tcp);
        let (none, one) = (wanted([(key, listener([]))]), wanted([(key, listener([1]))]));
        assert_eq!(writes(&none, &one), (are(&["20000-tcp-v4-1-0"]), are(&["20000-tcp-v4-none-0"])));
        assert_eq!(writes(&one, &none), (are(&["20000-tcp-v4-none-0"]), are(&["20000-tcp-v4-1-0"])));
    }

    #[test]
    fn what_is_closed_loses_its_slices_and_what_another_protocol_takes_over_keeps_its_half() {
        let (both, tcp) = (key(20000, Protocol::TcpUdp), key(20000, Protocol::Tcp));
        let from = wanted([(both, listener([1])), (key(20001, Protocol::Tcp), listener([1]))]);
        let to = wanted([(tcp, listener([1]))]);
        assert_eq!(writes(&from, &to), (are(&["20000-tcp-v4-1-0"]), are(&["20000-udp-v4-1-0", "20001-tcp-v4-1-0"])));
    }

    #[test]
    fn what_an_earlier_listener_has_left_is_gone_before_its_port_opens_for_another() {
        // Its Service port was closed, and then we were cut off.
        let left = wanted([(key(20000, Protocol::Tcp), listener([1])), (key(20001, Protocol::Tcp), listener([1]))]);
        let mut next = listener([2]);
        next.backends =
            next.backends.into_iter().map(|each| Backend { port: 8080.try_into().unwrap(), ..each }).collect();
        let to = wanted([(key(20000, Protocol::Tcp), next)]);
        let (first, written, last) = writes_with(&Front::default(), &left, &to);
        assert_eq!(first, are(&["20000-tcp-v4-1-0", "20001-tcp-v4-1-0"]));
        assert_eq!((written, last), (are(&["20000-tcp-v4-8080-0"]), are(&[])));
    }

    #[test]
    fn a_port_that_a_stranger_has_is_left_out_and_its_neighbours_are_not() {
        let to = wanted([(key(20000, Protocol::TcpUdp), listener([1])), (key(20001, Protocol::Tcp), listener([1]))]);
        let theirs = key(20000, Protocol::Udp).front_ports().map(|port| (port, "theirs".to_owned()));
        let there = Front { foreign: theirs.collect(), ..Front::default() };
        let plan = Plan::new(&to, &diff(&LoadBalancer::default(), &to), Some(&there));
        assert!(matches!(&plan.failed[&key(20000, Protocol::TcpUdp)], Error::PortInUse(why) if why.contains("theirs")));
        assert_eq!(plan.ports, key(20001, Protocol::Tcp).front_ports().collect());
        let slices = plan.slices(&lb(), &"uid".into(), [].into_iter());
        assert_eq!(slices.write.iter().map(|slice| slice.listener).collect::<Vec<_>>(), [key(20001, Protocol::Tcp)]);
    }
}
