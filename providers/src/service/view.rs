//! The observation of a load balancer, from its Service and EndpointSlices.

use std::collections::{BTreeMap, BTreeSet};

use super::front::Front;
use super::slices::SeenSlice;
use crate::model::{Backend, BackendSet, Capacity, FrontPort, Listener, ListenerKey, LoadBalancer, Observed, Owner};

/// The content that the slices of one front port have in common.
struct Record {
    listener: ListenerKey,
    owner: Owner,
    backends: BTreeSet<Backend>,
}

/// The observation of a load balancer from its Service and slices.
///
/// A listener is open if the Service has its ports. If its slices are missing, altered, of an
/// earlier Service, or contradictory (by hand, or after an interrupted write), its owner is
/// unknown: that differs from every desired owner, so the listener is written again or
/// closed. Only the backends of its two transports may differ.
pub(super) fn observed<'a>(front: &Front, uid: &str, slices: impl Iterator<Item = &'a SeenSlice>) -> Observed {
    let mut of_port: BTreeMap<FrontPort, Vec<&SeenSlice>> = BTreeMap::new();
    for slice in slices {
        of_port.entry(slice.place.port).or_default().push(slice);
    }
    let records: BTreeMap<FrontPort, Record> =
        front.ours.iter().filter_map(|port| Some((*port, record(of_port.get(port)?, uid)?))).collect();
    let mut listeners = BTreeMap::new();
    for port in &front.ours {
        let whole = records.get(port).filter(|record| {
            record.listener.front_ports().all(|port| records.get(&port).is_some_and(|other| other.is_half_of(record)))
        });
        match whole {
            Some(Record { listener, owner, .. }) if !listeners.contains_key(listener) => {
                let of = |transport| records[&FrontPort { transport, ..*port }].backends.clone();
                let backends = Backend::by_transport(listener.protocol, of);
                listeners.insert(*listener, Listener::new(owner.clone(), backends));
            }
            Some(_) => {}
            None => {
                listeners.insert((*port).into(), Listener::new(Owner::unknown(), BackendSet::default()));
            }
        }
    }
    Observed {
        load_balancer: LoadBalancer { attributes: front.attributes.clone(), listeners },
        addresses: front.addresses.clone(),
        families: front.fixed.families(),
        // A Service does not have the capacity of its load balancer.
        capacity: Capacity { listeners: None, targets: None },
        foreign: front.foreign.keys().copied().collect(),
        // Slices without a port are deleted with the next change.
        drift: BTreeMap::new(),
        not_ready: None,
        // Whether the implementation serves a port is not in the Service.
        unserved: BTreeMap::new(),
    }
}

impl Record {
    /// Whether both are of one listener.
    fn is_half_of(&self, other: &Self) -> bool {
        self.listener == other.listener && self.owner == other.owner
    }
}

