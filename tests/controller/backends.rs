//! Where the traffic goes: pods of a selector, pods of a Service, or nowhere.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::Service;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use libtest_mimic::Trial;
use serde_json::{Value, json};
use sharedlb_crds::{CLAIM_LABEL, ConditionType, Reason};
use sharedlb_harness::{Backend, LIMIT, Site, Tests, World, slots};
use sharedlb_testbed::eventually;

/// How long Kubernetes' garbage collector takes to know a new kind, and to
/// collect an object once it does.
const COLLECTOR_LIMIT: Duration = Duration::from_secs(90);
const COLLECTOR_TAKES: Duration = Duration::from_secs(3);

pub(crate) fn trials(test: &Tests<World>) -> Vec<Trial> {
    vec![
        test.test("a selector that matches nothing is NoBackends until a pod comes", no_match),
        test.test("a claim whose last pod is not ready is NoBackends, and keeps its port", last_pod_unready),
        test.test("a named port that no pod has is NoBackends until a pod has it", no_such_port),
        test.test("a named port that no pod has is named once the pods are ready", no_such_port_of_ready),
        test.test("pods with different numbers for a named port all get traffic", named_differently),
        test.test("a Service that does not exist is NoBackends until it does", no_service),
        test.test("a port that the Service does not have is NoBackends, and the message names it", no_service_port),
        test.test("a Service of type ExternalName is refused", external_name),
        test.test(
            "a claim with serviceName sends traffic to that Service's pods, by port name and by number",
            by_service,
        ),
        test.test("a claim with a selector has a headless companion Service", companion_service),
        test.test("a companion Service is deleted with its claim", companion_service_goes),
        test.test("a companion Service that was deleted is recreated", companion_service_again),
        test.test("a companion Service that another client has taken over is not changed", no_adoption),
        test.test("a change of endpoints writes neither claim nor class", no_write),
    ]
}

fn services(site: &Site) -> Api<Service> {
    Api::namespaced(site.cluster.admin(), &site.namespace)
}

/// Makes a Service in the site's namespace.
async fn service(site: &Site, name: &str, spec: Value) -> anyhow::Result<Service> {
    let service: Service = serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec}))?;
    Ok(services(site).create(&PostParams::default(), &service).await?)
}

/// The Service that was made for a claim.
async fn headless(site: &Site, claim: &str) -> anyhow::Result<Service> {
    let params = ListParams::default().labels(&format!("{CLAIM_LABEL}={claim}"));
    eventually(&format!("the Service of claim {claim}"), LIMIT, async || {
        Ok(services(site).list(&params).await?.items.pop())
    })
    .await
}

async fn no_match(world: Arc<World>) -> anyhow::Result<()> {
    let site = Site::with_pod(&world.cluster, "no-match", json!({})).await?;
    let neighbour = site.neighbour().await?;
    site.claim_with("web", json!({"selector": {"app": "nobody"}, "ports": [{"targetPort": 80}]})).await?;
    site.without_backends("web", &[]).await?;
    site.verdict("web", ConditionType::Programmed, ("True", Reason::Programmed)).await?;
    let before = slots(&site.claims.get("web").await?);
    site.undisturbed(&neighbour).await?;
    site.pod("nobody-0", "nobody").await?;
    let after = slots(&site.ready("web").await?);
    ensure!(after == before, "it had {before:?} and has {after:?}");
    site.undisturbed(&neighbour).await
}

async fn last_pod_unready(world: Arc<World>) -> anyhow::Result<()> {
    let site = Site::with_pod(&world.cluster, "unready", json!({})).await?;
    let neighbour = site.neighbour().await?;
    let pod = site.pod("db-0", "db").await?;
    site.claim_with("db", json!({"selector": {"app": "db"}, "ports": [{"targetPort": "http"}]})).await?;
    let before = slots(&site.ready("db").await?);
    pod.set_ready(false).await?;
    site.without_backends("db", &[]).await?;
    pod.set_ready(true).await?;
    ensure!(slots(&site.ready("db").await?) == before, "its port has changed");
    pod.delete().await?;
    site.without_backends("db", &[]).await?;
    ensure!(slots(&site.claims.get("db").await?) == before, "its port has changed");
    site.undisturbed(&neighbour).await
}

async fn no_such_port(world: Arc<World>) -> anyhow::Result<()> {
    let site = Site::with_pod(&world.cluster, "no-such-port", json!({})).await?;
    let neighbour = site.neighbour().await?;
    site.claim("web", json!([{"targetPort": "admin"}])).await?;
    site.without_backends("web", &["targetPort"]).await?;
    site.undisturbed(&neighbour).await?;
    Backend::create(world.cluster.admin(), &site.namespace, ("admin-0", "web"), &[("admin", 9000, "TCP")]).await?;
    site.ready("web").await?;
    Ok(())
}

