//! A class's load balancers: how many there are, and their addresses.

use std::sync::Arc;

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams};
use libtest_mimic::Trial;
use serde_json::json;
use sharedlb_crds::{ConditionType, Reason};
use sharedlb_harness::{LIMIT, Site, Tests, WITHHELD, World, addresses, slots};
use sharedlb_testbed::eventually;

pub(crate) fn trials(test: &Tests<World>) -> Vec<Trial> {
    vec![
        test.test("when a load balancer is full a second one is created, and deleted once empty", second),
        test.test("an empty load balancer stays for as long as emptyDelaySeconds says", stays_empty),
        test.test("a class has as many load balancers as min says", minimum),
        test.test("a claim is not ready before its load balancer has an address", no_address_yet),
        test.test("a Service that was deleted by hand is recreated with all its ports", made_again),
        test.test("a port that was removed by hand from a Service is reopened", repaired),
    ]
}

async fn second(world: Arc<World>) -> anyhow::Result<()> {
    let limits = json!({"max": 2, "listenersPerLoadBalancer": 2, "emptyDelaySeconds": 0});
    let class = json!({"loadBalancers": limits, "reclaimDelaySeconds": 0});
    let site = Site::with_pod(&world.cluster, "second", class).await?;
    let neighbour = site.neighbour().await?;
    site.assigned("two").await?;
    site.fronts(1).await?;
    let claim = site.assigned("three").await?;
    ensure!(slots(&claim).values().all(|slot| slot.0 == 1), "{:?}", claim.status);
    let fronts = site.fronts(2).await?;
    ensure!(addresses(&fronts[0]) != addresses(&fronts[1]), "they have one address");
    let address = claim.status.and_then(|status| status.address);
    ensure!(address.as_ref() == addresses(&fronts[1]).first(), "{address:?}");
    site.undisturbed(&neighbour).await?;
    site.delete("three").await?;
    let left = site.fronts(1).await?;
    ensure!(left[0].uid() == fronts[0].uid(), "the wrong one is left");
    site.class_status("one load balancer", |status| (status.load_balancers.len() == 1).then_some(())).await?;
    site.undisturbed(&neighbour).await
}

async fn stays_empty(world: Arc<World>) -> anyhow::Result<()> {
    let limits = json!({"max": 2, "listenersPerLoadBalancer": 1, "emptyDelaySeconds": 3600});
    let site = Site::with_pod(&world.cluster, "stays-empty", json!({"loadBalancers": limits})).await?;
    let neighbour = site.neighbour().await?;
    site.assigned("two").await?;
    let before = site.fronts(2).await?;
    site.delete("two").await?;
    site.load_balancer(1, "a time since when it is empty", |found| found.empty_since.clone()).await?;
    let after = site.fronts(2).await?;
    ensure!(addresses(&after[1]) == addresses(&before[1]), "its address has changed");
    site.assigned("two").await?;
    site.load_balancer(1, "a claim again", |found| found.empty_since.is_none().then_some(())).await?;
    site.undisturbed(&neighbour).await
}

async fn minimum(world: Arc<World>) -> anyhow::Result<()> {
    let limits = json!({"min": 0, "max": 3, "emptyDelaySeconds": 0});
    let class = json!({"loadBalancers": limits, "reclaimDelaySeconds": 0});
    let site = Site::with_pod(&world.cluster, "minimum", class).await?;
    site.class_verdict(ConditionType::Accepted, ("True", Reason::Accepted)).await?;
    site.fronts(0).await?;
    site.assigned("web").await?;
    site.fronts(1).await?;
    site.change_class(json!({"spec": {"loadBalancers": {"min": 3}}})).await?;
    site.fronts(3).await?;
    site.change_class(json!({"spec": {"loadBalancers": {"min": 0}}})).await?;
    site.fronts(1).await?;
    site.delete("web").await?;
    site.fronts(0).await.map(drop)
}

