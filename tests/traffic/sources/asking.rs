//! What a Service may ask for, and what it gets.

use std::sync::Arc;

use anyhow::{Context, ensure};
use kube::ResourceExt;
use libtest_mimic::Trial;
use serde_json::json;
use sharedlb_crds::SharedLB;
use sharedlb_harness::tenant::{Tenant, condition, fronts, ip_modes};
use sharedlb_harness::{Tests, World};
use sharedlb_testbed::Protocol::{Tcp, Udp};

pub(crate) fn trials(test: &Tests<World>) -> Vec<Trial> {
    vec![
        test.test("a Service is reached at its own port numbers, at a named port of its pods", by_number),
        test.test("ports are assigned if the annotation says so, and the status has them", assigned),
        test.test("TCP and UDP on one number stay on one number, also if it is assigned", both),
        test.test("TCP and UDP on one number by different names of the pods' ports stay on one, too", both_by_name),
        test.test("TCP and UDP on one number may lead to different ports of the pods", both_apart),
        test.test("TCP and UDP on one number may lead to different numbers", both_apart_by_number),
        test.test("a Service requests a load balancer by its address", address),
        test.test("pods that are not ready are reached if the Service publishes them", not_ready),
        test.test(
            "a Service without a selector sends traffic to its EndpointSlices once the class allows any endpoints",
            without_selector,
        ),
        test.test("source ranges that the class cannot have close what was open", source_ranges),
        test.test("source ranges that admit all clients are served", all_clients),
        test.test("a port that cannot be shared is reported, and the others are served and stay open", left_out),
        test.test("externalTrafficPolicy Local is served, and its missing effect is reported", local),
        test.test("a port that another claim holds is refused, and the message says what to do", taken),
    ]
}

async fn by_number(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world.cluster, "by-number", json!({})).await?;
    tenant.pod("web-0", "web").await?;
    let ports = json!([{"name": "http", "port": 80, "targetPort": "http"}, {"name": "dns", "port": 9053, "targetPort": "dns", "protocol": "UDP"}]);
    tenant.service("web", json!({"ports": ports})).await?;
    for front in tenant.served("web", &[(80, Tcp), (9053, Udp)]).await? {
        tenant.only_answer(front, &["web-0"]).await?;
    }
    let service = tenant.services.get("web").await?;
    ensure!(ip_modes(&service) == ["Proxy"], "{:?}", service.status);
    let claim = tenant.claim("web").await?;
    let owner = claim.metadata.owner_references.unwrap_or_default();
    ensure!(owner.len() == 1 && owner[0].kind == "Service" && owner[0].controller == Some(true), "{owner:?}");
    Ok(())
}

async fn assigned(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world.cluster, "assigned", json!({})).await?;
    tenant.pod("web-0", "web").await?;
    tenant.service_with("web", json!({"sharedlb.dev/assign-ports": "true"}), json!({})).await?;
    let front = tenant.ready("web", 1).await?[0];
    ensure!(front.port >= 20000, "{front:?}");
    tenant.only_answer(front, &["web-0"]).await?;
    tenant.closed(front.at(80)).await?;
    let service = tenant.services.get("web").await?;
    ensure!(ip_modes(&service).iter().all(|mode| mode == "Proxy"), "{:?}", service.status);
    Ok(())
}

async fn both(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world.cluster, "service-both", json!({})).await?;
    tenant.pod("dns-0", "dns").await?;
    let ports = json!([
        {"name": "dns", "port": 53, "targetPort": 5353, "protocol": "UDP"},
        {"name": "dns-tcp", "port": 53, "targetPort": 5353, "protocol": "TCP"},
    ]);
    tenant.service_with("dns", json!({"sharedlb.dev/assign-ports": "true"}), json!({"ports": ports})).await?;
    let fronts = tenant.ready("dns", 2).await?;
    ensure!(fronts[0].port == fronts[1].port && fronts[0].port >= 20000, "{fronts:?}");
    for front in fronts {
        tenant.only_answer(front, &["dns-0"]).await?;
    }
    tenant.change("dns", json!({"metadata": {"annotations": {"sharedlb.dev/assign-ports": null}}})).await?;
    for front in tenant.served("dns", &[(53, Tcp), (53, Udp)]).await? {
        tenant.only_answer(front, &["dns-0"]).await?;
    }
    Ok(())
}