/// The same, but its pod becomes ready after the claim has said that none is.
async fn no_such_port_of_ready(world: Arc<World>) -> anyhow::Result<()> {
    let site = Site::open(&world.cluster, "no-such-port-of-ready", json!({})).await?;
    let pod = Backend::create(world.cluster.admin(), &site.namespace, ("web-0", "web"), &[("http", 80, "TCP")]).await?;
    pod.set_ready(false).await?;
    site.claim("web", json!([{"targetPort": "admin"}])).await?;
    site.without_backends("web", &["is ready"]).await?;
    pod.set_ready(true).await?;
    site.has_no_backends("web", &["admin", "correct targetPort"]).await
}

async fn named_differently(world: Arc<World>) -> anyhow::Result<()> {
    let site = Site::open(&world.cluster, "named-differently", json!({})).await?;
    let mut pods = Vec::new();
    for (name, number) in [("old-0", 8080), ("new-0", 9090)] {
        let ports = [("http", number, "TCP")];
        pods.push(Backend::create(world.cluster.admin(), &site.namespace, (name, "web"), &ports).await?);
    }
    let (_, (.., port)) = slots(&site.assigned("web").await?).pop_first().context("it has a port")?;
    site.leads_to(port, &pods.iter().collect::<Vec<_>>()).await?;
    let mut targets: Vec<_> = site
        .front_slices(port)
        .await?
        .into_iter()
        .filter(|slice| slice.address_type == "IPv4")
        .flat_map(|slice| slice.ports.into_iter().flatten())
        .filter_map(|port| port.port)
        .collect();
    targets.sort();
    ensure!(targets == [8080, 9090], "{targets:?}");
    Ok(())
}

