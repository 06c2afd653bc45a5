//! Who wants a port to lead to somebody else's pods, to the API server, or to a
//! node, by endpoints that they wrote by hand (CVE-2021-25740).

use std::sync::Arc;

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use libtest_mimic::Trial;
use serde_json::{Value, json};
use sharedlb_harness::{LIMIT, Tests, World, slots};
use sharedlb_testbed::eventually;

use super::tenant::{Tenant, change, create, forbidden, invalid};

/// The controller that writes the EndpointSlices of a selector.
const KUBERNETES: &str = "endpointslice-controller.k8s.io";

pub(crate) fn trials(test: &Tests<World>) -> Vec<Trial> {
    vec![
        test.test("an editor can't write endpoints at all", no_right),
        test.test("a Service without a selector gets no traffic, whatever endpoints it has", no_selector),
        test.test("handwritten endpoints get no traffic beside those of a selector", beside_a_selector),
        test.test("handwritten endpoints of a companion Service get no traffic", beside_a_claim),
        test.test("an EndpointSlice of Kubernetes that a tenant alters is corrected", altered),
        test.test("no class sends traffic to link-local, loopback or multicast addresses", never),
    ]
}

/// An EndpointSlice of a Service with this address, said to be written by `writer`
/// and to be this pod.
fn slice(name: &str, service: &str, writer: &str, address: &str, pod: Option<(&str, &str)>) -> Value {
    let target = pod.map(|(namespace, name)| json!({"kind": "Pod", "namespace": namespace, "name": name}));
    let family = if address.contains(':') { "IPv6" } else { "IPv4" };
    json!({
        "metadata": {"name": name, "labels": {
            "kubernetes.io/service-name": service, "endpointslice.kubernetes.io/managed-by": writer,
        }},
        "addressType": family,
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "tcp", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": true}, "targetRef": target}],
    })
}

async fn may_write_slices(tenant: &Tenant) -> anyhow::Result<Api<EndpointSlice>> {
    let verbs = ["create", "update", "patch", "delete"];
    tenant.may_besides(&["discovery.k8s.io"], "endpointslices", &verbs).await?;
    let slices = tenant.api::<EndpointSlice>();
    eventually("the right to count", LIMIT, async || {
        create(&slices, slice("trial", "nothing", "me", "10.1.2.3", None)).await.map(|_| Some(()))
    })
    .await?;
    Ok(slices)
}

/// What a tenant would like to reach: the pod of the victim, the API server, and
/// the node.
async fn targets(tenant: &Tenant) -> anyhow::Result<Vec<String>> {
    let victims = tenant.victim.pod("target-0", "target").await?.addresses[0].to_string();
    let api_server = Api::<Service>::namespaced(tenant.site.cluster.admin(), "default").get("kubernetes").await?;
    let api_server = api_server.spec.and_then(|spec| spec.cluster_ip).context("the address of the API server")?;
    Ok(vec![victims, api_server, "192.0.2.10".to_owned()])
}

/// Requires that none of the slices of the tenant's load balancer has one of
/// these addresses.
async fn none_is_reached(tenant: &Tenant, targets: &[String]) -> anyhow::Result<()> {
    let slices = Api::<EndpointSlice>::namespaced(tenant.site.cluster.admin(), "sharedlb-system");
    let label = format!("{}={}", sharedlb_crds::CLASS_LABEL, tenant.site.class);
    let slices = slices.list(&ListParams::default().labels(&label)).await?.items;
    for slice in slices {
        for endpoint in &slice.endpoints {
            let found = endpoint.addresses.iter().find(|address| targets.contains(address));
            ensure!(found.is_none(), "{} leads to {found:?}", slice.name_any());
        }
    }
    Ok(())
}

async fn no_right(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world, "no-right", json!({})).await?;
    tenant.site.assigned("web").await?;
    let slices = tenant.api::<EndpointSlice>();
    forbidden("create an EndpointSlice", create(&slices, slice("mine", "web", "me", "10.1.2.3", None)).await)?;
    let all = slices.list(&ListParams::default()).await?.items;
    let of_kubernetes = all.first().context("the EndpointSlice of the claim")?.name_any();
    let altered = change(&slices, &of_kubernetes, json!({"endpoints": []})).await;
    forbidden("change an EndpointSlice", altered)?;
    let old =
        json!({"metadata": {"name": "mine"}, "subsets": [{"addresses": [{"ip": "10.1.2.3"}], "ports": [{"port": 1}]}]});
    forbidden("create Endpoints", create(&tenant.api::<Endpoints>(), old).await)?;
    tenant.victim_is_safe().await
}

async fn no_selector(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world, "no-selector", json!({})).await?;
    let (slices, targets) = (may_write_slices(&tenant).await?, targets(&tenant).await?);
    tenant.service("web", json!({"ports": [{"name": "http", "port": 80}]})).await?;
    tenant.site.claim_with("web", json!({"serviceName": "web", "ports": [{"targetPort": 80}]})).await?;
    for (n, address) in targets.iter().enumerate() {
        create(&slices, slice(&format!("mine-{n}"), "web", "me", address, None)).await?;
        let pod = Some((tenant.site.namespace.as_str(), "web-0"));
        create(&slices, slice(&format!("forged-{n}"), "web", KUBERNETES, address, pod)).await?;
    }
    tenant.site.without_backends("web", &["has no selector", "spec.endpoints: Any"]).await?;
    // A later verdict shows that the loops have seen all of it.
    tenant.site.assigned("later").await?;
    none_is_reached(&tenant, &targets).await?;
    tenant.victim_is_safe().await
}

