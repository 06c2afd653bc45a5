//! Addresses of one's own (the provider `vip`), which the clients' packets reach a node with.

use std::io;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::Service;
use kube::api::{DeleteParams, Patch, PatchParams};
use libtest_mimic::Trial;
use serde_json::json;
use sharedlb_harness::{LIMIT, Replica, Tests, World};
use sharedlb_kubernetes::events::Events;
use sharedlb_providers::vip::{Settings, Vip};
use sharedlb_providers::{
    Backend, BackendSet, ChangeSet, LbName, Listener, ListenerKey, ListenerOptions, LoadBalancer, Owner, Provider,
    SessionAffinity,
};
use sharedlb_testbed::{Cluster, Pod, Protocol, eventually};

use crate::SHAREDLB;
use crate::front::{Front, front};
use crate::tenant::Tenant;

/// The clients' address, from which they connect.
const CLIENT: &str = "10.99.9.2/32";

/// Tests that stop the controller or kube-proxy.
pub(crate) fn trials_of_their_own(test: &Tests<Cluster>) -> Vec<Trial> {
    vec![
        test.test("a claim that is deleted while no controller runs has no port once one does", deleted_meanwhile),
        test.test("addresses of one's own are served as they should be once kube-proxy runs again", without_kube_proxy),
    ]
}

pub(crate) fn trials(test: &Tests<World>) -> Vec<Trial> {
    vec![
        test.test("an address of one's own is reached from outside and from inside", reached),
        test.test("a port without backends refuses, and does not time out", refused_without_backends),
        test.test("an address that another client wiped from the status is reached again", wiped),
        test.test("an IPv6 address of one's own is reached", ipv6),
        test.test("clients outside of the source ranges get no answer, by TCP and by UDP", source_ranges),
        test.test("a client with session affinity reaches one pod", session_affinity),
        test.test("a claim gets and loses source ranges and affinity, and its neighbour stays open", options_of_claims),
        test.test("the source ranges of a Service are in force on an address of one's own", options_of_services),
    ]
}

/// A namespace and a class of this one address.
async fn open(cluster: &Arc<Cluster>, name: &str, address: &str) -> anyhow::Result<Tenant> {
    let class = json!({"provider": {"vip": {}}, "addresses": [{"min": address, "max": address}]});
    Tenant::open(cluster, name, class).await
}

async fn reached(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = open(&world.cluster, "vip-reached", "203.0.113.1").await?;
    tenant.pod("web-0", "web").await?;
    tenant.site.claim("dns", json!([{"protocol": "TCP_UDP", "targetPort": 5353}])).await?;
    let front = front(&tenant.site.ready("dns").await?, "")?;
    ensure!(front.address == IpAddr::from([203, 0, 113, 1]), "{front:?}");
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        tenant.answers(front.by(protocol), "web-0").await?;
    }
    tenant.only_answer_inside(front, &["web-0"]).await?;
    tenant.site.delete("dns").await?;
    tenant.closed(front).await?;
    tenant.closed(front.by(Protocol::Udp)).await
}

async fn refused_without_backends(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = open(&world.cluster, "vip-refused", "203.0.113.2").await?;
    let pod = tenant.pod("web-0", "web").await?;
    let front = front(&tenant.site.assigned("web").await?, "")?;
    tenant.answers(front, "web-0").await?;
    pod.delete().await?;
    eventually(&format!("{front:?} to refuse connections"), LIMIT, async || {
        let Err(error) = tenant.ask(front).await else { return Ok(None) };
        let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
        Ok((kind == Some(io::ErrorKind::ConnectionRefused)).then_some(()))
    })
    .await
}

async fn wiped(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = open(&world.cluster, "vip-wiped", "203.0.113.3").await?;
    tenant.pod("web-0", "web").await?;
    let front = front(&tenant.site.assigned("web").await?, "")?;
    tenant.answers(front, "web-0").await?;
    let services = tenant.site.services();
    let [service] = tenant.site.fronts(1).await?.try_into().ok().context("one Service")?;
    let name = service.metadata.name.context("it has a name")?;
    let wipe = Patch::Merge(json!({"status": {"loadBalancer": null}}));
    let wiped = services.patch_status(&name, &PatchParams::default(), &wipe).await?;
    ensure!(!has_address(&wiped), "{:?}", wiped.status);
    eventually("the address to be in the status again", LIMIT, async || {
        Ok(has_address(&services.get(&name).await?).then_some(()))
    })
    .await?;
    tenant.answers(front, "web-0").await?;
    tenant.site.ready("web").await.map(drop)
}

fn has_address(service: &Service) -> bool {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    status.and_then(|status| status.ingress.as_ref()).is_some_and(|ingress| !ingress.is_empty())
}

async fn ipv6(world: Arc<World>) -> anyhow::Result<()> {
    if !world.cluster.ipv6() {
        return Ok(());
    }
    let tenant = open(&world.cluster, "vip-ipv6", "2001:db8::1").await?;
    tenant.pod("web-0", "web").await?;
    let front = front(&tenant.site.assigned("web").await?, "")?;
    ensure!(front.address.is_ipv6(), "{front:?}");
    tenant.answers(front, "web-0").await.map(drop)
}

