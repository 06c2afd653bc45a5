//! Where load balancers send traffic to nodes, each claim has a Service with a
//! port on every node. What the load balancer itself makes of it is not looked
//! at here: the class is one of AWS, which can't be reached.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use libtest_mimic::Trial;
use serde_json::{Value, json};
use sharedlb_crds::{CLAIM_LABEL, ConditionType, Reason, SharedLBClass};
use sharedlb_harness::front::Front;
use sharedlb_harness::tenant::Tenant;
use sharedlb_harness::{LIMIT, Site, Tests, World, slots};
use sharedlb_testbed::{Protocol, eventually};

pub(crate) fn trials(test: &Tests<World>) -> Vec<Trial> {
    vec![
        test.test("every node forwards to the pods of a claim with a selector", by_selector),
        test.test("every node forwards to the pods of a Service that a claim names", by_service),
        test.test("a TCP_UDP port is one port on every node", both_transports),
        test.test("a node port stays with its port while others are added and removed", stays),
        test.test("switching a class to pods makes its NodePort companion Services headless", turns),
        test.test(
            "a Service without a selector is not supported with node targets, and the claim reports it",
            no_selector,
        ),
    ]
}

/// A namespace, and a class whose load balancers send traffic to nodes.
async fn open(world: Arc<World>, name: &str) -> anyhow::Result<(Tenant, IpAddr)> {
    let site = Site::in_class(&world.cluster, name, name).await?;
    let class: SharedLBClass = serde_json::from_value(json!({
        "apiVersion": "sharedlb.dev/v1alpha1", "kind": "SharedLBClass", "metadata": {"name": name},
        "spec": {"targets": "Node", "provider": {"aws": {
            "region": "eu-central-1", "vpcId": "vpc-01234567", "subnets": ["subnet-01234567"],
        }}},
    }))?;
    site.classes.create(&PostParams::default(), &class).await?;
    // All pods are on another node than this one.
    let node = *world.cluster.node(name).await?.first().context("it has an address")?;
    Ok((Tenant::of(site)?, node))
}

fn services(site: &Site) -> Api<Service> {
    Api::namespaced(site.cluster.admin(), &site.namespace)
}

async fn service(site: &Site, name: &str, spec: Value) -> anyhow::Result<()> {
    let service: Service = serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec}))?;
    services(site).create(&PostParams::default(), &service).await?;
    Ok(())
}

/// The ports, by name, of the Service that is kept for a claim, as soon as it is
/// as looked for.
async fn own<T>(site: &Site, claim: &str, find: impl Fn(&Service) -> Option<T>) -> anyhow::Result<T> {
    let params = ListParams::default().labels(&format!("{CLAIM_LABEL}={claim}"));
    eventually(&format!("the Service of claim {claim}"), LIMIT, async || {
        let found = services(site).list(&params).await?.items.pop();
        let as_looked_for = found.as_ref().and_then(&find);
        ensure!(as_looked_for.is_some(), "there is {:?}", found.and_then(|service| service.spec));
        Ok(as_looked_for)
    })
    .await
}

/// The port of every node for a port of the Service: the first of this protocol.
fn node_port(service: &Service, protocol: &str) -> Option<u16> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    ports.filter(|port| port.protocol.as_deref() == Some(protocol)).find_map(|port| port.node_port?.try_into().ok())
}

/// The same for the TCP port of the load balancer with this number.
fn node_port_of(service: &Service, number: u16) -> Option<u16> {
    let name = format!("tcp-{number}");
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    ports.filter(|port| port.name.as_ref() == Some(&name)).find_map(|port| port.node_port?.try_into().ok())
}

/// The number that a claim has for a port.
async fn number(site: &Site, claim: &str, port: &str) -> anyhow::Result<u16> {
    eventually(&format!("a number for port {port} of claim {claim}"), LIMIT, async || {
        Ok(slots(&site.claims.get(claim).await?).get(port).map(|(.., number)| *number))
    })
    .await
}

async fn by_selector(world: Arc<World>) -> anyhow::Result<()> {
    let (tenant, address) = open(world, "nodes-selector").await?;
    tenant.pod("web-0", "web").await?;
    tenant.pod("web-1", "web").await?;
    tenant.site.claim("web", json!([{"targetPort": "http"}])).await?;
    let port = own(&tenant.site, "web", |service| node_port(service, "TCP")).await?;
    tenant.only_answer(Front::tcp(address, port), &["web-0", "web-1"]).await
}

