//! Addresses of one's own (the provider `vip`), which the clients' packets reach a node with.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::Service;
use kube::api::{DeleteParams, Patch, PatchParams};
use libtest_mimic::Trial;
use serde_json::json;
use sharedlb_crds::{ConditionType, Reason};
use sharedlb_harness::front::front;
use sharedlb_harness::tenant::Tenant;
use sharedlb_harness::{LIMIT, Replica, Tests, World};
use sharedlb_testbed::{Cluster, Protocol, eventually};

use crate::SHAREDLB;

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
        test.test("a class that is deleted by force and created again serves its ports once", created_again),
    ]
}

async fn reached(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::at(&world.cluster, "vip-reached", &["203.0.113.1"]).await?;
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
    let tenant = Tenant::at(&world.cluster, "vip-refused", &["203.0.113.2"]).await?;
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
    let tenant = Tenant::at(&world.cluster, "vip-wiped", &["203.0.113.3"]).await?;
    tenant.pod("web-0", "web").await?;
    // Two Services have the address: the second one has the ports of claims with affinity.
    let plain = front(&tenant.site.assigned("web").await?, "")?;
    let affine = json!({"selector": {"app": "web"}, "ports": [{"targetPort": "http"}], "sessionAffinity": "ClientIP"});
    tenant.site.claim_with("affine", affine).await?;
    let affine = front(&tenant.site.ready("affine").await?, "")?;
    for front in [plain, affine] {
        tenant.answers(front, "web-0").await?;
    }
    let services = tenant.site.services();
    for service in tenant.site.fronts(2).await? {
        let name = service.metadata.name.context("it has a name")?;
        let wipe = Patch::Merge(json!({"status": {"loadBalancer": null}}));
        let wiped = services.patch_status(&name, &PatchParams::default(), &wipe).await?;
        ensure!(!has_address(&wiped), "{:?}", wiped.status);
        eventually(&format!("the address to be in the status of {name} again"), LIMIT, async || {
            Ok(has_address(&services.get(&name).await?).then_some(()))
        })
        .await?;
    }
    for (name, front) in [("web", plain), ("affine", affine)] {
        tenant.answers(front, "web-0").await?;
        tenant.site.ready(name).await?;
    }
    Ok(())
}

fn has_address(service: &Service) -> bool {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    status.and_then(|status| status.ingress.as_ref()).is_some_and(|ingress| !ingress.is_empty())
}

async fn ipv6(world: Arc<World>) -> anyhow::Result<()> {
    if !world.cluster.ipv6() {
        return Ok(());
    }
    let tenant = Tenant::at(&world.cluster, "vip-ipv6", &["2001:db8::1"]).await?;
    tenant.pod("web-0", "web").await?;
    let front = front(&tenant.site.assigned("web").await?, "")?;
    ensure!(front.address.is_ipv6(), "{front:?}");
    tenant.answers(front, "web-0").await.map(drop)
}

/// The finalizer of a client that keeps a Service.
const HELD: &str = "example.com/held";

async fn created_again(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::at(&world.cluster, "vip-again", &["203.0.113.10"]).await?;
    tenant.pod("web-0", "web").await?;
    let before = front(&tenant.site.assigned("web").await?, "")?;
    tenant.answers(before, "web-0").await?;
    let class = tenant.site.classes.get(&tenant.site.class).await?;
    let [service] = tenant.site.fronts(1).await?.try_into().ok().context("one Service")?;
    let former = service.metadata.name.context("it has a name")?;
    let services = tenant.site.services();
    let finalizers = |finalizers: &[&str]| Patch::Merge(json!({"metadata": {"finalizers": finalizers}}));
    services.patch(&former, &PatchParams::default(), &finalizers(&[HELD])).await?;
    // It would wait for its claim.
    tenant.site.delete_class().await?;
    let unprotected = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    tenant.site.classes.patch(&tenant.site.class, &PatchParams::default(), &unprotected).await?;
    tenant.site.class_gone().await?;

    tenant.site.create_class(serde_json::to_value(&class.spec)?).await?;
    let words = ["is being deleted"];
    let pending = ("False", Reason::Pending);
    tenant.site.verdict_with("web", ConditionType::Programmed, pending, &words).await?;
    let [service] = tenant.site.fronts(1).await?.try_into().ok().context("one Service")?;
    ensure!(service.metadata.name.as_ref() == Some(&former), "the ports of {former} have a second Service");
    services.patch(&former, &PatchParams::default(), &finalizers(&[])).await?;
    let after = front(&tenant.site.ready("web").await?, "")?;
    ensure!(after == before, "{before:?} has moved to {after:?}");
    let [service] = tenant.site.fronts(1).await?.try_into().ok().context("one Service")?;
    ensure!(service.metadata.name.as_ref() != Some(&former), "{former} is still there");
    tenant.only_answer(after, &["web-0"]).await
}

async fn deleted_meanwhile(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    let mut replica = Replica::alone(SHAREDLB, &cluster, &[]).await?;
    let tenant = Tenant::at(&cluster, "vip-deleted", &["203.0.113.4"]).await?;
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

async fn without_kube_proxy(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    let mut replica = Replica::alone(SHAREDLB, &cluster, &[]).await?;
    let tenant = Tenant::at(&cluster, "vip-kube-proxy", &["203.0.113.8"]).await?;
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
