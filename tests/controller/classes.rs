//! Classes: none, a default one, one that is deleted, one that is changed.

use std::sync::Arc;

use anyhow::ensure;
use kube::ResourceExt;
use libtest_mimic::Trial;
use serde_json::json;
use sharedlb_crds::{CLASS_FINALIZER, ConditionType, DEFAULT_CLASS_ANNOTATION, Reason};
use sharedlb_harness::{LIMIT, Site, Tests, World, slots};
use sharedlb_testbed::eventually;

pub(crate) fn trials(test: &Tests<World>) -> Vec<Trial> {
    vec![
        test.test("a class that does not exist is NoClass until it does", no_class),
        test.test("without a className, the newest default class applies, and a claim keeps its class", defaults),
        test.test("a class that is deleted while used serves its claims and admits no new ones", deleted_while_used),
        test.test("an unused class is deleted at once, with its load balancers", deleted_unused),
        test.test("a smaller range applies to new ports only", smaller_range),
        test.test("a smaller max moves no claim", smaller_max),
        test.test("a class with targets that its provider cannot serve is not accepted", unsupported_targets),
        test.test("a class with addresses that cannot be used is not accepted, and serves on", unusable_addresses),
        test.test("the status of a class counts its load balancers and listeners", class_status),
        test.test("an annotation that the class gets reaches its load balancers", annotations),
    ]
}

async fn no_class(world: Arc<World>) -> anyhow::Result<()> {
    let site = Site::in_class(&world.cluster, "no-class", "no-class").await?;
    site.pod("web-0", "web").await?;
    site.claim("web", json!([{"targetPort": "http"}])).await?;
    site.refused("web", Reason::NoClass, &["no-class"]).await?;
    site.create_class(json!({})).await?;
    site.ready("web").await?;
    Ok(())
}

/// The only test that has default classes, since they count for everybody.
async fn defaults(world: Arc<World>) -> anyhow::Result<()> {
    let old = Site::with_pod(&world.cluster, "default-old", json!({})).await?;
    let neighbour = old.neighbour().await?;
    let spec = json!({"selector": {"app": "web"}, "ports": [{"targetPort": "http"}]});
    old.claim_as("first", spec.clone()).await?;
    old.refused("first", Reason::NoDefaultClass, &["className", DEFAULT_CLASS_ANNOTATION]).await?;
    old.undisturbed(&neighbour).await?;

    let is_default = json!({"metadata": {"annotations": {DEFAULT_CLASS_ANNOTATION: "true"}}});
    old.change_class(is_default.clone()).await?;
    let class_of = async |name: &str| {
        let claim = old.ready(name).await?;
        anyhow::Ok(claim.status.and_then(|status| status.class_name).unwrap_or_default())
    };
    ensure!(class_of("first").await? == "default-old", "{}", class_of("first").await?);

    // Creation times are in whole seconds, and the newest of two is looked for.
    let created = old.classes.get("default-old").await?.creation_timestamp();
    eventually("the second to be over", LIMIT, async || {
        let now = jiff::Timestamp::now();
        Ok(created.as_ref().is_some_and(|created| now.as_second() > created.0.as_second()).then_some(()))
    })
    .await?;
    let new = Site::open(&world.cluster, "default-new", json!({})).await?;
    // With the change of its spec it is seen that it is a default one.
    let mut is_default = is_default;
    is_default["spec"] = json!({"portsPerNamespace": 99});
    new.change_class(is_default).await?;
    new.class_verdict(ConditionType::Ready, ("True", Reason::Ready)).await?;
    old.claim_as("second", spec).await?;
    ensure!(class_of("second").await? == "default-new", "{}", class_of("second").await?);
    ensure!(class_of("first").await? == "default-old", "it was moved");

    let no_longer = json!({"metadata": {"annotations": {DEFAULT_CLASS_ANNOTATION: null}}});
    old.change_class(no_longer.clone()).await?;
    new.change_class(no_longer).await?;
    // It holds ports of its class, which counts from then on.
    old.assigned("third").await?;
    ensure!(class_of("second").await? == "default-new", "it was moved");
    Ok(())
}