async fn by_service(world: Arc<World>) -> anyhow::Result<()> {
    let (tenant, address) = open(world, "nodes-service").await?;
    tenant.pod("web-0", "web").await?;
    tenant.pod("db-0", "db").await?;
    let spec =
        |app: &str| json!({"selector": {"app": app}, "ports": [{"name": "web", "port": 80, "targetPort": "http"}]});
    service(&tenant.site, "web", spec("web")).await?;
    let claim =
        json!({"serviceName": "web", "ports": [{"name": "a", "targetPort": 80}, {"name": "b", "targetPort": "web"}]});
    tenant.site.claim_with("web", claim).await?;
    for name in ["a", "b"] {
        let number = number(&tenant.site, "web", name).await?;
        let port = own(&tenant.site, "web", |service| node_port_of(service, number)).await?;
        tenant.only_answer(Front::tcp(address, port), &["web-0"]).await?;
    }
    // It follows the Service.
    let change = Patch::Merge(json!({"spec": {"selector": {"app": "db"}}}));
    services(&tenant.site).patch("web", &PatchParams::default(), &change).await?;
    let a = number(&tenant.site, "web", "a").await?;
    let port = own(&tenant.site, "web", |service| node_port_of(service, a)).await?;
    tenant.only_answer(Front::tcp(address, port), &["db-0"]).await
}

async fn both_transports(world: Arc<World>) -> anyhow::Result<()> {
    let (tenant, address) = open(world, "nodes-both").await?;
    tenant.pod("dns-0", "web").await?;
    tenant.site.claim("dns", json!([{"protocol": "TCP_UDP", "targetPort": 5353}])).await?;
    let ports = |service: &Service| Some((node_port(service, "TCP")?, node_port(service, "UDP")?));
    let (tcp, udp) = own(&tenant.site, "dns", ports).await?;
    ensure!(tcp == udp, "{tcp} and {udp}");
    tenant.answers(Front::tcp(address, tcp), "dns-0").await?;
    tenant.answers(Front::tcp(address, udp).by(Protocol::Udp), "dns-0").await?;
    Ok(())
}

async fn stays(world: Arc<World>) -> anyhow::Result<()> {
    let (tenant, _) = open(world, "nodes-stay").await?;
    let port = |name: &str| json!({"name": name, "targetPort": "http"});
    tenant.site.claim("web", json!([port("a"), port("b")])).await?;
    let b = number(&tenant.site, "web", "b").await?;
    let before = own(&tenant.site, "web", |service| node_port_of(service, b)).await?;
    tenant.site.change("web", json!({"spec": {"ports": [port("b"), port("c"), port("d")]}})).await?;
    let d = number(&tenant.site, "web", "d").await?;
    own(&tenant.site, "web", |service| node_port_of(service, d)).await?;
    tenant.site.change("web", json!({"spec": {"ports": [port("renamed")]}})).await?;
    ensure!(number(&tenant.site, "web", "renamed").await? == b, "it is the one that stays in its place");
    let alone = |service: &Service| {
        let ports = service.spec.as_ref()?.ports.as_ref()?.len();
        node_port_of(service, b).filter(|_| ports == 1)
    };
    let after = own(&tenant.site, "web", alone).await?;
    ensure!(after == before, "it was {before} and is {after}");
    Ok(())
}

async fn turns(world: Arc<World>) -> anyhow::Result<()> {
    let (tenant, address) = open(world, "nodes-turn").await?;
    tenant.pod("web-0", "web").await?;
    tenant.site.claim("web", json!([{"targetPort": "http"}])).await?;
    service(&tenant.site, "svc", json!({"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}))
        .await?;
    tenant.site.claim_with("svc", json!({"serviceName": "svc", "ports": [{"targetPort": 80}]})).await?;
    own(&tenant.site, "svc", |service| node_port(service, "TCP")).await?;
    own(&tenant.site, "web", |service| node_port(service, "TCP")).await?;
    tenant.site.change_class(json!({"spec": {"targets": "Pod"}})).await?;
    let headless = |service: &Service| (service.spec.as_ref()?.cluster_ip.as_deref() == Some("None")).then_some(());
    own(&tenant.site, "web", headless).await?;
    let of_svc = ListParams::default().labels(&format!("{CLAIM_LABEL}=svc"));
    eventually("the Service of a claim that names one to go", LIMIT, async || {
        Ok(services(&tenant.site).list(&of_svc).await?.items.is_empty().then_some(()))
    })
    .await?;
    tenant.site.change_class(json!({"spec": {"targets": "Node"}})).await?;
    let port = own(&tenant.site, "web", |service| node_port(service, "TCP")).await?;
    tenant.answers(Front::tcp(address, port), "web-0").await.map(drop)
}

async fn no_selector(world: Arc<World>) -> anyhow::Result<()> {
    let (tenant, _) = open(world, "nodes-no-selector").await?;
    service(&tenant.site, "external", json!({"ports": [{"port": 80}]})).await?;
    tenant.site.claim_with("external", json!({"serviceName": "external", "ports": [{"targetPort": 80}]})).await?;
    tenant.site.refused("external", Reason::Unsupported, &["has no selector"]).await?;
    let change = Patch::Merge(json!({"spec": {"selector": {"app": "web"}}}));
    services(&tenant.site).patch("external", &PatchParams::default(), &change).await?;
    tenant.site.verdict("external", ConditionType::Allocated, ("True", Reason::Allocated)).await
}
