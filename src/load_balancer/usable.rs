//! Which backends of a listener its load balancer can send traffic to, and what
//! of the listener's traffic then leads nowhere. Pure.

use std::collections::BTreeSet;

use sharedlb_providers::{Backend, BackendSet, IpFamily, Protocol, Provider, Transport};

use crate::backends::transports_with_backends;

/// What of a listener's backends gets traffic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Usable {
    /// Those that do, as the provider observes them
    pub backends: BackendSet,
    /// Whether each transport of the listener leads to one
    pub served: bool,
    /// The IP families of the load balancer in which a transport leads to none,
    /// although it has backends of another family
    pub idle_families: BTreeSet<IpFamily>,
}

/// The backends of a listener of this protocol to which its load balancer can send
/// traffic; `families` are the IP families that the load balancer sends traffic to
/// (none: to any).
pub(crate) fn usable_backends(
    provider: &dyn Provider,
    families: &BTreeSet<IpFamily>,
    protocol: Protocol,
    backends: BTreeSet<Backend>,
) -> Usable {
    let led: Vec<Transport> = transports_with_backends(protocol, &backends).collect();
    let family = |backend: &Backend| IpFamily::of(backend.address);
    let fits = |backend: &Backend| families.is_empty() || families.contains(&family(backend));
    let fitting: BTreeSet<Backend> = backends.into_iter().filter(fits).collect();
    let idle = |of: &&IpFamily| {
        let leads_there = |transport| fitting.iter().any(|each| each.takes(transport) && family(each) == **of);
        !led.iter().all(|transport| leads_there(*transport))
    };
    let idle_families = families.iter().filter(idle).copied().collect();
    let chosen = if provider.capabilities().backends_by_transport { fitting } else { one_set(fitting) };
    let (mut backends, mut marks) = (BTreeSet::new(), BTreeSet::new());
    for backend in chosen {
        let transport = backend.transport;
        if let Some(seen) = provider.as_observed(backend) {
            backends.insert(seen);
            marks.insert(transport);
        }
    }
    let served =
        protocol.transports().iter().all(|transport| marks.contains(&None) || marks.contains(&Some(*transport)));
    Usable { backends: backends.into(), served, idle_families }
}

/// For a load balancer that sends TCP and UDP of a listener to the same backends:
/// those that take both, or else those of the first transport that has any. So TCP
/// keeps its backends although UDP cannot have its own.
fn one_set(backends: BTreeSet<Backend>) -> BTreeSet<Backend> {
    let of = |transport: Option<Transport>| -> BTreeSet<Backend> {
        backends.iter().filter(|backend| backend.transport == transport).cloned().collect()
    };
    let marks = [None, Some(Transport::Tcp), Some(Transport::Udp)];
    marks.into_iter().map(of).find(|chosen| !chosen.is_empty()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use sharedlb_providers::memory::{Cloud, Memory};

    use super::*;

    const BOTH: Protocol = Protocol::TcpUdp;

    fn memory(one_set: bool) -> Memory {
        let cloud = Cloud::default();
        if one_set {
            cloud.one_set_of_backends();
        }
        Memory::new(cloud)
    }

    /// Backends by address and port: `10.244.0.1:53`, `[fd00::1]:53`.
    fn backends(of: &[&str]) -> BTreeSet<Backend> {
        let backend = |text: &&str| {
            let at: std::net::SocketAddr = text.parse().unwrap();
            let (address, port): (IpAddr, _) = (at.ip(), at.port().try_into().unwrap());
            Backend { address, port, pod: None, node: None, provider_id: None, transport: None }
        };
        of.iter().map(backend).collect()
    }

    fn apart(tcp: &[&str], udp: &[&str]) -> BTreeSet<Backend> {
        Backend::by_transport(BOTH, |transport| backends(if transport == Transport::Tcp { tcp } else { udp }))
    }

    fn ports(usable: &Usable) -> Vec<u16> {
        usable.backends.iter().map(|backend| backend.port.get()).collect()
    }

    #[test]
    fn each_transport_keeps_its_own_backends_where_the_provider_can() {
        let all = apart(&["10.244.0.1:5353"], &["10.244.0.1:5354"]);
        let usable = usable_backends(&memory(false), &BTreeSet::new(), BOTH, all.clone());
        assert_eq!(usable, Usable { backends: all.into(), served: true, idle_families: BTreeSet::new() });
    }

    #[test]
    fn where_it_cannot_the_backends_of_both_get_traffic_or_else_those_of_tcp_alone() {
        let usable = |tcp, udp| usable_backends(&memory(true), &BTreeSet::new(), BOTH, apart(tcp, udp));
        let shared = usable(&["10.244.0.1:53", "10.244.0.2:5353"], &["10.244.0.1:53", "10.244.0.2:5354"]);
        assert_eq!((ports(&shared), shared.served), (vec![53], true));
        let lead_apart = usable(&["10.244.0.1:5353"], &["10.244.0.1:5354"]);
        assert_eq!((ports(&lead_apart), lead_apart.served), (vec![5353], false));
        let udp_alone = usable(&[], &["10.244.0.1:5354"]);
        assert_eq!((ports(&udp_alone), udp_alone.served), (vec![5354], false));
    }

    #[test]
    fn a_transport_without_backends_is_not_served_and_takes_none_from_the_other() {
        let usable = usable_backends(&memory(false), &BTreeSet::new(), BOTH, apart(&[], &["10.244.0.1:53"]));
        assert_eq!((ports(&usable), usable.served), (vec![53], false));
    }

    #[test]
    fn backends_of_a_family_that_the_load_balancer_lacks_get_no_traffic() {
        let usable = |families: &[IpFamily], of| {
            usable_backends(&memory(false), &families.iter().copied().collect(), Protocol::Tcp, backends(of))
        };
        let only_v6 = usable(&[IpFamily::V4], &["[fd00::1]:80"]);
        let expected = Usable { idle_families: [IpFamily::V4].into(), ..Usable::default() };
        assert_eq!(only_v6, expected);
        let each_has_one = usable(&[IpFamily::V4, IpFamily::V6], &["10.244.0.1:80", "[fd00::1]:80"]);
        assert_eq!((each_has_one.served, each_has_one.idle_families), (true, BTreeSet::new()));
        let v6_leads_nowhere = usable(&[IpFamily::V4, IpFamily::V6], &["10.244.0.1:80"]);
        assert_eq!((v6_leads_nowhere.served, v6_leads_nowhere.idle_families), (true, [IpFamily::V6].into()));
        let not_known = usable(&[], &["[fd00::1]:80"]);
        assert_eq!((not_known.served, not_known.idle_families), (true, BTreeSet::new()));
    }

    #[test]
    fn a_listener_without_any_backends_says_nothing_of_families() {
        let none = usable_backends(&memory(false), &[IpFamily::V4].into(), Protocol::Tcp, BTreeSet::new());
        assert_eq!(none, Usable::default());
    }
}