async fn both_by_name(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world.cluster, "both-by-name", json!({})).await?;
    tenant.pod("dns-0", "dns").await?;
    // Two names of one number, as a container has to have them.
    let (udp, tcp) = (
        json!({"name": "dns", "port": 53, "targetPort": "dns", "protocol": "UDP"}),
        json!({"name": "dns-tcp", "port": 53, "targetPort": "dns-tcp", "protocol": "TCP"}),
    );
    let assigned = json!({"sharedlb.dev/assign-ports": "true"});
    tenant.service_with("dns", assigned, json!({"ports": [udp, tcp]})).await?;
    let before = tenant.ready("dns", 2).await?;
    ensure!(before[0].port == before[1].port, "{before:?}");
    for front in &before {
        tenant.only_answer(*front, &["dns-0"]).await?;
    }
    // Their order says nothing.
    let claim = tenant.claim("dns").await?;
    tenant.change("dns", json!({"spec": {"ports": [tcp, udp]}, "metadata": {"labels": {"team": "red"}}})).await?;
    tenant.change("dns", json!({"metadata": {"annotations": {"sharedlb.dev/assign-ports": null}}})).await?;
    tenant.served("dns", &[(53, Tcp), (53, Udp)]).await?;
    let names = |claim: &SharedLB| claim.spec.ports.iter().map(|port| port.name.clone()).collect::<Vec<_>>();
    let now = tenant.claim("dns").await?;
    ensure!(names(&now) == names(&claim) && now.uid() == claim.uid(), "{:?} {:?}", claim.spec, now.spec);
    Ok(())
}

async fn both_apart(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world.cluster, "both-apart", json!({})).await?;
    tenant.pod("dns-0", "dns").await?;
    let ports = json!([
        {"name": "dns", "port": 53, "targetPort": "dns", "protocol": "UDP"},
        {"name": "web", "port": 53, "targetPort": "http", "protocol": "TCP"},
    ]);
    tenant.service("dns", json!({"ports": ports})).await?;
    for front in tenant.served("dns", &[(53, Tcp), (53, Udp)]).await? {
        tenant.only_answer(front, &["dns-0"]).await?;
    }
    Ok(())
}

async fn both_apart_by_number(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world.cluster, "both-numbers", json!({})).await?;
    tenant.pod("dns-0", "dns").await?;
    let ports = json!([
        {"name": "dns", "port": 53, "targetPort": 5353, "protocol": "UDP"},
        {"name": "web", "port": 53, "targetPort": 8080, "protocol": "TCP"},
    ]);
    tenant.service("dns", json!({"ports": ports})).await?;
    for front in tenant.served("dns", &[(53, Tcp), (53, Udp)]).await? {
        tenant.only_answer(front, &["dns-0"]).await?;
    }
    Ok(())
}

