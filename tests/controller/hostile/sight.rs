//! Attempts to read data of other tenants.

use std::sync::Arc;

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::ListParams;
use libtest_mimic::Trial;
use serde_json::json;
use sharedlb_crds::{Reason, SharedLB, SharedLBClass};
use sharedlb_harness::{Tests, World, slots};

use super::tenant::{Tenant, create, forbidden};

pub(crate) fn trials(test: &Tests<World>) -> Vec<Trial> {
    vec![
        test.test("no message to a tenant names another tenant", not_named),
        test.test("a tenant can read neither classes, nor load balancers, nor others' claims", not_seen),
    ]
}

/// Any client finds out that a number is taken by connecting to the load balancer; the message
/// does not name the holder.
async fn not_named(world: Arc<World>) -> anyhow::Result<()> {
    let class = json!({"loadBalancers": {"max": 1, "listenersPerLoadBalancer": 4}, "reclaimDelaySeconds": 3600});
    let tenant = Tenant::open(&world, "not-named", class).await?;
    let (_, (.., resting)) = slots(&tenant.victim.assigned("secret").await?).pop_first().context("it has a port")?;
    tenant.victim.delete("secret").await?;
    tenant.site.claim("taken", json!([{"port": tenant.victims_port(), "targetPort": "http"}])).await?;
    tenant.site.refused("taken", Reason::PortTaken, &[]).await?;
    tenant.site.claim("rests", json!([{"port": resting, "targetPort": "http"}])).await?;
    tenant.site.refused("rests", Reason::PortTaken, &[]).await?;
    let many: serde_json::Value = (0..4).map(|n| json!({"name": format!("p{n}"), "targetPort": "http"})).collect();
    tenant.site.claim("full", many).await?;
    tenant.site.refused("full", Reason::PoolExhausted, &[]).await?;
    // As if somebody had tampered: the victim's port in the tenant's status.
    let admins = sharedlb_harness::Site {
        claims: Api::namespaced(world.cluster.admin(), &tenant.site.namespace),
        ..tenant.site.clone()
    };
    admins.assigned("thief").await?;
    admins.tamper("thief", json!({"ports": [{"name": "", "protocol": "TCP", "port": tenant.victims_port()}]})).await?;
    admins.event("thief", Reason::PortTaken.as_str()).await?;
    let said = tenant.all_that_was_said().await?;
    for secret in [tenant.victim.namespace.as_str(), "neighbour", "secret"] {
        ensure!(!said.contains(secret), "{secret} is named in {said}");
    }
    tenant.victim_is_safe().await
}

async fn not_seen(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world, "not-seen", json!({})).await?;
    tenant.site.assigned("web").await?;
    let all = ListParams::default();
    let (client, victims) = (&tenant.client, &tenant.victim.namespace);
    let classes = Api::<SharedLBClass>::all(client.clone());
    forbidden("list classes", classes.list(&all).await.map_err(Into::into))?;
    forbidden("get a class", classes.get(&tenant.site.class).await.map_err(Into::into))?;
    let everywhere = Api::<SharedLB>::all(client.clone());
    forbidden("list all claims", everywhere.list(&all).await.map_err(Into::into))?;
    let theirs = Api::<SharedLB>::namespaced(client.clone(), victims);
    forbidden("get a victim's claim", theirs.get("neighbour").await.map_err(Into::into))?;
    let claim = json!({
        "metadata": {"name": "planted"},
        "spec": {"className": tenant.site.class, "selector": {"app": "web"}, "ports": [{"targetPort": 1}]},
    });
    let mut planted = claim.clone();
    planted["apiVersion"] = json!("sharedlb.dev/v1alpha1");
    planted["kind"] = json!("SharedLB");
    forbidden("create a claim elsewhere", create(&theirs, planted).await)?;
    for namespace in [victims.as_str(), "sharedlb-system"] {
        let services = Api::<Service>::namespaced(client.clone(), namespace);
        forbidden("list Services elsewhere", services.list(&all).await.map_err(Into::into))?;
        let slices = Api::<EndpointSlice>::namespaced(client.clone(), namespace);
        forbidden("list EndpointSlices elsewhere", slices.list(&all).await.map_err(Into::into))?;
    }
    tenant.victim_is_safe().await
}