async fn deleted_meanwhile(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    let mut replica = Replica::alone(SHAREDLB, &cluster, &[]).await?;
    let tenant = open(&cluster, "vip-deleted", "203.0.113.4").await?;
    tenant.pod("web-0", "web").await?;
    let (stays, goes) = (tenant.site.assigned("stays").await?, tenant.site.assigned("goes").await?);
    let (stays, goes) = (front(&stays, "")?, front(&goes, "")?);
    for front in [stays, goes] {
        tenant.answers(front, "web-0").await?;
    }
    replica.kill().await?;
    tenant.site.claims.delete("goes", &DeleteParams::default()).await?;
    tenant.only_answer(stays, &["web-0"]).await?;
    replica.ready().await?;
    tenant.site.gone("goes").await?;
    tenant.closed(goes).await?;
    tenant.silent(goes).await?;
    tenant.only_answer(stays, &["web-0"]).await?;
    // Nothing of it is left for the tests after this one.
    tenant.site.delete("stays").await?;
    tenant.site.delete_class().await?;
    tenant.site.class_gone().await?;
    replica.kill().await
}

async fn options_of_claims(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = open(&world.cluster, "vip-claims", "203.0.113.7").await?;
    tenant.pod("web-0", "web").await?;
    tenant.pod("web-1", "web").await?;
    let neighbour = front(&tenant.site.assigned("neighbour").await?, "")?;
    let ports = json!([{"protocol": "TCP_UDP", "targetPort": 5353}]);
    let spec = json!({"selector": {"app": "web"}, "ports": ports, "loadBalancerSourceRanges": ["192.0.2.0/24"]});
    tenant.site.claim_with("web", spec).await?;
    let front = front(&tenant.site.ready("web").await?, "")?;
    ensure!(front.address == neighbour.address, "{front:?}, {neighbour:?}");
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        tenant.silent(front.by(protocol)).await?;
    }
    tenant.only_answer(neighbour, &["web-0", "web-1"]).await?;
    for (edit, admitted, sticky) in [
        (json!({"loadBalancerSourceRanges": [CLIENT]}), true, false),
        (json!({"sessionAffinity": "ClientIP"}), true, true),
        (json!({"loadBalancerSourceRanges": ["192.0.2.0/24"]}), false, true),
        (json!({"loadBalancerSourceRanges": null}), true, true),
    ] {
        tenant.site.change("web", json!({"spec": edit})).await?;
        tenant.site.ready("web").await?;
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let front = front.by(protocol);
            if !admitted {
                tenant.closed(front).await?;
                tenant.silent(front).await?;
            } else if sticky {
                one_answers(&tenant, front).await?;
            } else {
                tenant.only_answer(front, &["web-0", "web-1"]).await?;
            }
        }
        tenant.only_answer(neighbour, &["web-0", "web-1"]).await?;
    }
    Ok(())
}

async fn options_of_services(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = open(&world.cluster, "vip-services", "203.0.113.9").await?;
    tenant.pod("web-0", "web").await?;
    tenant.service("web", json!({"loadBalancerSourceRanges": ["192.0.2.0/24"]})).await?;
    let served = tenant.served("web", &[(80, Protocol::Tcp)]).await?;
    let front = *served.first().context("it is served")?;
    tenant.silent(front).await?;
    tenant.change("web", json!({"spec": {"loadBalancerSourceRanges": [CLIENT]}})).await?;
    tenant.answers(front, "web-0").await?;
    tenant.change("web", json!({"spec": {"loadBalancerSourceRanges": ["192.0.2.0/24"]}})).await?;
    tenant.closed(front).await?;
    tenant.silent(front).await
}

/// Connects until one pod gives all answers.
async fn one_answers(tenant: &Tenant, front: Front) -> anyhow::Result<()> {
    eventually(&format!("one pod to give all answers at {front:?}"), LIMIT, async || {
        let first = tenant.ask(front).await?.name;
        for _ in 0..20 {
            let next = tenant.ask(front).await?.name;
            ensure!(next == first, "{first} and {next} answer");
        }
        Ok(Some(()))
    })
    .await
}

async fn without_kube_proxy(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    let mut replica = Replica::alone(SHAREDLB, &cluster, &[]).await?;
    let tenant = open(&cluster, "vip-kube-proxy", "203.0.113.8").await?;
    tenant.pod("web-0", "web").await?;
    let (stays, goes) = (tenant.site.assigned("stays").await?, tenant.site.assigned("goes").await?);
    let (stays, goes) = (front(&stays, "")?, front(&goes, "")?);
    tenant.answers(goes, "web-0").await?;
    cluster.stop_kube_proxy().await?;
    tenant.only_answer(stays, &["web-0"]).await?;
    tenant.site.delete("goes").await?;
    let comes = front(&tenant.site.assigned("comes").await?, "")?;
    let narrowed = json!({"spec": {"loadBalancerSourceRanges": ["192.0.2.0/24"]}});
    tenant.site.change("stays", narrowed).await?;
    tenant.site.ready("stays").await?;
    cluster.resume_kube_proxy().await?;
    tenant.answers(comes, "web-0").await?;
    for front in [goes, stays] {
        tenant.closed(front).await?;
        tenant.silent(front).await?;
    }
    // Nothing of it is left for the tests after this one.
    for claim in ["stays", "comes"] {
        tenant.site.delete(claim).await?;
    }
    tenant.site.delete_class().await?;
    tenant.site.class_gone().await?;
    replica.kill().await
}