async fn address(world: Arc<World>) -> anyhow::Result<()> {
    let class = json!({"loadBalancers": {"min": 2, "max": 2}});
    let tenant = Tenant::open(&world.cluster, "address", class).await?;
    tenant.pod("web-0", "web").await?;
    tenant.pod("old-0", "old").await?;
    let second = tenant.site.load_balancer(1, "an address", |lb| lb.address.clone()).await?;
    tenant.service_with("web", json!({"sharedlb.dev/address": second}), json!({})).await?;
    let front = tenant.served("web", &[(80, Tcp)]).await?[0];
    ensure!(front.address.to_string() == second, "{front:?}");
    tenant.service("old", json!({"loadBalancerIP": "192.0.2.1"})).await?;
    tenant.reports("old", "Allocated", "AddressUnknown").await?;
    tenant.change("old", json!({"spec": {"loadBalancerIP": second, "ports": [{"name": "http", "port": 81}]}})).await?;
    tenant.change("old", json!({"spec": {"ports": [{"name": "http", "port": 81, "targetPort": "http"}]}})).await?;
    let front = tenant.served("old", &[(81, Tcp)]).await?[0];
    ensure!(front.address.to_string() == second, "{front:?}");
    tenant.only_answer(front, &["old-0"]).await?;
    tenant.service_with("bad", json!({"sharedlb.dev/address": "Not An Address"}), json!({})).await?;
    let message = tenant.reports("bad", "Allocated", "Rejected").await?;
    ensure!(message.contains("must be the IP address or the lower-case host name"), "{message}");
    tenant.event("Service", "bad", "Rejected").await?;
    tenant.change("bad", json!({"metadata": {"annotations": {"sharedlb.dev/address": null}}})).await?;
    tenant.reports("bad", "Ready", "NoBackends").await.map(drop)
}

async fn not_ready(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world.cluster, "not-ready", json!({})).await?;
    tenant.pod("web-0", "web").await?.set_ready(false).await?;
    tenant.service("web", json!({})).await?;
    tenant.reports("web", "Ready", "NoBackends").await?;
    tenant.change("web", json!({"spec": {"publishNotReadyAddresses": true}})).await?;
    let front = tenant.served("web", &[(80, Tcp)]).await?[0];
    tenant.only_answer(front, &["web-0"]).await
}

async fn without_selector(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world.cluster, "without-selector", json!({})).await?;
    let pod = tenant.pod("web-0", "web").await?;
    let address = pod.addresses.first().context("an address")?.to_string();
    tenant.service("web", json!({"selector": null})).await?;
    tenant.reports("web", "Ready", "NoBackends").await?;
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "mine", "namespace": "without-selector", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}], "endpoints": [{"addresses": [address]}],
    });
    world.cluster.apply(&slice.to_string()).await?;
    let message = tenant.reports("web", "Ready", "NoBackends").await?;
    ensure!(message.contains("has no selector") && message.contains("spec.endpoints: Any"), "{message}");
    let opened = tenant.until("web", "an address", |service| fronts(service).first().copied()).await?;
    tenant.silent(opened).await?;
    tenant.site.change_class(json!({"spec": {"endpoints": "Any"}})).await?;
    let front = tenant.served("web", &[(80, Tcp)]).await?[0];
    tenant.only_answer(front, &["web-0"]).await
}

async fn source_ranges(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world.cluster, "source-ranges", json!({})).await?;
    tenant.pod("web-0", "web").await?;
    tenant.service("web", json!({})).await?;
    let front = tenant.served("web", &[(80, Tcp)]).await?[0];
    tenant.only_answer(front, &["web-0"]).await?;
    tenant.change("web", json!({"spec": {"loadBalancerSourceRanges": ["192.0.2.0/24"]}})).await?;
    let message = tenant.reports("web", "Programmed", "Unsupported").await?;
    ensure!(message.contains("loadBalancerSourceRanges") && message.contains("remove them"), "{message}");
    tenant.event("Service", "web", "Unsupported").await?;
    tenant.closed(front).await?;
    tenant.service("new", json!({"loadBalancerSourceRanges": ["192.0.2.0/24"]})).await?;
    tenant.reports("new", "Allocated", "Unsupported").await?;
    tenant.change("web", json!({"spec": {"loadBalancerSourceRanges": null}})).await?;
    let again = tenant.served("web", &[(80, Tcp)]).await?[0];
    ensure!(again == front, "it was at {front:?} and is at {again:?}");
    tenant.only_answer(again, &["web-0"]).await
}

