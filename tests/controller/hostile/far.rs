//! Who wants the controller to write, or to lead traffic, outside of their own
//! namespace.

use std::sync::Arc;

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube::api::{DeleteParams, ListParams};
use kube::{Api, ResourceExt};
use libtest_mimic::Trial;
use serde_json::{Value, json};
use sharedlb_crds::CLAIM_LABEL;
use sharedlb_harness::{LIMIT, Tests, World, slots};
use sharedlb_testbed::eventually;

use super::tenant::{Tenant, change, create, invalid};

pub(crate) fn trials(test: &Tests<World>) -> Vec<Trial> {
    vec![
        test.test("a claim can't name a Service of another namespace", service_elsewhere),
        test.test("a selector finds pods of its own namespace only", selector_elsewhere),
        test.test("a ConfigMap can't name another namespace", config_map_elsewhere),
        test.test("an object with an owner in another namespace stays unchanged", owned_from_elsewhere),
        test.test("a companion Service that its tenant alters is corrected", companion_service_altered),
        test.test(
            "a foreign Service with the name of a companion Service is not changed, and gets no traffic",
            companion_service_replaced,
        ),
        test.test(
            "a tenant's Service that looks like a load balancer is not treated as one",
            looks_like_a_load_balancer,
        ),
    ]
}

/// The Services beside claims in the tenant's namespace.
async fn beside_claims(tenant: &Tenant) -> anyhow::Result<Vec<Service>> {
    Ok(tenant.api::<Service>().list(&ListParams::default().labels(CLAIM_LABEL)).await?.items)
}

/// Requires that the controller has made nothing in the victim's namespace but
/// what is the neighbour's.
async fn nothing_at_the_victims(tenant: &Tenant) -> anyhow::Result<()> {
    let admin = tenant.site.cluster.admin();
    let services = Api::<Service>::namespaced(admin, &tenant.victim.namespace).list(&ListParams::default()).await?;
    let names: Vec<_> = services.iter().map(ResourceExt::name_any).collect();
    ensure!(names.len() == 1 && names[0].starts_with("slb-neighbour-"), "the victim has the Services {names:?}");
    let claims = tenant.victim.claims.list(&ListParams::default()).await?;
    ensure!(claims.items.len() == 1, "the victim has {} claims", claims.items.len());
    tenant.victim_is_safe().await
}

async fn service_elsewhere(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world, "service-elsewhere", json!({})).await?;
    let victims = &tenant.victim.namespace;
    for name in [
        format!("{victims}/neighbour"),
        format!("../{victims}/services/neighbour"),
        format!("neighbour.{victims}"),
        format!("neighbour.{victims}.svc.cluster.local"),
        "neighbour\n".to_owned(),
        String::new(),
    ] {
        let spec = json!({"selector": null, "serviceName": name});
        let made = tenant.forged("web", json!({"targetPort": 8080}), json!({ "spec": spec })).await;
        invalid(&format!("name the Service {name:?}"), made)?;
    }
    nothing_at_the_victims(&tenant).await
}

async fn selector_elsewhere(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world, "selector-elsewhere", json!({})).await?;
    let own = tenant.site.pod("own-0", "own").await?;
    tenant.victim.pod("own-0", "own").await?;
    let spec = json!({"selector": {"app": "own"}});
    tenant.forged("web", json!({"targetPort": "http"}), json!({ "spec": spec })).await?;
    let (_, (.., port)) = slots(&tenant.site.ready("web").await?).pop_first().context("it has a port")?;
    tenant.site.leads_to(port, &[&own]).await?;
    let spec = json!({"selector": {"app": null, "kubernetes.io/metadata.name": tenant.victim.namespace}});
    tenant.site.change("web", json!({ "spec": spec })).await?;
    tenant.site.without_backends("web", &["no pod matches"]).await?;
    nothing_at_the_victims(&tenant).await
}

async fn config_map_elsewhere(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world, "map-elsewhere", json!({})).await?;
    let maps = tenant.api::<ConfigMap>();
    let data = json!({
        "namespace": tenant.victim.namespace, "target-service-name": "neighbour", "class": tenant.site.class,
    });
    let map = json!({"metadata": {"name": "web", "labels": {"app": "loadbalancer"}}, "data": data});
    create(&maps, map).await?;
    eventually("the ConfigMap to be told", LIMIT, async || {
        Ok(tenant.all_that_was_said().await?.contains("OtherNamespace").then_some(()))
    })
    .await?;
    let written = maps.get("web").await?.data.unwrap_or_default();
    ensure!(!written.contains_key("bind-ip") && !written.contains_key("bind-port"), "{written:?}");
    nothing_at_the_victims(&tenant).await
}