async fn deleted_while_used(world: Arc<World>) -> anyhow::Result<()> {
    let site = Site::with_pod(&world.cluster, "deleted-used", json!({})).await?;
    let neighbour = site.neighbour().await?;
    let class = site.classes.get(&site.class).await?;
    ensure!(class.finalizers().contains(&CLASS_FINALIZER.to_owned()), "{:?}", class.finalizers());
    site.delete_class().await?;
    site.class_seen().await?;
    site.claim("late", json!([{"targetPort": "http"}])).await?;
    site.refused("late", Reason::NoClass, &["being deleted"]).await?;
    site.undisturbed(&neighbour).await?;
    // What it has still works: a pod comes.
    let second = site.pod("web-1", "web").await?;
    let (.., port) = neighbour.slot();
    eventually("the new pod to get traffic", LIMIT, async || {
        let slices = site.front_slices(port).await?;
        let address = second.addresses[0].to_string();
        let mut reached = slices.iter().flat_map(|slice| &slice.endpoints).flat_map(|endpoint| &endpoint.addresses);
        Ok(reached.any(|reached| *reached == address).then_some(()))
    })
    .await?;
    site.undisturbed(&neighbour).await?;
    site.delete("neighbour").await?;
    site.class_gone().await?;
    ensure!(site.front_services().await?.is_empty(), "its load balancer is still there");
    // The claim without a port delayed no other.
    site.delete("late").await
}

async fn deleted_unused(world: Arc<World>) -> anyhow::Result<()> {
    let site = Site::open(&world.cluster, "deleted-unused", json!({"loadBalancers": {"min": 2}})).await?;
    site.fronts(2).await?;
    site.delete_class().await?;
    site.class_gone().await?;
    ensure!(site.front_services().await?.is_empty(), "a load balancer is still there");
    Ok(())
}

async fn smaller_range(world: Arc<World>) -> anyhow::Result<()> {
    let site = Site::with_pod(&world.cluster, "smaller-range", json!({})).await?;
    let neighbour = site.neighbour().await?;
    let ranges = json!({"dynamic": [{"min": 40_000, "max": 40_001}], "requestable": [{"min": 40_000, "max": 40_001}]});
    site.change_class(json!({"spec": {"ports": ranges}})).await?;
    let slots = slots(&site.assigned("web").await?);
    ensure!(slots.values().all(|slot| slot.2 >= 40_000), "{slots:?}");
    site.claim("asks", json!([{"port": 443, "targetPort": "http"}])).await?;
    site.refused("asks", Reason::PortNotAllowed, &["443"]).await?;
    site.undisturbed(&neighbour).await
}

async fn smaller_max(world: Arc<World>) -> anyhow::Result<()> {
    let class = json!({"loadBalancers": {"max": 2, "listenersPerLoadBalancer": 1, "emptyDelaySeconds": 0}});
    let site = Site::with_pod(&world.cluster, "smaller-max", class).await?;
    let neighbour = site.neighbour().await?;
    let second = slots(&site.assigned("second").await?);
    ensure!(second.values().all(|slot| slot.0 == 1), "{second:?}");
    site.change_class(json!({"spec": {"loadBalancers": {"max": 1}}})).await?;
    site.claim("third", json!([{"targetPort": "http"}])).await?;
    site.refused("third", Reason::PoolExhausted, &["spec.loadBalancers.max"]).await?;
    ensure!(slots(&site.ready("second").await?) == second, "it was moved");
    site.undisturbed(&neighbour).await?;
    site.delete("second").await?;
    site.fronts(1).await?;
    site.refused("third", Reason::PoolExhausted, &["spec.loadBalancers.max"]).await?;
    site.undisturbed(&neighbour).await
}

