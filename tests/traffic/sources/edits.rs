//! A Service is edited, and ends where a fresh one would.

use std::sync::Arc;

use anyhow::ensure;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use libtest_mimic::Trial;
use serde_json::json;
use sharedlb_harness::tenant::{Tenant, fronts};
use sharedlb_harness::{LIMIT, Tests, World};
use sharedlb_testbed::Protocol::{Tcp, Udp};
use sharedlb_testbed::eventually;

pub(crate) fn trials(test: &Tests<World>) -> Vec<Trial> {
    vec![
        test.test("ports that are added, removed and renumbered are followed", ports),
        test.test("a changed selector sends traffic to other pods", selector),
        test.test("a Service that is no longer of type LoadBalancer is released, and may come back", type_changed),
        test.test("a deleted Service releases its port", deleted),
        test.test("a namespace with Services can be deleted", namespace_deleted),
        test.test("a Service's claim that is edited or deleted by hand is corrected", by_hand),
        test.test("while a finalizer keeps its deleted claim, a Service has no address and reports it", lingering),
        test.test("a user's claim of that name is not changed, and the Service reports it", name_taken),
        test.test("fields that other clients wrote into the Service stay", foreign),
    ]
}

async fn ports(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world.cluster, "ports", json!({})).await?;
    tenant.pod("web-0", "web").await?;
    let http = |number: u16| json!({"name": "http", "port": number, "targetPort": "http"});
    let dns = |protocol: &str| json!({"name": format!("dns-{}", protocol.to_lowercase()), "port": 53, "targetPort": 5353, "protocol": protocol});
    tenant.service("web", json!({"ports": [http(80)]})).await?;
    let first = tenant.served("web", &[(80, Tcp)]).await?[0];
    for (ports, wanted) in [
        (json!([http(80), dns("UDP")]), vec![(80, Tcp), (53, Udp)]),
        (json!([http(80), dns("UDP"), dns("TCP")]), vec![(80, Tcp), (53, Udp), (53, Tcp)]),
        (json!([http(81), dns("TCP")]), vec![(81, Tcp), (53, Tcp)]),
        (json!([http(81)]), vec![(81, Tcp)]),
    ] {
        tenant.change("web", json!({"spec": {"ports": ports}})).await?;
        for front in tenant.served("web", &wanted).await? {
            tenant.only_answer(front, &["web-0"]).await?;
        }
    }
    tenant.closed(first).await?;
    tenant.change("web", json!({"metadata": {"annotations": {"sharedlb.dev/assign-ports": "true"}}})).await?;
    // It holds this port, and any will do now.
    tenant.served("web", &[(81, Tcp)]).await.map(drop)
}

async fn selector(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world.cluster, "selector", json!({})).await?;
    tenant.pod("web-0", "web").await?;
    tenant.pod("other-0", "other").await?;
    tenant.service("web", json!({})).await?;
    let front = tenant.served("web", &[(80, Tcp)]).await?[0];
    tenant.only_answer(front, &["web-0"]).await?;
    tenant.change("web", json!({"spec": {"selector": {"app": "other"}}})).await?;
    tenant.only_answer(front, &["other-0"]).await?;
    tenant.change("web", json!({"spec": {"selector": {"app": "nobody"}}})).await?;
    tenant.reports("web", "Ready", "NoBackends").await?;
    tenant.closed(front).await
}

async fn type_changed(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world.cluster, "type-changed", json!({})).await?;
    tenant.pod("web-0", "web").await?;
    tenant.service("web", json!({})).await?;
    let front = tenant.served("web", &[(80, Tcp)]).await?[0];
    tenant.only_answer(front, &["web-0"]).await?;
    tenant.change("web", json!({"spec": {"type": "ClusterIP"}})).await?;
    tenant.let_go("web").await?;
    tenant.closed(front).await?;
    tenant.event("Service", "web", "Released").await?;
    let class = format!("sharedlb.dev/{}", tenant.site.class);
    tenant.change("web", json!({"spec": {"type": "LoadBalancer", "loadBalancerClass": class}})).await?;
    let again = tenant.served("web", &[(80, Tcp)]).await?[0];
    ensure!(again == front, "it was at {front:?} and is at {again:?}");
    tenant.only_answer(again, &["web-0"]).await
}

async fn deleted(world: Arc<World>) -> anyhow::Result<()> {
    let tenant =
        Tenant::open(&world.cluster, "service-deleted", json!({"reclaimDelaySeconds": 0, "loadBalancers": {"max": 1}}));
    let tenant = tenant.await?;
    tenant.pod("web-0", "web").await?;
    tenant.pod("next-0", "next").await?;
    tenant.service("web", json!({})).await?;
    let front = tenant.served("web", &[(80, Tcp)]).await?[0];
    tenant.delete("web").await?;
    tenant.site.gone("service-web").await?;
    tenant.closed(front).await?;
    tenant.service("next", json!({})).await?;
    let next = tenant.served("next", &[(80, Tcp)]).await?[0];
    tenant.only_answer(next, &["next-0"]).await
}