async fn all_clients(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world.cluster, "all-clients", json!({})).await?;
    tenant.pod("web-0", "web").await?;
    tenant.service("web", json!({"loadBalancerSourceRanges": ["0.0.0.0/0"]})).await?;
    let front = tenant.served("web", &[(80, Tcp)]).await?[0];
    tenant.only_answer(front, &["web-0"]).await?;
    let claim = tenant.claim("web").await?.uid();
    let ranges = json!({"service.beta.kubernetes.io/load-balancer-source-ranges": "10.0.0.0/8,0.0.0.0/0"});
    tenant
        .change("web", json!({"metadata": {"annotations": ranges}, "spec": {"loadBalancerSourceRanges": null}}))
        .await?;
    tenant.served("web", &[(80, Tcp)]).await?;
    tenant.only_answer(front, &["web-0"]).await?;
    ensure!(tenant.claim("web").await?.uid() == claim, "its port was closed in the meantime");
    Ok(())
}

async fn left_out(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world.cluster, "left-out", json!({})).await?;
    tenant.pod("web-0", "web").await?;
    tenant.service("web", json!({})).await?;
    let front = tenant.served("web", &[(80, Tcp)]).await?[0];
    let claim = tenant.claim("web").await?.uid();
    let http = json!({"name": "http", "port": 80, "targetPort": "http"});
    let more = json!([{"name": "sctp", "port": 5060, "protocol": "SCTP"}, http]);
    tenant.change("web", json!({"spec": {"ports": more}})).await?;
    let message = tenant.reports("web", "Allocated", "Unsupported").await?;
    ensure!(message == "port 5060: only TCP and UDP can be shared: remove it", "{message}");
    tenant.event("Service", "web", "Unsupported").await?;
    let service = tenant.services.get("web").await?;
    ensure!(fronts(&service) == [front] && tenant.claim("web").await?.uid() == claim, "{:?}", service.status);
    tenant.only_answer(front, &["web-0"]).await?;
    tenant.change("web", json!({"spec": {"ports": [http]}})).await?;
    tenant.served("web", &[(80, Tcp)]).await?;
    // A new one is served as far as it can be, too.
    tenant.delete("web").await?;
    tenant.service("web", json!({"ports": more})).await?;
    tenant.reports("web", "Ready", "Unsupported").await?;
    tenant.only_answer(front, &["web-0"]).await
}

async fn local(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world.cluster, "local", json!({})).await?;
    tenant.pod("web-0", "web").await?;
    tenant.service("web", json!({"externalTrafficPolicy": "Local"})).await?;
    let front = tenant.served("web", &[(80, Tcp)]).await?[0];
    tenant.only_answer(front, &["web-0"]).await?;
    let note = tenant.event("Service", "web", "ExternalTrafficPolicy").await?;
    ensure!(note.contains("instead of the client's"), "{note}");
    let service = tenant.services.get("web").await?;
    ensure!(condition(&service, "Honoured").is_some_and(|found| found.status == "False"), "{:?}", service.status);
    ensure!(ip_modes(&service).iter().all(|mode| mode == "Proxy"), "{:?}", service.status);
    Ok(())
}

async fn taken(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world.cluster, "taken", json!({"loadBalancers": {"max": 1}})).await?;
    tenant.pod("web-0", "web").await?;
    tenant.pod("late-0", "late").await?;
    tenant.service("web", json!({})).await?;
    tenant.served("web", &[(80, Tcp)]).await?;
    tenant.service("late", json!({})).await?;
    let message = tenant.reports("late", "Allocated", "PortTaken").await?;
    ensure!(message.contains("80/TCP") && message.contains("sharedlb.dev/assign-ports"), "{message}");
    tenant.event("Service", "late", "PortTaken").await?;
    tenant.delete("web").await?;
    // It cools down for its former holder.
    tenant.service("web", json!({})).await?;
    tenant.served("web", &[(80, Tcp)]).await?;
    tenant.reports("late", "Allocated", "PortTaken").await.map(drop)
}
