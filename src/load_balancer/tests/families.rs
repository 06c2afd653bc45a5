//! Which backends a load balancer takes: by IP family, and by transport.

use sharedlb_providers::IpFamily;

use super::*;

/// Gives the claim's Service a ready pod with this address.
async fn pod(running: &Running, claim: &ClaimFixture, address: &str, ports: serde_json::Value) {
    let claim = claim.build();
    let service: Service = companion::desired(&claim, TargetKind::Pod, None).unwrap().unwrap();
    running.backends.apply_service_event(Event::Apply(ServiceObject::parse(&service)));
    let slice: EndpointSlice = serde_json::from_value(json!({
        "metadata": {
            "name": format!("slice-{}", address.replace([':', '.'], "-")), "namespace": "team", "uid": "s",
            "resourceVersion": running.version(),
            "labels": {
                "kubernetes.io/service-name": &*companion_name::key(&claim.meta).name,
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
            },
        },
        "addressType": if address.contains(':') { "IPv6" } else { "IPv4" },
        "ports": ports,
        "endpoints": [{"addresses": [address], "targetRef": {"kind": "Pod", "name": "pod-0"}}],
    }))
    .unwrap();
    running.backends.apply_slice_event(Event::Apply(SliceObject::parse(&slice)));
    running.settle().await;
}

fn tcp_port() -> serde_json::Value {
    json!([{"name": "x-tcp", "protocol": "TCP", "port": 6379}])
}

#[tokio::test(start_paused = true)]
async fn backends_of_a_missing_family_are_left_out_and_reported() {
    let running = Running::start().await;
    running.cloud.families([IpFamily::V4]);
    let a = claim("a").holds(0, 20001);
    running.plan(std::slice::from_ref(&a)).await;
    tokio::time::sleep(RESYNC * 2).await;
    pod(&running, &a, "fd00::1", tcp_port()).await;
    assert_eq!(running.open().await, BTreeMap::from([(20001, 0)]));
    let reported = running.last().listeners[&tcp(20001)].clone();
    assert_eq!((reported.backends, reported.idle_families), (false, BTreeSet::from([IpFamily::V4])));

    pod(&running, &a, "10.244.0.1", tcp_port()).await;
    assert_eq!(running.open().await, BTreeMap::from([(20001, 1)]));
    let reported = running.last().listeners[&tcp(20001)].clone();
    assert_eq!((reported.backends, reported.idle_families), (true, BTreeSet::new()));
}

#[tokio::test(start_paused = true)]
async fn the_families_of_a_load_balancer_that_was_just_made_count_at_once() {
    let running = Running::start().await;
    running.cloud.families([IpFamily::V4]);
    running.plans.send_replace(Arc::new(Plan::new(running.provider.clone(), 0, None)));
    running.settle().await;
    let a = claim("a").holds(0, 20001);
    pod(&running, &a, "fd00::1", tcp_port()).await;
    running.plan(std::slice::from_ref(&a)).await;
    running.settle().await;
    assert_eq!(running.open().await, BTreeMap::from([(20001, 0)]));
    assert!(!running.last().listeners[&tcp(20001)].backends);
}

#[tokio::test(start_paused = true)]
async fn a_family_without_backends_is_reported_beside_a_served_one() {
    let running = Running::start().await;
    running.cloud.families([IpFamily::V4, IpFamily::V6]);
    tokio::time::sleep(RESYNC * 2).await;
    let a = claim("a").holds(0, 20001);
    running.plan(std::slice::from_ref(&a)).await;
    pod(&running, &a, "10.244.0.1", tcp_port()).await;
    let reported = running.last().listeners[&tcp(20001)].clone();
    assert_eq!((reported.backends, reported.idle_families), (true, BTreeSet::from([IpFamily::V6])));
    pod(&running, &a, "fd00::1", tcp_port()).await;
    assert_eq!(running.last().listeners[&tcp(20001)].idle_families, BTreeSet::new());
}