async fn namespace_deleted(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world.cluster, "going", json!({})).await?;
    let pod = tenant.pod("web-0", "web").await?;
    tenant.service("web", json!({})).await?;
    let front = tenant.served("web", &[(80, Tcp)]).await?[0];
    // Nothing else ends its process.
    pod.delete().await?;
    let namespaces = Api::<Namespace>::all(world.cluster.admin());
    namespaces.delete("going", &DeleteParams::default()).await?;
    eventually("the namespace to be gone", LIMIT, async || {
        Ok(namespaces.get_opt("going").await?.is_none().then_some(()))
    })
    .await?;
    tenant.site.released("service-web", front.port).await
}

async fn by_hand(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world.cluster, "by-hand", json!({})).await?;
    tenant.pod("web-0", "web").await?;
    tenant.service("web", json!({})).await?;
    let front = tenant.served("web", &[(80, Tcp)]).await?[0];
    let before = tenant.claim("web").await?;
    let claims = &tenant.site.claims;
    let edits = json!({
        "metadata": {"labels": null},
        "spec": {"serviceName": null, "selector": {"app": "other"}, "ports": [{"name": "x", "port": 22, "targetPort": 22}]},
    });
    claims.patch("service-web", &PatchParams::default(), &Patch::Merge(edits)).await?;
    eventually("the claim to be as it was", LIMIT, async || {
        let now = tenant.claim("web").await?;
        ensure!(now.spec == before.spec && now.labels() == before.labels(), "{:?} {:?}", now.spec, now.labels());
        Ok(Some(()))
    })
    .await?;
    tenant.served("web", &[(80, Tcp)]).await?;
    tenant.only_answer(front, &["web-0"]).await?;
    claims.delete("service-web", &DeleteParams::default()).await?;
    eventually("another claim", LIMIT, async || {
        let now = claims.get_opt("service-web").await?;
        Ok(now.filter(|now| now.uid() != before.uid()).map(drop))
    })
    .await?;
    tenant.site.ready("service-web").await?;
    ensure!(tenant.served("web", &[(80, Tcp)]).await? == [front], "it is elsewhere");
    tenant.only_answer(front, &["web-0"]).await
}

async fn lingering(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world.cluster, "lingering", json!({"reclaimDelaySeconds": 0})).await?;
    tenant.pod("web-0", "web").await?;
    tenant.service("web", json!({})).await?;
    let front = tenant.served("web", &[(80, Tcp)]).await?[0];
    let kept = json!({"metadata": {"finalizers": ["sharedlb.dev/release-ports", "example.com/hold"]}});
    tenant.site.change("service-web", kept).await?;
    tenant.site.claims.delete("service-web", &DeleteParams::default()).await?;
    let message = tenant.reports("web", "Ready", "NameTaken").await?;
    ensure!(message.contains("finalizer example.com/hold keeps it: remove the finalizer"), "{message}");
    tenant.event("Service", "web", "NameTaken").await?;
    ensure!(fronts(&tenant.services.get("web").await?).is_empty(), "it still has an address");
    tenant.closed(front).await?;
    tenant.site.change("service-web", json!({"metadata": {"finalizers": null}})).await?;
    ensure!(tenant.served("web", &[(80, Tcp)]).await? == [front], "it is elsewhere");
    tenant.only_answer(front, &["web-0"]).await
}

async fn name_taken(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world.cluster, "name-taken", json!({})).await?;
    tenant.pod("web-0", "web").await?;
    let theirs = tenant.site.claim("service-web", json!([{"targetPort": "http"}])).await?;
    tenant.service("web", json!({})).await?;
    let message = tenant.reports("web", "Allocated", "NameTaken").await?;
    ensure!(message.contains("SharedLB service-web") && message.contains("delete it"), "{message}");
    tenant.event("Service", "web", "NameTaken").await?;
    ensure!(tenant.claim("web").await?.spec == theirs.spec, "it was touched");
    tenant.site.delete("service-web").await?;
    tenant.served("web", &[(80, Tcp)]).await.map(drop)
}

async fn foreign(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world.cluster, "foreign", json!({})).await?;
    tenant.pod("web-0", "web").await?;
    tenant.service("web", json!({})).await?;
    tenant.served("web", &[(80, Tcp)]).await?;
    let theirs = json!({
        "type": "team.dev/Theirs", "status": "True", "reason": "Theirs", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
    });
    let mut conditions = serde_json::to_value(tenant.services.get("web").await?.status)?["conditions"].clone();
    conditions.as_array_mut().unwrap_or(&mut Vec::new()).push(theirs);
    let patch = Patch::Merge(json!({"status": {"conditions": conditions}}));
    tenant.services.patch_status("web", &PatchParams::default(), &patch).await?;
    tenant.change("web", json!({"metadata": {"finalizers": ["service.kubernetes.io/load-balancer-cleanup", "team.dev/theirs"], "annotations": {"team": "red"}}})).await?;
    tenant.change("web", json!({"spec": {"type": "ClusterIP"}})).await?;
    let left = tenant.until("web", "nothing of ours", |service| {
        (service.finalizers() == ["team.dev/theirs"]).then(|| service.clone())
    });
    let left = left.await?;
    let conditions = left.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    ensure!(conditions.len() == 1 && conditions[0].type_ == "team.dev/Theirs", "{conditions:?}");
    ensure!(left.annotations().get("team").is_some() && fronts(&left).is_empty(), "{left:?}");
    tenant.change("web", json!({"metadata": {"finalizers": null}})).await
}