/// What says that it is Kubernetes' own, Kubernetes sets right or removes; the
/// rest does not count.
async fn only_own_pods(
    tenant: &Tenant,
    claim: &str,
    service: &str,
    own: &sharedlb_harness::Backend,
) -> anyhow::Result<()> {
    let (slices, targets) = (may_write_slices(tenant).await?, targets(tenant).await?);
    let (_, (.., port)) = slots(&tenant.site.ready(claim).await?).pop_first().context("it has a port")?;
    tenant.site.leads_to(port, &[own]).await?;
    let (mine, victims) = (tenant.site.namespace.as_str(), tenant.victim.namespace.as_str());
    for (n, address) in targets.iter().enumerate() {
        create(&slices, slice(&format!("mine-{n}"), service, "me", address, Some((mine, "web-0")))).await?;
        create(&slices, slice(&format!("theirs-{n}"), service, KUBERNETES, address, Some((victims, "target-0"))))
            .await?;
        create(&slices, slice(&format!("nobodys-{n}"), service, KUBERNETES, address, None)).await?;
    }
    tenant.site.assigned("later").await?;
    none_is_reached(tenant, &targets).await?;
    // This one looks right in everything.
    create(&slices, slice("forged", service, KUBERNETES, &targets[0], Some((mine, "web-0")))).await?;
    eventually("Kubernetes to remove what is forged", LIMIT, async || {
        Ok(slices.get_opt("forged").await?.is_none_or(|found| found.endpoints.is_empty()).then_some(()))
    })
    .await?;
    tenant.site.leads_to(port, &[own]).await?;
    none_is_reached(tenant, &targets).await?;
    tenant.victim_is_safe().await
}

async fn beside_a_selector(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world, "beside-selector", json!({})).await?;
    let own = tenant.site.pod("own-0", "own").await?;
    let ports = json!([{"name": "http", "port": 80, "targetPort": "http"}]);
    tenant.service("web", json!({"selector": {"app": "own"}, "ports": ports})).await?;
    tenant.site.claim_with("web", json!({"serviceName": "web", "ports": [{"targetPort": 80}]})).await?;
    only_own_pods(&tenant, "web", "web", &own).await
}

async fn beside_a_claim(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world, "beside-claim", json!({})).await?;
    let own = tenant.site.pod("own-0", "own").await?;
    tenant.forged("web", json!({"targetPort": "http"}), json!({"spec": {"selector": {"app": "own"}}})).await?;
    tenant.site.ready("web").await?;
    let services = tenant.api::<Service>().list(&ListParams::default().labels(sharedlb_crds::CLAIM_LABEL)).await?;
    let service = services.items.first().context("the Service beside the claim")?.name_any();
    only_own_pods(&tenant, "web", &service, &own).await
}

async fn altered(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world, "altered", json!({})).await?;
    let (slices, targets) = (may_write_slices(&tenant).await?, targets(&tenant).await?);
    let own = tenant.site.pod("own-0", "own").await?;
    tenant.forged("web", json!({"targetPort": "http"}), json!({"spec": {"selector": {"app": "own"}}})).await?;
    let (_, (.., port)) = slots(&tenant.site.ready("web").await?).pop_first().context("it has a port")?;
    tenant.site.leads_to(port, &[&own]).await?;
    let all = slices.list(&ListParams::default()).await?.items;
    let of_kubernetes = all.into_iter().find(|slice| {
        slice.address_type == "IPv4"
            && slice.labels().get("endpointslice.kubernetes.io/managed-by").is_some_and(|by| by == KUBERNETES)
    });
    let of_kubernetes = of_kubernetes.context("the EndpointSlice that Kubernetes made")?;
    let mut endpoints = serde_json::to_value(&of_kubernetes.endpoints)?;
    endpoints[0]["addresses"] = json!([targets[0]]);
    change(&slices, &of_kubernetes.name_any(), json!({ "endpoints": endpoints })).await?;
    eventually("Kubernetes to set it right", LIMIT, async || {
        let slice = slices.get(&of_kubernetes.name_any()).await?;
        let addresses: Vec<_> = slice.endpoints.iter().flat_map(|endpoint| endpoint.addresses.clone()).collect();
        Ok((addresses == [own.addresses[0].to_string()]).then_some(()))
    })
    .await?;
    tenant.site.leads_to(port, &[&own]).await?;
    none_is_reached(&tenant, &targets).await?;
    tenant.victim_is_safe().await
}

/// Also where the class takes any endpoints.
async fn never(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world, "never", json!({"endpoints": "Any"})).await?;
    let slices = may_write_slices(&tenant).await?;
    tenant.service("web", json!({"ports": [{"name": "http", "port": 80}]})).await?;
    tenant.site.claim_with("web", json!({"serviceName": "web", "ports": [{"targetPort": 80}]})).await?;
    for address in ["127.0.0.1", "169.254.169.254", "0.0.0.0", "::1", "fe80::1"] {
        invalid(address, create(&slices, slice("bad", "web", "me", address, None)).await)?;
    }
    // The API server lets these pass.
    for (n, address) in ["239.1.2.3", "255.255.255.255", "0.1.2.3"].iter().enumerate() {
        create(&slices, slice(&format!("odd-{n}"), "web", "me", address, None)).await?;
    }
    tenant.site.without_backends("web", &[]).await?;
    create(&slices, slice("good", "web", "me", "10.1.2.3", None)).await?;
    let (_, (.., port)) = slots(&tenant.site.ready("web").await?).pop_first().context("it has a port")?;
    let reached: Vec<String> = tenant
        .site
        .front_slices(port)
        .await?
        .into_iter()
        .flat_map(|slice| slice.endpoints)
        .flat_map(|endpoint| endpoint.addresses)
        .collect();
    ensure!(reached == ["10.1.2.3"], "it leads to {reached:?}");
    tenant.victim_is_safe().await
}