/// `None` if the slices are not what one write of ours leaves.
fn record(slices: &[&SeenSlice], uid: &str) -> Option<Record> {
    let first = slices.first()?.slice.as_ref()?;
    let mut backends = BTreeSet::new();
    for seen in slices {
        let slice = seen.slice.as_ref().filter(|slice| &*slice.service_uid == uid)?;
        if (slice.listener, &slice.owner) != (first.listener, &first.owner) {
            return None;
        }
        for backend in &slice.backends {
            // A backend in two slices: a move was interrupted.
            backends.insert(backend.clone()).then_some(())?;
        }
    }
    Some(Record { listener: first.listener, owner: first.owner.clone(), backends })
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::num::NonZeroU16;

    use super::*;
    use crate::model::{IpFamily, LbName, Protocol, Transport};
    use crate::service::front::Fixed;
    use crate::service::name::ServiceName;
    use crate::service::slices::{Slice, arrange};

    const NUMBER: NonZeroU16 = NonZeroU16::new(20417).unwrap();
    const TCP: FrontPort = FrontPort { port: NUMBER, transport: Transport::Tcp };
    const UDP: FrontPort = FrontPort { port: NUMBER, transport: Transport::Udp };

    fn backends(hosts: &[u8]) -> BTreeSet<Backend> {
        let address = |host: &u8| IpAddr::V4(Ipv4Addr::new(10, 244, 0, *host));
        hosts
            .iter()
            .map(|host| Backend {
                address: address(host),
                port: NUMBER,
                pod: None,
                node: None,
                provider_id: None,
                transport: None,
            })
            .collect()
    }

    fn slices(port: FrontPort, protocol: Protocol, claim: &str, hosts: &[u8]) -> Vec<SeenSlice> {
        let slice = |(place, backends)| Slice {
            service: ServiceName::main(&LbName::from_recorded("slb-default-0-0123456789")),
            service_uid: "uid".into(),
            listener: ListenerKey { port: NUMBER, protocol },
            owner: Owner { namespace: "team".into(), claim: claim.into(), port: "".into() },
            place,
            backends,
        };
        let arranged = arrange(port, &backends(hosts), []);
        arranged.into_iter().map(|(p, b)| SeenSlice { place: p, slice: Some(slice((p, b.into()))) }).collect()
    }

    /// The listeners, each with its claim and its number of backends.
    fn seen(ports: &[FrontPort], slices: &[SeenSlice]) -> Vec<(String, String, usize)> {
        let front = Front { ours: ports.iter().copied().collect(), ..Front::default() };
        let observed = observed(&front, "uid", slices.iter());
        let listeners = observed.load_balancer.listeners.into_iter();
        listeners.map(|(key, l)| (key.to_string(), l.owner.claim.to_string(), l.backends.len())).collect()
    }

    fn are(listeners: &[(&str, &str, usize)]) -> Vec<(String, String, usize)> {
        listeners.iter().map(|(key, claim, backends)| ((*key).into(), (*claim).into(), *backends)).collect()
    }

    #[test]
    fn a_tcp_udp_listener_is_distinguished_from_two_listeners() {
        let both = [slices(TCP, Protocol::TcpUdp, "a", &[1]), slices(UDP, Protocol::TcpUdp, "a", &[1])].concat();
        assert_eq!(seen(&[TCP, UDP], &both), are(&[("20417/TCP_UDP", "a", 1)]));
        let each = [slices(TCP, Protocol::Tcp, "a", &[1]), slices(UDP, Protocol::Udp, "b", &[1, 2])].concat();
        assert_eq!(seen(&[TCP, UDP], &each), are(&[("20417/TCP", "a", 1), ("20417/UDP", "b", 2)]));
    }

    #[test]
    fn half_a_listener_has_no_known_owner() {
        let both = [slices(TCP, Protocol::TcpUdp, "a", &[1]), slices(UDP, Protocol::TcpUdp, "a", &[1])].concat();
        assert_eq!(seen(&[TCP], &both), are(&[("20417/TCP", "", 0)]));
        let of_two = [slices(TCP, Protocol::TcpUdp, "a", &[1]), slices(UDP, Protocol::TcpUdp, "b", &[1])].concat();
        assert_eq!(seen(&[TCP, UDP], &of_two), are(&[("20417/TCP", "", 0), ("20417/UDP", "", 0)]));
    }

    #[test]
    fn each_half_of_a_listener_has_its_own_backends() {
        let apart = [slices(TCP, Protocol::TcpUdp, "a", &[1, 2]), slices(UDP, Protocol::TcpUdp, "a", &[2, 3])].concat();
        let front = Front { ours: [TCP, UDP].into(), ..Front::default() };
        let observed = observed(&front, "uid", apart.iter()).load_balancer;
        let listener = &observed.listeners[&ListenerKey { port: NUMBER, protocol: Protocol::TcpUdp }];
        assert_eq!(listener.backends_of(Transport::Tcp), backends(&[1, 2]));
        assert_eq!(listener.backends_of(Transport::Udp), backends(&[2, 3]));
    }

    #[test]
    fn the_families_of_a_load_balancer_are_those_of_its_service() {
        let families = |families: &[&str]| {
            let ip_families = families.iter().map(ToString::to_string).collect();
            let front = Front { fixed: Fixed { ip_families, ..Fixed::default() }, ..Front::default() };
            observed(&front, "uid", [].into_iter()).families.into_iter().collect::<Vec<_>>()
        };
        assert_eq!(families(&["IPv6"]), [IpFamily::V6]);
        assert_eq!(families(&["IPv6", "IPv4"]), [IpFamily::V4, IpFamily::V6]);
        assert_eq!(families(&[]), [], "it is not known yet");
    }

    #[test]
    fn a_port_whose_slices_are_gone_altered_or_at_odds_has_no_known_owner() {
        let whole = slices(TCP, Protocol::Tcp, "a", &[1]);
        assert_eq!(seen(&[TCP], &[]), are(&[("20417/TCP", "", 0)]));
        let altered = vec![SeenSlice { slice: None, ..whole[0].clone() }];
        assert_eq!(seen(&[TCP], &altered), are(&[("20417/TCP", "", 0)]));
        let at_odds = [whole.clone(), slices(TCP, Protocol::Tcp, "b", &[])].concat();
        assert_eq!(seen(&[TCP], &at_odds), are(&[("20417/TCP", "", 0)]));
        let of_another_service = observed(&Front { ours: [TCP].into(), ..Front::default() }, "new", whole.iter());
        assert_eq!(&*of_another_service.load_balancer.listeners[&ListenerKey::from(TCP)].owner.claim, "");
    }

    #[test]
    fn slices_without_a_service_port_are_no_listener() {
        assert_eq!(seen(&[], &slices(TCP, Protocol::Tcp, "a", &[1])), are(&[]));
    }
}