async fn no_address_yet(world: Arc<World>) -> anyhow::Result<()> {
    let service = json!({"annotations": {WITHHELD: "true"}});
    let site = Site::with_pod(&world.cluster, "no-address", json!({"provider": {"service": service}})).await?;
    site.claim("web", json!([{"targetPort": "http"}])).await?;
    site.verdict("web", ConditionType::Allocated, ("True", Reason::Allocated)).await?;
    site.verdict("web", ConditionType::Ready, ("False", Reason::Pending)).await?;
    let service = eventually("the Service of the load balancer", LIMIT, async || {
        Ok(site.front_services().await?.first().map(ResourceExt::name_any))
    })
    .await?;
    let words = ["load balancer 0 of class no-address has no address yet", &service];
    let told = site.event("web", Reason::AddressNotAssigned.as_str()).await?;
    ensure!(words.iter().all(|words| told.contains(words)), "{told}");
    site.verdict("web", ConditionType::Programmed, ("True", Reason::Programmed)).await?;
    site.verdict("web", ConditionType::Ready, ("False", Reason::AddressNotAssigned)).await?;
    let told = site.class_verdict(ConditionType::Ready, ("False", Reason::AddressNotAssigned)).await?;
    ensure!(words.iter().all(|words| told.contains(words)), "{told}");
    site.class_event(Reason::AddressNotAssigned.as_str()).await?;
    let before = slots(&site.claims.get("web").await?);
    let service = json!({"annotations": {WITHHELD: null}});
    site.change_class(json!({"spec": {"provider": {"service": service}}})).await?;
    let claim = site.ready("web").await?;
    ensure!(slots(&claim) == before, "{:?}", claim.status);
    ensure!(claim.status.is_some_and(|status| status.address.is_some()), "it has no address");
    Ok(())
}

async fn made_again(world: Arc<World>) -> anyhow::Result<()> {
    let site = Site::with_pod(&world.cluster, "made-again", json!({})).await?;
    let mut ports = Vec::new();
    for name in ["one", "two"] {
        ports.extend(slots(&site.assigned(name).await?).into_values().map(|(.., port)| format!("tcp-{port}")));
    }
    ports.sort();
    let before = site.fronts(1).await?.remove(0);
    site.services().delete(&before.name_any(), &DeleteParams::default()).await?;
    let after = eventually("another Service", LIMIT, async || {
        let now = site.fronts(1).await?.remove(0);
        Ok((now.uid() != before.uid() && sorted_ports(&now) == ports).then_some(now))
    })
    .await?;
    for name in ["one", "two"] {
        eventually("the claims to have the new address", LIMIT, async || {
            let status = site.ready(name).await?.status.context("it has a status")?;
            Ok((status.address.as_ref() == addresses(&after).first()).then_some(()))
        })
        .await?;
    }
    Ok(())
}

async fn repaired(world: Arc<World>) -> anyhow::Result<()> {
    let site = Site::with_pod(&world.cluster, "repaired", json!({})).await?;
    let neighbour = site.neighbour().await?;
    let before = slots(&site.assigned("web").await?);
    let front = site.fronts(1).await?.remove(0);
    let wanted = sorted_ports(&front);
    let (.., port) = before[""];
    let ports: Vec<_> = front.spec.iter().flat_map(|spec| spec.ports.iter().flatten()).collect();
    let at = ports.iter().position(|found| found.port == i32::from(port)).context("its port")?;
    let remove = json!([{"op": "remove", "path": format!("/spec/ports/{at}")}]);
    let remove = Patch::<()>::Json(serde_json::from_value(remove)?);
    site.services().patch(&front.name_any(), &PatchParams::default(), &remove).await?;
    eventually("the port to be there again", LIMIT, async || {
        let now = site.fronts(1).await?.remove(0);
        Ok((sorted_ports(&now) == wanted).then_some(()))
    })
    .await?;
    let after = slots(&site.ready("web").await?);
    ensure!(after == before, "{after:?}");
    site.undisturbed(&neighbour).await
}

fn sorted_ports(service: &Service) -> Vec<String> {
    let mut names = sharedlb_harness::port_names(service);
    names.sort();
    names
}
