//! The life of a claim to which nothing bad happens.

use std::sync::Arc;

use anyhow::{Context, ensure};
use kube::ResourceExt;
use libtest_mimic::Trial;
use serde_json::json;
use sharedlb_crds::{CLAIM_FINALIZER, Protocol, SharedLB, Transport};
use sharedlb_harness::{LIMIT, Site, Tests, World, addresses, port_names, slots};
use sharedlb_testbed::eventually;

pub(crate) fn trials(test: &Tests<World>) -> Vec<Trial> {
    vec![
        test.test("a claim gets a port, an address and its pods", a_claim),
        test.test("a requested port number is assigned", asked_for),
        test.test("a TCP_UDP port is one entry in ports and two in ingress", both_protocols),
        test.test("all ports of a claim are on one load balancer", several_ports),
        test.test("a claim may have 64 ports", sixty_four_ports),
        test.test("only the user changes a claim's spec and generation", spec_untouched),
        test.test("on dual-stack load balancers, a port sends traffic to IPv4 and IPv6 pods", dual_stack),
    ]
}

async fn a_claim(world: Arc<World>) -> anyhow::Result<()> {
    let site = Site::open(&world.cluster, "a-claim", json!({})).await?;
    let pod = site.pod("web-0", "web").await?;
    let claim = site.assigned("web").await?;
    let status = claim.status.clone().context("it has a status")?;
    let (_, (index, protocol, port)) = slots(&claim).pop_first().context("it has a port")?;
    ensure!((index, protocol) == (0, "TCP") && (20_000..=29_999).contains(&port), "{status:?}");
    ensure!(claim.finalizers().contains(&CLAIM_FINALIZER.to_owned()), "{:?}", claim.finalizers());

    let services = site.fronts(1).await?;
    ensure!(port_names(&services[0]) == [format!("tcp-{port}")], "{:?}", services[0].spec);
    ensure!(status.class_name.as_deref() == Some("a-claim"), "{status:?}");
    ensure!(status.address.as_ref() == addresses(&services[0]).first(), "{status:?}");
    ensure!(status.addresses == addresses(&services[0]), "{status:?}");
    ensure!(status.summary.as_ref().is_some_and(|summary| summary.starts_with(&format!("{port}/TCP"))), "{status:?}");
    ensure!(ingress_ports(&claim) == [(port, Transport::Tcp)], "{status:?}");
    site.leads_to(port, &[&pod]).await
}

async fn asked_for(world: Arc<World>) -> anyhow::Result<()> {
    let site = Site::with_pod(&world.cluster, "asked-for", json!({})).await?;
    site.claim("db", json!([{"name": "sql", "port": 5432, "targetPort": 8080}])).await?;
    let claim = site.ready("db").await?;
    ensure!(slots(&claim) == [("sql".to_owned(), (0, "TCP", 5432))].into(), "{:?}", claim.status);
    Ok(())
}

async fn both_protocols(world: Arc<World>) -> anyhow::Result<()> {
    let site = Site::with_pod(&world.cluster, "both-protocols", json!({})).await?;
    site.claim("dns", json!([{"protocol": "TCP_UDP", "targetPort": 5353}])).await?;
    let claim = site.ready("dns").await?;
    let status = claim.status.clone().context("it has a status")?;
    let [given] = status.ports.as_slice() else { anyhow::bail!("{:?}", status.ports) };
    ensure!(given.protocol == Protocol::TcpUdp, "{status:?}");
    let port = given.port.get();
    ensure!(ingress_ports(&claim) == [(port, Transport::Tcp), (port, Transport::Udp)], "{status:?}");
    let names = port_names(&site.fronts(1).await?[0]);
    ensure!(names == [format!("tcp-{port}"), format!("udp-{port}")], "{names:?}");
    Ok(())
}

async fn several_ports(world: Arc<World>) -> anyhow::Result<()> {
    let class = json!({"loadBalancers": {"max": 2, "listenersPerLoadBalancer": 4}});
    let site = Site::with_pod(&world.cluster, "several-ports", class).await?;
    let ports = json!([
        {"name": "a", "targetPort": "http"},
        {"name": "b", "targetPort": "http"},
        {"name": "c", "targetPort": "dns", "protocol": "UDP"},
    ]);
    for (name, index) in [("first", 0), ("second", 1)] {
        site.claim(name, ports.clone()).await?;
        let claim = site.ready(name).await?;
        let slots = slots(&claim);
        ensure!(slots.len() == 3 && slots.values().all(|slot| slot.0 == index), "{name} has {slots:?}");
    }
    Ok(())
}

async fn sixty_four_ports(world: Arc<World>) -> anyhow::Result<()> {
    let class = json!({"loadBalancers": {"listenersPerLoadBalancer": 100}});
    let site = Site::with_pod(&world.cluster, "sixty-four", class).await?;
    let neighbour = site.neighbour().await?;
    let ports: Vec<_> = (0..64).map(|n| json!({"name": format!("port-{n}"), "targetPort": "http"})).collect();
    site.claim("many", json!(ports)).await?;
    let claim = site.ready("many").await?;
    let numbers: std::collections::BTreeSet<_> = slots(&claim).into_values().collect();
    ensure!(numbers.len() == 64, "{numbers:?}");
    ensure!(!numbers.contains(&neighbour.slot()), "{numbers:?}");
    site.undisturbed(&neighbour).await
}

async fn spec_untouched(world: Arc<World>) -> anyhow::Result<()> {
    let site = Site::with_pod(&world.cluster, "spec-untouched", json!({})).await?;
    let created = site.claim("web", json!([{"targetPort": "http"}])).await?;
    let claim = site.ready("web").await?;
    ensure!(claim.spec == created.spec, "{:?}", claim.spec);
    ensure!(claim.metadata.generation == Some(1), "{:?}", claim.metadata);
    ensure!(claim.labels().is_empty() && claim.annotations().is_empty(), "{:?}", claim.metadata);
    Ok(())
}

async fn dual_stack(world: Arc<World>) -> anyhow::Result<()> {
    let service = json!({"ipFamilyPolicy": "PreferDualStack"});
    let site = Site::open(&world.cluster, "dual-stack", json!({"provider": {"service": service}})).await?;
    let pod = site.pod("web-0", "web").await?;
    let claim = site.assigned("web").await?;
    let (_, (.., port)) = slots(&claim).pop_first().context("it has a port")?;
    site.leads_to(port, &[&pod]).await?;
    let mut expected: Vec<(String, Vec<String>)> = vec![("IPv4".to_owned(), vec![pod.addresses[0].to_string()])];
    if world.cluster.ipv6() {
        expected.push(("IPv6".to_owned(), vec![pod.addresses[1].to_string()]));
    }
    // Kubernetes lists each family on its own.
    eventually("the port to lead to both families", LIMIT, async || {
        let slices = site.front_slices(port).await?.into_iter();
        let mut families: Vec<_> = slices
            .map(|slice| (slice.address_type, slice.endpoints.into_iter().flat_map(|each| each.addresses).collect()))
            .collect();
        families.sort();
        ensure!(families == expected, "{families:?}");
        Ok(Some(()))
    })
    .await?;
    let ingress = claim.status.and_then(|status| status.load_balancer).context("it has an address")?.ingress;
    ensure!(ingress.len() == expected.len(), "{ingress:?}");
    Ok(())
}

/// The ports of the first address.
fn ingress_ports(claim: &SharedLB) -> Vec<(u16, Transport)> {
    let status = claim.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let first = status.and_then(|status| status.ingress.first());
    first.iter().flat_map(|ingress| &ingress.ports).map(|port| (port.port.get(), port.protocol)).collect()
}