async fn unsupported_targets(world: Arc<World>) -> anyhow::Result<()> {
    let site = Site::with_pod(&world.cluster, "targets-node", json!({})).await?;
    let neighbour = site.neighbour().await?;
    site.change_class(json!({"spec": {"targets": "Node"}})).await?;
    let message = site.class_verdict(ConditionType::Accepted, ("False", Reason::Unsupported)).await?;
    ensure!(message.contains("targets"), "{message}");
    site.class_event(Reason::Unsupported.as_str()).await?;
    site.claim("web", json!([{"targetPort": "http"}])).await?;
    site.refused("web", Reason::Unsupported, &[]).await?;
    ensure!(
        slots(&site.claims.get("neighbour").await?).values().eq([&neighbour.slot()]),
        "the neighbour lost its port"
    );
    site.change_class(json!({"spec": {"targets": "Pod"}})).await?;
    site.class_verdict(ConditionType::Accepted, ("True", Reason::Accepted)).await?;
    site.ready("web").await?;
    site.ready("neighbour").await?;
    Ok(())
}

async fn unusable_addresses(world: Arc<World>) -> anyhow::Result<()> {
    let site = Site::with_pod(&world.cluster, "unusable-addresses", json!({})).await?;
    let neighbour = site.neighbour().await?;
    let ipv4 = json!({"min": "203.0.113.10", "max": "203.0.113.19"});
    let both = json!([ipv4, {"min": "2001:db8::10", "max": "2001:db8::19"}]);
    site.change_class(json!({"spec": {"addresses": both}})).await?;
    let message = site.class_verdict(ConditionType::Accepted, ("False", Reason::Unsupported)).await?;
    ensure!(message.contains("remove the ranges of one family"), "{message}");
    site.claim("web", json!([{"targetPort": "http"}])).await?;
    site.refused("web", Reason::Unsupported, &["spec.addresses"]).await?;
    site.undisturbed(&neighbour).await?;
    site.change_class(json!({"spec": {"addresses": [ipv4]}})).await?;
    site.class_verdict(ConditionType::Accepted, ("True", Reason::Accepted)).await?;
    site.ready("web").await?;
    Ok(())
}

async fn class_status(world: Arc<World>) -> anyhow::Result<()> {
    let class = json!({"loadBalancers": {"max": 3, "listenersPerLoadBalancer": 5}});
    let site = Site::with_pod(&world.cluster, "class-status", class).await?;
    site.claim("dns", json!([{"protocol": "TCP_UDP", "targetPort": 5353}])).await?;
    site.ready("dns").await?;
    let address = sharedlb_harness::addresses(&site.fronts(1).await?[0]);
    let found = site.load_balancer(0, "two listeners", |found| (found.listeners == 2).then(|| found.clone())).await?;
    ensure!(found.address.as_ref() == address.first() && found.addresses == address, "{found:?}");
    ensure!(found.capacity.as_ref().is_some_and(|capacity| capacity.listeners == 5), "{found:?}");
    for (kind, reason) in [(ConditionType::Accepted, Reason::Accepted), (ConditionType::Ready, Reason::Ready)] {
        site.class_verdict(kind, ("True", reason)).await?;
    }
    let status = site.classes.get(&site.class).await?.status.unwrap_or_default();
    ensure!(status.provider.as_deref() == Some("service"), "{status:?}");
    ensure!(status.summary.as_ref().is_some_and(|summary| summary.starts_with("1 of 3")), "{status:?}");
    Ok(())
}

async fn annotations(world: Arc<World>) -> anyhow::Result<()> {
    let site = Site::with_pod(&world.cluster, "annotations", json!({})).await?;
    let neighbour = site.neighbour().await?;
    for value in [Some("internal"), None] {
        let service = json!({"annotations": {"cloud.example.com/kind": value}});
        site.change_class(json!({"spec": {"provider": {"service": service}}})).await?;
        eventually(&format!("the Service to have the annotation {value:?}"), LIMIT, async || {
            let services = site.fronts(1).await?;
            let found = services[0].annotations().get("cloud.example.com/kind").map(String::as_str);
            Ok((found == value).then_some(()))
        })
        .await?;
    }
    site.undisturbed(&neighbour).await
}
