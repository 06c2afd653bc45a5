//! Addresses of a class, of the provider `vip`: which load balancer has which, and what
//! becomes of the traffic when the list is edited.

use std::sync::Arc;

use anyhow::ensure;
use libtest_mimic::Trial;
use serde_json::{Value, json};
use sharedlb_crds::{ConditionType, Reason};
use sharedlb_harness::front::{front, fronts};
use sharedlb_harness::tenant::Tenant;
use sharedlb_harness::{Tests, World};

pub(crate) fn trials(test: &Tests<World>) -> Vec<Trial> {
    vec![
        test.test("a load balancer is reached at one address of each IP family", of_both_families),
        test.test("an edited list of addresses is refused, and changes no address", edited),
        test.test("a class with an address of another gets it once the other gives it up", of_another_class),
    ]
}

/// Ranges of addresses, of the provider `vip`.
fn vip(ranges: &[(&str, &str)]) -> Value {
    let ranges: Vec<Value> = ranges.iter().map(|(min, max)| json!({"min": min, "max": max})).collect();
    json!({"provider": {"vip": {}}, "addresses": ranges})
}

async fn of_both_families(world: Arc<World>) -> anyhow::Result<()> {
    if !world.cluster.ipv6() {
        return Ok(());
    }
    let ranges = [("203.0.113.20", "203.0.113.21"), ("2001:db8::20", "2001:db8::21")];
    let mut class = vip(&ranges);
    class["loadBalancers"] = json!({"min": 2, "max": 2});
    let tenant = Tenant::open(&world.cluster, "vip-both", class).await?;
    tenant.pod("web-0", "web").await?;
    let ports = json!([{"targetPort": "http"}]);
    let spec = json!({"selector": {"app": "web"}, "address": "2001:db8::21", "ports": ports});
    tenant.site.claim_with("web", spec).await?;
    let claim = tenant.site.ready("web").await?;
    let status = claim.status.clone().unwrap_or_default();
    ensure!(status.load_balancer_index == Some(1), "{status:?}");
    ensure!(status.addresses == ["203.0.113.21", "2001:db8::21"], "{status:?}");
    for front in fronts(&claim, "")? {
        tenant.answers(front, "web-0").await?;
    }
    Ok(())
}

async fn edited(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world.cluster, "vip-edited", vip(&[("203.0.113.30", "203.0.113.31")])).await?;
    tenant.pod("web-0", "web").await?;
    let before = front(&tenant.site.assigned("web").await?, "")?;
    tenant.answers(before, "web-0").await?;

    tenant.site.change_class(json!({"spec": vip(&[("203.0.113.32", "203.0.113.33")])})).await?;
    let message = tenant.site.class_verdict(ConditionType::Accepted, ("False", Reason::Unsupported)).await?;
    ensure!(message.contains("load balancer 0 has 203.0.113.30"), "{message}");
    tenant.site.claim("late", json!([{"targetPort": "http"}])).await?;
    tenant.site.refused("late", Reason::Unsupported, &["203.0.113.30"]).await?;
    tenant.only_answer(before, &["web-0"]).await?;

    // The load balancer is there with its address, and further addresses come after it.
    let longer = vip(&[("203.0.113.30", "203.0.113.30"), ("203.0.113.32", "203.0.113.33")]);
    tenant.site.change_class(json!({"spec": longer})).await?;
    tenant.site.class_verdict(ConditionType::Accepted, ("True", Reason::Accepted)).await?;
    let late = front(&tenant.site.ready("late").await?, "")?;
    ensure!(late.address == before.address, "{late:?}");
    tenant.answers(late, "web-0").await?;
    tenant.only_answer(before, &["web-0"]).await
}

async fn of_another_class(world: Arc<World>) -> anyhow::Result<()> {
    let older = Tenant::open(&world.cluster, "vip-a-older", vip(&[("203.0.113.40", "203.0.113.41")])).await?;
    older.site.class_verdict(ConditionType::Ready, ("True", Reason::Ready)).await?;
    let newer = Tenant::open(&world.cluster, "vip-newer", vip(&[("203.0.113.41", "203.0.113.42")])).await?;
    newer.pod("web-0", "web").await?;
    let message = newer.site.class_verdict(ConditionType::Accepted, ("False", Reason::Unsupported)).await?;
    ensure!(message.contains("203.0.113.41") && message.contains("class vip-a-older"), "{message}");
    newer.site.fronts(0).await?;

    newer.site.claim("web", json!([{"targetPort": "http"}])).await?;
    newer.site.refused("web", Reason::Unsupported, &["203.0.113.41"]).await?;
    older.site.change_class(json!({"spec": vip(&[("203.0.113.40", "203.0.113.40")])})).await?;
    let front = front(&newer.site.ready("web").await?, "")?;
    ensure!(front.address.to_string() == "203.0.113.41", "{front:?}");
    newer.answers(front, "web-0").await.map(drop)
}
