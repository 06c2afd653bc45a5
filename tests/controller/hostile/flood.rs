//! Attempts to exceed the quota, or to make something grow without limit.

use std::sync::Arc;

use anyhow::{Context, ensure};
use kube::api::DeleteParams;
use libtest_mimic::Trial;
use serde_json::{Value, json};
use sharedlb_crds::Reason;
use sharedlb_harness::{LIMIT, Tests, World, slots};
use sharedlb_testbed::eventually;

use super::tenant::Tenant;

/// The longest message of a condition or an Event, in bytes, and room for the
/// quotes around it.
const MESSAGE_MAX: usize = 1100;

pub(crate) fn trials(test: &Tests<World>) -> Vec<Trial> {
    vec![
        test.test("claims with many ports stay within the quota", big_claims),
        test.test("creating and deleting claims repeatedly takes up at most twice the quota", over_and_over),
        test.test("the status of a claim with the maximum of everything stays small", small_status),
        test.test("classes that exist only in claims are in no metric", invented_classes),
    ]
}

/// So many ports, each with a name.
fn ports(prefix: &str, count: usize, protocol: &str) -> Value {
    (0..count).map(|n| json!({"name": format!("{prefix}{n}"), "protocol": protocol, "targetPort": "http"})).collect()
}

async fn big_claims(world: Arc<World>) -> anyhow::Result<()> {
    let class = json!({"loadBalancers": {"listenersPerLoadBalancer": 400, "max": 1}, "portsPerNamespace": 100});
    let tenant = Tenant::open(&world, "big-claims", class).await?;
    tenant.site.claim("first", ports("p", 64, "TCP")).await?;
    tenant.site.claim("second", ports("p", 64, "UDP")).await?;
    tenant.site.refused("second", Reason::QuotaExceeded, &["64 of 100 ports"]).await?;
    // A port for both protocols is one port.
    tenant.site.claim("third", ports("p", 36, "TCP_UDP")).await?;
    eventually("the third to have its ports", LIMIT, async || {
        Ok((slots(&tenant.site.claims.get("third").await?).len() == 36).then_some(()))
    })
    .await?;
    tenant.site.claim("fourth", ports("p", 1, "TCP")).await?;
    tenant.site.refused("fourth", Reason::QuotaExceeded, &["100 of 100 ports"]).await?;
    // To add ports to a claim is no way around.
    let more: Value = ports("p", 64, "TCP")
        .as_array()
        .into_iter()
        .flatten()
        .chain(ports("q", 1, "TCP").as_array().into_iter().flatten())
        .skip(1)
        .cloned()
        .collect();
    tenant.site.change("first", json!({"spec": {"ports": more}})).await?;
    tenant.victim.assigned("another").await?;
    ensure!(slots(&tenant.site.claims.get("first").await?).len() <= 64, "it has more than its quota");
    tenant.victim_is_safe().await
}

async fn over_and_over(world: Arc<World>) -> anyhow::Result<()> {
    let class = json!({"loadBalancers": {"max": 1}, "portsPerNamespace": 3, "reclaimDelaySeconds": 3600});
    let tenant = Tenant::open(&world, "over-and-over", class).await?;
    let mut served = 0;
    for n in 0..8 {
        let name = format!("c{n}");
        tenant.site.claim(&name, json!([{"targetPort": "http"}])).await?;
        let got = eventually("a verdict", LIMIT, async || {
            let claim = tenant.site.claims.get(&name).await?;
            let refused =
                claim.status.iter().flat_map(|status| &status.conditions).any(|c| c.reason == "QuotaExceeded");
            let opened = claim.metadata.finalizers.is_some() && !slots(&claim).is_empty();
            Ok((refused || opened).then_some(opened))
        })
        .await?;
        served += usize::from(got);
        tenant.site.delete(&name).await?;
    }
    ensure!(served == 6, "{served} of its claims were served");
    tenant.site.claim("last", json!([{"targetPort": "http"}])).await?;
    tenant.site.refused("last", Reason::QuotaExceeded, &["6 released ports cool down"]).await?;
    // The same claim, changed over and over, has no more.
    tenant
        .site
        .class_status("six ports at rest", |status| {
            let resting = status.load_balancers.iter().flat_map(|lb| &lb.released).count();
            (resting == 6).then_some(())
        })
        .await?;
    // One that was there comes back to its own port.
    tenant.site.assigned("c0").await?;
    tenant.victim.assigned("another").await?;
    tenant.victim.claims.delete("another", &DeleteParams::default()).await?;
    tenant.victim_is_safe().await
}

async fn small_status(world: Arc<World>) -> anyhow::Result<()> {
    let class = json!({"loadBalancers": {"listenersPerLoadBalancer": 400, "max": 1}});
    let tenant = Tenant::open(&world, "small-status", class).await?;
    // 59 characters each.
    let name = |n: usize| format!("{}{n:02}", "x".repeat(57));
    let spec: Value =
        (0..64).map(|n| json!({"name": name(n), "protocol": "TCP_UDP", "targetPort": "missing"})).collect();
    tenant.site.claim("web", spec).await?;
    tenant.site.without_backends("web", &["targetPort"]).await?;
    let refused: Value = (0..64).map(|n| json!({"name": name(n), "port": 1 + n, "targetPort": 1})).collect();
    tenant.site.claim("refused", refused).await?;
    tenant.site.refused("refused", Reason::QuotaExceeded, &[]).await?;
    for claim in ["web", "refused"] {
        let status = tenant.site.claims.get(claim).await?.status.context("it has a status")?;
        ensure!(status.conditions.iter().all(|condition| condition.message.len() <= MESSAGE_MAX), "{status:?}");
        let size = serde_json::to_string(&status)?.len();
        // 64 ports in `ports` and twice in `ingress`, and three messages.
        ensure!(size < 32 * 1024, "the status of {claim} has {size} bytes");
    }
    tenant.victim_is_safe().await
}

async fn invented_classes(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world, "invented", json!({})).await?;
    for n in 0..20 {
        let spec = json!({"className": format!("invented-class-{n}")});
        tenant.forged(&format!("c{n}"), json!({"targetPort": "http"}), json!({ "spec": spec })).await?;
    }
    for n in 0..20 {
        tenant.site.refused(&format!("c{n}"), Reason::NoClass, &[]).await?;
    }
    let text = world.controller.get("/metrics").await?.into_body();
    ensure!(!text.contains("invented-class"), "{text}");
    ensure!(!text.contains("mallory") && !text.contains("namespace="), "{text}");
    tenant.victim_is_safe().await
}