/// A load balancer that a test makes itself, in the namespace of a tenant.
struct Own {
    provider: Vip,
    name: LbName,
    address: IpAddr,
}

impl Own {
    fn new(tenant: &Tenant, address: [u8; 4]) -> Self {
        let client = tenant.site.cluster.admin();
        let (events, write) = Events::new(client.clone(), |_| {});
        tokio::spawn(write);
        let namespace = tenant.site.namespace.clone();
        let settings = Settings {
            client,
            namespace: namespace.clone(),
            cluster_id: "cluster".into(),
            class: namespace.clone(),
            addresses: vec![vec![address.into()]],
            events,
        };
        let name = LbName::new(&namespace, 0, "cluster", "class-uid");
        Self { provider: Vip::new(settings), name, address: address.into() }
    }

    /// Opens port 7000 by TCP and UDP with these options, and nothing else.
    async fn open(&self, pods: &[&Pod], options: &ListenerOptions) -> anyhow::Result<Front> {
        let number = NonZeroU16::new(7000).context("not zero")?;
        let backends = pods.iter().map(|pod| Backend {
            address: pod.addresses[0],
            port: NonZeroU16::MIN.saturating_add(5352),
            pod: Some(pod.name.as_str().into()),
            node: None,
            provider_id: None,
            transport: None,
        });
        let namespace = pods.first().map(|pod| pod.namespace.as_str()).unwrap_or_default();
        let owner = Owner { namespace: namespace.into(), claim: "dns".into(), port: "".into() };
        let mut listener = Listener::new(owner, backends.collect::<BackendSet>());
        listener.options = options.clone();
        let key = ListenerKey { port: number, protocol: sharedlb_providers::Protocol::TcpUdp };
        let desired = LoadBalancer { attributes: self.provider.attributes(0), listeners: [(key, listener)].into() };
        let observed = self.provider.observe(&self.name).await?.unwrap_or_default();
        let changes = observed.changes_to(&desired, &Default::default());
        let applied = self.provider.apply(&self.name, ChangeSet::new(&desired, &changes)).await?;
        ensure!(applied.failed.is_empty() && applied.postponed.is_empty(), "{applied:?}");
        Ok(Front::tcp(self.address, number.get()))
    }
}

fn ranges(ranges: &[&str]) -> anyhow::Result<ListenerOptions> {
    let mut options = ListenerOptions::default();
    options.source_ranges = ranges.iter().map(|range| range.parse()).collect::<Result<_, _>>()?;
    Ok(options)
}

async fn source_ranges(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::in_class(&world.cluster, "vip-ranges", "vip-ranges").await?;
    let pod = tenant.pod("dns-0", "dns").await?;
    let own = Own::new(&tenant, [203, 0, 113, 5]);
    let (others, ours) = (ranges(&["192.0.2.0/24"])?, ranges(&["192.0.2.0/24", CLIENT])?);
    // From the first packet, and also after an edit.
    for (options, inside, outside) in [
        (&others, false, false),
        (&ours, false, true),
        (&ListenerOptions::default(), true, true),
        (&others, false, false),
    ] {
        let front = own.open(&[&pod], options).await?;
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let front = front.by(protocol);
            if outside {
                tenant.answers(front, "dns-0").await?;
            } else {
                tenant.closed(front).await?;
            }
        }
        let what = format!("the answer from inside with {options:?}");
        eventually(&what, LIMIT, async || Ok((tenant.ask_inside(front).await.is_ok() == inside).then_some(()))).await?;
        if !inside && !outside {
            tenant.silent(front).await?;
            tenant.silent(front.by(Protocol::Udp)).await?;
        }
    }
    Ok(())
}

async fn session_affinity(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::in_class(&world.cluster, "vip-affinity", "vip-affinity").await?;
    let pods =
        [tenant.pod("dns-0", "dns").await?, tenant.pod("dns-1", "dns").await?, tenant.pod("dns-2", "dns").await?];
    let all: Vec<&Pod> = pods.iter().collect();
    let own = Own::new(&tenant, [203, 0, 113, 6]);
    let front = own.open(&all, &ListenerOptions::default()).await?;
    tenant.only_answer(front, &["dns-0", "dns-1", "dns-2"]).await?;

    let mut affinity = ListenerOptions::default();
    affinity.session_affinity = Some(SessionAffinity { timeout: Some(Duration::from_secs(600)) });
    own.open(&all, &affinity).await?;
    one_answers(&tenant, front).await
}
