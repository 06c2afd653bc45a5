//! Several tenants, and another load balancer implementation.

use std::sync::Arc;

use anyhow::ensure;
use kube::ResourceExt;
use kube::api::ListParams;
use libtest_mimic::Trial;
use serde_json::json;
use sharedlb_harness::front::Front;
use sharedlb_harness::tenant::{Tenant, fronts, ip_modes};
use sharedlb_harness::{Tests, World};
use sharedlb_testbed::Protocol::Tcp;

pub(crate) fn trials(test: &Tests<World>) -> Vec<Trial> {
    vec![
        test.test("two tenants with port 80 share an address, inside of the cluster too", two_tenants),
        test.test("a tenant's own port numbers capture no other tenant's traffic", own_numbers),
        test.test("a Service that MetalLB served is served at its old port", taken_over),
        test.test("SharedLB and MetalLB leave each other's Services alone", next_to_metallb),
    ]
}

async fn two_tenants(world: Arc<World>) -> anyhow::Result<()> {
    let red = Tenant::open(&world.cluster, "two-red", json!({"loadBalancers": {"max": 1}})).await?;
    let blue = red.neighbour("two-blue").await?;
    red.pod("red-0", "web").await?;
    blue.pod("blue-0", "web").await?;
    let assigned = json!({"sharedlb.dev/assign-ports": "true"});
    red.service_with("web", assigned.clone(), json!({})).await?;
    blue.service_with("web", assigned, json!({})).await?;
    let (at_red, at_blue) = (red.ready("web", 1).await?[0], blue.ready("web", 1).await?[0]);
    ensure!(at_red.address == at_blue.address && at_red.port != at_blue.port, "{at_red:?} {at_blue:?}");
    for _ in 0..2 {
        red.only_answer(at_red, &["red-0"]).await?;
        blue.only_answer(at_blue, &["blue-0"]).await?;
        red.only_answer_inside(at_red, &["red-0"]).await?;
        blue.only_answer_inside(at_blue, &["blue-0"]).await?;
        // Neither has port 80 of the address, whatever its Service says.
        ensure!(red.ask_inside(at_red.at(80)).await.is_err(), "port 80 is answered");
        // And so it is after one has changed.
        red.change("web", json!({"spec": {"sessionAffinity": "ClientIP"}})).await?;
        red.reports("web", "Programmed", "Unsupported").await?;
    }
    Ok(())
}

async fn own_numbers(world: Arc<World>) -> anyhow::Result<()> {
    let red = Tenant::open(&world.cluster, "own-red", json!({})).await?;
    let blue = red.neighbour("own-blue").await?;
    red.pod("red-0", "web").await?;
    blue.pod("blue-0", "web").await?;
    // One address: red has 80 of it, and blue has 81.
    red.service("web", json!({})).await?;
    let at_red = red.served("web", &[(80, Tcp)]).await?[0];
    let address = json!({"sharedlb.dev/address": at_red.address.to_string()});
    let port = |number: u16| json!({"name": format!("http-{number}"), "port": number, "targetPort": "http"});
    blue.service_with("web", address, json!({"ports": [port(81)]})).await?;
    let at_blue = blue.served("web", &[(81, Tcp)]).await?[0];
    ensure!(at_red.address == at_blue.address, "{at_red:?} {at_blue:?}");
    for (tenant, front, pod) in [(&red, at_red, "red-0"), (&blue, at_blue, "blue-0")] {
        tenant.only_answer(front, &[pod]).await?;
        tenant.only_answer_inside(front, &[pod]).await?;
    }
    // Blue wants red's port too, and does not get it, although its Service lists it.
    blue.change("web", json!({"spec": {"ports": [port(81), port(80)]}})).await?;
    blue.reports("web", "Allocated", "PortTaken").await?;
    ensure!(ip_modes(&blue.services.get("web").await?) == ["Proxy"]);
    red.only_answer_inside(at_red, &["red-0"]).await?;
    red.only_answer(at_red, &["red-0"]).await?;
    blue.only_answer_inside(at_blue, &["blue-0"]).await?;
    blue.only_answer(at_blue, &["blue-0"]).await?;
    // What one gave up is captured no longer, and the other's is still reached.
    blue.delete("web").await?;
    blue.closed(at_blue).await?;
    red.only_answer_inside(at_red, &["red-0"]).await?;
    red.only_answer(at_red, &["red-0"]).await
}

async fn taken_over(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world.cluster, "taken-over", json!({})).await?;
    tenant.pod("web-0", "web").await?;
    let port = json!([{"name": "http", "port": 8088, "targetPort": "http"}]);
    tenant.service("web", json!({"loadBalancerClass": null, "ports": port})).await?;
    let address = tenant.until("web", "an address of MetalLB", |service| {
        service.status.as_ref()?.load_balancer.as_ref()?.ingress.as_ref()?.first()?.ip.clone()
    });
    let before = Front::tcp(address.await?.parse()?, 8088);
    tenant.only_answer(before, &["web-0"]).await?;
    tenant.delete("web").await?;
    tenant.service("web", json!({"ports": port})).await?;
    let front = tenant.served("web", &[(8088, Tcp)]).await?[0];
    tenant.only_answer(front, &["web-0"]).await
}

async fn next_to_metallb(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world.cluster, "beside", json!({})).await?;
    tenant.pod("ours-0", "ours").await?;
    tenant.pod("theirs-0", "theirs").await?;
    tenant.service("theirs", json!({"loadBalancerClass": null})).await?;
    tenant.service("nobody", json!({"loadBalancerClass": "example.com/nobody"})).await?;
    // Without the flag this annotation says nothing.
    let annotated = json!({"sharedlb.dev/class": "beside"});
    tenant.service_with("annotated", annotated, json!({"loadBalancerClass": null})).await?;
    tenant.service("ours", json!({})).await?;
    let ours = tenant.served("ours", &[(80, Tcp)]).await?[0];
    tenant.only_answer(ours, &["ours-0"]).await?;
    for name in ["theirs", "annotated"] {
        tenant
            .until(name, "an address of MetalLB", |service| {
                let ingress = service.status.as_ref()?.load_balancer.as_ref()?.ingress.as_ref()?;
                (!ingress.is_empty() && service.annotations().contains_key("metallb.io/ip-allocated-from-pool"))
                    .then_some(())
            })
            .await?;
    }
    let claims = tenant.site.claims.list(&ListParams::default()).await?;
    let names: Vec<_> = claims.iter().map(ResourceExt::name_any).collect();
    ensure!(names == ["service-ours"], "{names:?}");
    let of_metallb = tenant.services.get("ours").await?;
    ensure!(!of_metallb.annotations().contains_key("metallb.io/ip-allocated-from-pool"), "MetalLB took ours up");
    ensure!(fronts(&tenant.services.get("nobody").await?).is_empty(), "a Service without a class was served");
    // The class' own load balancer is MetalLB's, and no claim.
    ensure!(tenant.site.front_services().await?.len() == 1);
    Ok(())
}
