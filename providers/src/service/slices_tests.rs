//! Backends to slices and back.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::*;
use crate::model::BackendSet;

fn load_balancer() -> LbName {
    LbName::from_recorded("slb-default-0-0123456789")
}

fn service() -> ServiceName {
    ServiceName::main(&load_balancer())
}

fn marks() -> Marks {
    Marks::new("lbs", "default", "cluster")
}

fn number(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).unwrap()
}

fn front() -> FrontPort {
    FrontPort { port: number(20417), transport: Transport::Tcp }
}

fn v4(host: u16, port: u16) -> Backend {
    let address = IpAddr::V4(Ipv4Addr::from(0x0af4_0000 + u32::from(host)));
    Backend {
        address,
        port: number(port),
        pod: Some(format!("pod-{host}").into()),
        node: Some("node-1".into()),
        provider_id: None,
        transport: None,
    }
}

fn v6(host: u16, port: u16) -> Backend {
    Backend { address: IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, host)), ..v4(host, port) }
}

fn slice(place: Place, backends: Vec<Backend>) -> Slice {
    Slice {
        service: service(),
        service_uid: "uid".into(),
        listener: ListenerKey { port: place.port.port, protocol: Protocol::TcpUdp },
        owner: Owner { namespace: "team-a".into(), claim: "redis".into(), port: "main".into() },
        place,
        backends: backends.into(),
    }
}

fn arranged(backends: impl IntoIterator<Item = Backend>, seen: &[SeenSlice]) -> Vec<Slice> {
    let arranged = arrange(front(), &BackendSet::from_iter(backends), seen);
    arranged.into_iter().map(|(place, backends)| slice(place, backends)).collect()
}

fn as_seen(slices: &[Slice]) -> Vec<SeenSlice> {
    slices.iter().map(|slice| SeenSlice { place: slice.place, slice: Some(slice.clone()) }).collect()
}

fn read(object: &EndpointSlice) -> Option<SeenSlice> {
    let (of, seen) = SeenSlice::read(object, &load_balancer(), &marks())?;
    assert_eq!(of, service());
    Some(seen)
}

fn sizes(slices: &[Slice]) -> Vec<(String, usize)> {
    let prefix = format!("{}-20417-tcp-", load_balancer());
    slices.iter().map(|s| (s.name().strip_prefix(&prefix).unwrap().to_owned(), s.backends.len())).collect()
}

fn named(sizes: &[(&str, usize)]) -> Vec<(String, usize)> {
    sizes.iter().map(|(name, size)| ((*name).to_owned(), *size)).collect()
}

#[test]
fn a_slice_reads_back_as_it_was_rendered() {
    for backends in [vec![], vec![v4(1, 6379), v4(2, 6379)], vec![v6(1, 6379)]] {
        for slice in arranged(backends, &[]) {
            let seen = read(&slice.object(&marks()));
            assert_eq!(seen, Some(SeenSlice { place: slice.place, slice: Some(slice) }));
        }
    }
}

#[test]
fn endpoints_1001_make_two_slices() {
    let slices = arranged((1..=1001).map(|host| v4(host, 6379)), &[]);
    assert_eq!(sizes(&slices), named(&[("v4-6379-0", 1000), ("v4-6379-1", 1)]));
}

#[test]
fn address_families_are_kept_apart() {
    let slices = arranged([v4(1, 6379), v6(1, 6379), v4(2, 6379)], &[]);
    assert_eq!(sizes(&slices), named(&[("v4-6379-0", 2), ("v6-6379-0", 1)]));
    let types: Vec<_> = slices.iter().map(|slice| slice.object(&marks()).address_type).collect();
    assert_eq!(types, ["IPv4", "IPv6"]);
}

#[test]
fn a_port_name_that_two_pods_resolve_differently_makes_two_slices() {
    let slices = arranged([v4(1, 6379), v4(2, 6380)], &[]);
    assert_eq!(sizes(&slices), named(&[("v4-6379-0", 1), ("v4-6380-0", 1)]));
    let targets: Vec<_> = slices.iter().map(|slice| slice.object(&marks()).ports.unwrap()[0].port).collect();
    assert_eq!(targets, [Some(6379), Some(6380)]);
}

#[test]
fn a_listener_without_backends_has_an_empty_slice_that_names_its_owner() {
    let slices = arranged([], &[]);
    assert_eq!(sizes(&slices), named(&[("v4-none-0", 0)]));
    let object = slices[0].object(&marks());
    assert_eq!(object.metadata.annotations.unwrap()[OWNER], "team-a/redis/main");
    assert_eq!(object.ports.unwrap()[0].port, Some(20417));
}

#[test]
fn one_backend_more_or_less_rewrites_one_slice() {
    let before = arranged((1..=2500).map(|host| v4(host, 6379)), &[]);
    // The first one is removed, and one is added that sorts between the others.
    let after = arranged((2..=2500).map(|host| v4(host, 6379)).chain([v4(0, 6379)]), &as_seen(&before));
    let rewritten: Vec<_> = after.iter().filter(|slice| !before.contains(slice)).map(Slice::name).collect();
    assert_eq!(rewritten, [before[0].name()]);
    assert_eq!(after.len(), before.len());
}

#[test]
fn an_endpoint_names_its_pod_and_its_node() {
    let slices = arranged([v4(1, 6379)], &[]);
    let object = slices[0].object(&marks());
    let target = object.endpoints[0].target_ref.clone().unwrap();
    assert_eq!((target.kind.as_deref(), target.namespace.as_deref()), (Some("Pod"), Some("team-a")));
    assert_eq!(target.name.as_deref(), Some("pod-1"));
    assert_eq!(object.endpoints[0].node_name.as_deref(), Some("node-1"));
    assert_eq!(object.ports.unwrap()[0].name.as_deref(), Some("tcp-20417"));
}

#[test]
fn a_slice_changed_by_another_client_differs() {
    let original = arranged([v4(1, 6379), v4(2, 6379)], &[])[0].object(&marks());
    let alterations: [fn(&mut EndpointSlice); 4] = [
        |object| object.endpoints[0].conditions = None,
        |object| drop(object.endpoints[1].addresses.pop()),
        |object| object.ports.as_mut().unwrap()[0].port = Some(6380),
        |object| drop(object.metadata.annotations.as_mut().unwrap().remove(OWNER)),
    ];
    for (number, alter) in alterations.iter().enumerate() {
        let mut object = original.clone();
        alter(&mut object);
        let seen = read(&object).unwrap();
        assert_eq!(seen.slice, None, "alteration {number}");
    }
    let mut labelled = original.clone();
    labelled.metadata.labels.as_mut().unwrap().insert("somebody.else/label".into(), "x".into());
    assert!(read(&labelled).unwrap().slice.is_some());
}

#[test]
fn what_is_not_named_as_ours_is_not_ours() {
    let mut object = arranged([v4(1, 6379)], &[])[0].object(&marks());
    for name in ["somebody-elses", "slb-default-0-0123456789-x", "slb-default-0-0123456789-1-tcp-v4-2-0-0"] {
        object.metadata.name = Some(name.into());
        assert_eq!(read(&object), None, "{name}");
    }
}