async fn owned_from_elsewhere(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world, "owned-elsewhere", json!({})).await?;
    let theirs = tenant.victim.claims.get("neighbour").await?;
    let owner = json!({
        "apiVersion": "sharedlb.dev/v1alpha1", "kind": "SharedLB", "name": "neighbour", "uid": theirs.uid(),
        "controller": true,
    });
    // A Service that says that it is the one beside the victim's claim.
    let name = Api::<Service>::namespaced(world.cluster.admin(), &tenant.victim.namespace)
        .list(&ListParams::default().labels(CLAIM_LABEL))
        .await?
        .iter()
        .map(ResourceExt::name_any)
        .next()
        .context("the Service beside the victim's claim")?;
    let service = json!({
        "metadata": {
            "name": name, "ownerReferences": [owner],
            "labels": {"app.kubernetes.io/managed-by": "sharedlb", CLAIM_LABEL: "neighbour"},
        },
        "spec": {"selector": {"app": "web"}, "ports": [{"name": "tcp", "port": 1, "targetPort": "http"}]},
    });
    create::<Service>(&tenant.api(), service).await?;
    // A later verdict shows that the loops have seen it.
    tenant.site.assigned("web").await?;
    nothing_at_the_victims(&tenant).await
}

async fn companion_service_altered(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world, "service-altered", json!({})).await?;
    let own = tenant.site.pod("own-0", "own").await?;
    let spec = json!({"selector": {"app": "own"}});
    tenant.forged("web", json!({"targetPort": "http"}), json!({ "spec": spec })).await?;
    let (_, (.., port)) = slots(&tenant.site.ready("web").await?).pop_first().context("it has a port")?;
    let before = beside_claims(&tenant).await?.pop().context("the Service beside the claim")?;
    let name = before.name_any();
    let victims = format!("neighbour.{}.svc.cluster.local", tenant.victim.namespace);
    for (what, altered) in [
        ("its selector", json!({"selector": {"app": "web"}})),
        ("no selector", json!({"selector": null})),
        ("its ports", json!({"ports": [{"name": "tcp", "port": 1, "targetPort": 10250}]})),
        ("its type", json!({"type": "ExternalName", "externalName": victims, "clusterIP": null, "clusterIPs": null})),
    ] {
        change(&tenant.api::<Service>(), &name, json!({ "spec": altered })).await.with_context(|| what.to_owned())?;
        eventually(&format!("the Service to be set right after {what} was altered"), LIMIT, async || {
            let found = tenant.api::<Service>().get(&name).await?.spec.context("it has a spec")?;
            let wanted = before.spec.as_ref().context("it had a spec")?;
            let right = found.selector == wanted.selector
                && found.type_ == wanted.type_
                && found.cluster_ip == wanted.cluster_ip
                && found.ports == wanted.ports;
            ensure!(right, "it is {found:?}");
            Ok(Some(()))
        })
        .await?;
        tenant.site.ready("web").await?;
        tenant.site.leads_to(port, &[&own]).await?;
    }
    nothing_at_the_victims(&tenant).await
}

async fn companion_service_replaced(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world, "service-replaced", json!({})).await?;
    tenant.site.assigned("web").await?;
    let name = beside_claims(&tenant).await?.pop().context("the Service beside the claim")?.name_any();
    let services = tenant.api::<Service>();
    // The controller recreates it at once: the first of the two wins.
    eventually("the tenant's own Service to have its name", LIMIT, async || {
        services.delete(&name, &DeleteParams::default()).await.ok();
        let spec = json!({"selector": {"app": "nobody"}, "ports": [{"name": "tcp", "port": 1, "targetPort": "http"}]});
        Ok(tenant.service(&name, spec).await.is_ok().then_some(()))
    })
    .await?;
    tenant.site.without_backends("web", &[&name, "does not belong to this SharedLB"]).await?;
    let found = services.get(&name).await?;
    ensure!(found.owner_references().is_empty() && found.labels().is_empty(), "it was taken over: {found:?}");
    nothing_at_the_victims(&tenant).await
}

async fn looks_like_a_load_balancer(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world, "looks-like", json!({})).await?;
    tenant.site.assigned("web").await?;
    let front = tenant.site.fronts(1).await?.remove(0);
    let forged: Value = json!({
        "metadata": {"name": front.name_any(), "labels": front.labels(), "annotations": front.annotations()},
        "spec": {"ports": [{"name": "tcp-1", "port": 1}], "selector": {"app": "web"}},
    });
    create::<Service>(&tenant.api(), forged).await?;
    tenant.site.assigned("later").await?;
    let found = tenant.api::<Service>().get(&front.name_any()).await?;
    let ports: Vec<_> = found.spec.iter().flat_map(|spec| spec.ports.iter().flatten()).map(|port| port.port).collect();
    ensure!(ports == [1], "it was written to: {found:?}");
    ensure!(tenant.site.fronts(1).await?[0].uid() == front.uid(), "the load balancer is another one");
    nothing_at_the_victims(&tenant).await
}