async fn no_service(world: Arc<World>) -> anyhow::Result<()> {
    let site = Site::with_pod(&world.cluster, "no-service", json!({})).await?;
    let neighbour = site.neighbour().await?;
    site.claim_with("web", json!({"serviceName": "missing", "ports": [{"targetPort": 80}]})).await?;
    site.without_backends("web", &["missing"]).await?;
    site.undisturbed(&neighbour).await?;
    let spec = json!({"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]});
    service(&site, "missing", spec).await?;
    site.ready("web").await?;
    services(&site).delete("missing", &DeleteParams::default()).await?;
    site.without_backends("web", &["missing"]).await?;
    site.undisturbed(&neighbour).await
}

async fn no_service_port(world: Arc<World>) -> anyhow::Result<()> {
    let site = Site::with_pod(&world.cluster, "no-service-port", json!({})).await?;
    let neighbour = site.neighbour().await?;
    let spec = json!({"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]});
    service(&site, "web", spec).await?;
    site.claim_with("web", json!({"serviceName": "web", "ports": [{"targetPort": 81}]})).await?;
    site.without_backends("web", &["81"]).await?;
    site.undisturbed(&neighbour).await
}

async fn external_name(world: Arc<World>) -> anyhow::Result<()> {
    let site = Site::with_pod(&world.cluster, "external-name", json!({})).await?;
    let neighbour = site.neighbour().await?;
    service(&site, "elsewhere", json!({"type": "ExternalName", "externalName": "example.com"})).await?;
    site.claim_with("web", json!({"serviceName": "elsewhere", "ports": [{"targetPort": 80}]})).await?;
    site.refused("web", Reason::Unsupported, &["elsewhere", "ExternalName"]).await?;
    site.undisturbed(&neighbour).await
}

async fn by_service(world: Arc<World>) -> anyhow::Result<()> {
    let site = Site::open(&world.cluster, "by-service", json!({})).await?;
    let pod = site.pod("web-0", "web").await?;
    let ports = json!([
        {"name": "web", "port": 80, "targetPort": "http"},
        {"name": "names", "port": 53, "targetPort": 5353, "protocol": "UDP"},
    ]);
    service(&site, "web", json!({"selector": {"app": "web"}, "ports": ports})).await?;
    let ports = json!([
        {"name": "by-name", "targetPort": "web"},
        {"name": "by-number", "targetPort": 53, "protocol": "UDP"},
    ]);
    site.claim_with("web", json!({"serviceName": "web", "ports": ports})).await?;
    let slots = slots(&site.ready("web").await?);
    for (name, target) in [("by-name", 8080), ("by-number", 5353)] {
        let (.., port) = slots[name];
        site.leads_to(port, &[&pod]).await?;
        let slices = site.front_slices(port).await?;
        let leads = slices.iter().flat_map(|slice| slice.ports.iter().flatten()).all(|port| port.port == Some(target));
        ensure!(leads, "{name} does not lead to {target}: {slices:?}");
    }
    let made = services(&site).list(&ListParams::default().labels(CLAIM_LABEL)).await?.items;
    ensure!(made.is_empty(), "a Service was made that nobody needs: {made:?}");
    Ok(())
}

async fn companion_service(world: Arc<World>) -> anyhow::Result<()> {
    let site = Site::with_pod(&world.cluster, "own-service", json!({})).await?;
    let claim = site.assigned("web").await?;
    let service = headless(&site, "web").await?;
    let owners = service.owner_references();
    ensure!(owners.len() == 1 && Some(&owners[0].uid) == claim.metadata.uid.as_ref(), "{owners:?}");
    ensure!(service.name_any().starts_with("slb-web-"), "{}", service.name_any());
    let spec = service.spec.as_ref().context("it has a spec")?;
    ensure!(spec.cluster_ip.as_deref() == Some("None"), "{spec:?}");
    ensure!(spec.selector == Some([("app".to_owned(), "web".to_owned())].into()), "{spec:?}");
    site.change("web", json!({"spec": {"selector": {"app": "other"}}})).await?;
    site.without_backends("web", &[]).await
}

/// Kubernetes' garbage collector looks for new kinds every 30 s, and does not
/// know claims before it has. So one claim after another comes and goes, until
/// one takes its Service along.
async fn companion_service_goes(world: Arc<World>) -> anyhow::Result<()> {
    let site = Site::with_pod(&world.cluster, "service-goes", json!({})).await?;
    eventually("a deleted claim's Service to be gone", COLLECTOR_LIMIT, async || {
        site.assigned("web").await?;
        let service = headless(&site, "web").await?.name_any();
        site.delete("web").await?;
        eventually("this claim's Service to be gone", COLLECTOR_TAKES, async || {
            Ok(services(&site).get_opt(&service).await?.is_none().then_some(()))
        })
        .await
        .map(Some)
    })
    .await
}

async fn companion_service_again(world: Arc<World>) -> anyhow::Result<()> {
    let site = Site::with_pod(&world.cluster, "service-again", json!({})).await?;
    let before = slots(&site.assigned("web").await?);
    let first = headless(&site, "web").await?;
    services(&site).delete(&first.name_any(), &DeleteParams::default()).await?;
    eventually("another Service", LIMIT, async || {
        let second = headless(&site, "web").await?;
        Ok((second.uid() != first.uid()).then_some(()))
    })
    .await?;
    let after = slots(&site.ready("web").await?);
    ensure!(after == before, "it had {before:?} and has {after:?}");
    Ok(())
}

/// The name has the claim's uid in it, so the only way to it is to take ours.
async fn no_adoption(world: Arc<World>) -> anyhow::Result<()> {
    let site = Site::with_pod(&world.cluster, "no-adoption", json!({})).await?;
    let neighbour = site.neighbour().await?;
    let before = slots(&site.assigned("web").await?);
    let name = headless(&site, "web").await?.name_any();
    let taken = json!({"metadata": {"ownerReferences": null}, "spec": {"selector": {"app": "theirs"}}});
    let theirs = services(&site).patch(&name, &PatchParams::default(), &Patch::Merge(taken)).await?;
    site.without_backends("web", &[&name, "does not belong to this SharedLB"]).await?;
    let now = services(&site).get(&name).await?;
    ensure!(now.resource_version() == theirs.resource_version(), "it was changed: {now:?}");
    site.undisturbed(&neighbour).await?;
    // Once it is out of the way, the claim gets its own again, also if nothing else
    // happens any more.
    site.leads_to(before[""].2, &[]).await?;
    services(&site).delete(&name, &DeleteParams::default()).await?;
    let after = slots(&site.ready("web").await?);
    ensure!(after == before, "it had {before:?} and has {after:?}");
    Ok(())
}

async fn no_write(world: Arc<World>) -> anyhow::Result<()> {
    let site = Site::open(&world.cluster, "no-write", json!({})).await?;
    let first = site.pod("web-0", "web").await?;
    let claim = site.assigned("web").await?;
    let (_, (.., port)) = slots(&claim).pop_first().context("it has a port")?;
    site.leads_to(port, &[&first]).await?;
    site.class_verdict(ConditionType::Ready, ("True", Reason::Ready)).await?;
    site.load_balancer(0, "its listener", |found| (found.listeners == 1).then_some(())).await?;
    let versions = async || {
        let class = site.classes.get(&site.class).await?;
        anyhow::Ok((site.claims.get("web").await?.resource_version(), class.resource_version()))
    };
    let before = versions().await?;
    // Events are written in the background, one after another.
    site.event("web", Reason::Ready.as_str()).await?;
    let events = site.events("web").await?.len();
    let second = site.pod("web-1", "web").await?;
    site.leads_to(port, &[&first, &second]).await?;
    first.set_ready(false).await?;
    site.leads_to(port, &[&second]).await?;
    first.set_ready(true).await?;
    site.leads_to(port, &[&first, &second]).await?;
    second.delete().await?;
    site.leads_to(port, &[&first]).await?;
    let after = versions().await?;
    ensure!(after == before, "claim and class were {before:?} and are {after:?}");
    // A later verdict shows that the loops have seen all of it.
    let reached = slots(&site.assigned("later").await?);
    ensure!(reached.len() == 1, "{reached:?}");
    ensure!(site.claims.get("web").await?.resource_version() == before.0, "the claim was written");
    site.event("later", Reason::Ready.as_str()).await?;
    ensure!(site.events("web").await?.len() == events, "there were Events");
    Ok(())
}
