//! ConfigMaps that name a Service, and get an address and a port back.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::events::v1::Event;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use libtest_mimic::Trial;
use serde_json::{Value, json};
use sharedlb_harness::front::Front;
use sharedlb_harness::tenant::Tenant;
use sharedlb_harness::{LIMIT, Replica, Tests, World};
use sharedlb_testbed::Protocol::{Tcp, Udp};
use sharedlb_testbed::{Cluster, Protocol, eventually};

use super::killed::killed_after_each_write;
use crate::SHAREDLB;

pub(crate) fn trials(test: &Tests<World>) -> Vec<Trial> {
    vec![
        test.test("a ConfigMap gets an address and a port back, and the Service is reached there", bound),
        test.test("a ConfigMap asks for a port by number, and for another one later", by_number),
        test.test("a ConfigMap names one of several ports of the Service", one_of_several),
        test.test("a mistake in a ConfigMap is reported by an Event, and its data is not changed", wrong),
        test.test("a ConfigMap keeps its port while its Service does not exist", service_comes_and_goes),
        test.test("a mistake in a ConfigMap is reported, and its open port stays open", mistakes),
        test.test("a ConfigMap that is deleted, or loses its label, releases its port", given_back),
        test.test("the verdict on a ConfigMap's claim is reported on the ConfigMap", verdict),
    ]
}

pub(crate) fn trials_of_their_own(test: &Tests<Cluster>) -> Vec<Trial> {
    vec![
        test.test(
            "killed after each write, the controller serves a ConfigMap, follows its edits, and releases it",
            killed,
        ),
        test.test("changes of ConfigMaps while the controller was down are applied", while_down),
    ]
}

/// The ConfigMaps of a tenant.
struct Maps<'a> {
    tenant: &'a Tenant,
    api: Api<ConfigMap>,
}

impl<'a> Maps<'a> {
    fn of(tenant: &'a Tenant) -> Self {
        Self { tenant, api: Api::namespaced(tenant.site.cluster.admin(), &tenant.site.namespace) }
    }

    /// Creates one in the tenant's class for the Service `web`, unless `data` says otherwise.
    async fn create(&self, name: &str, data: Value) -> anyhow::Result<()> {
        let site = &self.tenant.site;
        let mut all =
            json!({"namespace": site.namespace, "target-service-name": "web", "class": site.class, "theirs": "stays"});
        for (key, value) in data.as_object().context("an object")? {
            all[key] = value.clone();
        }
        all.as_object_mut().context("an object")?.retain(|_, value| !value.is_null());
        let map: ConfigMap = serde_json::from_value(
            json!({"metadata": {"name": name, "labels": {"app": "loadbalancer"}}, "data": all}),
        )?;
        self.api.create(&PostParams::default(), &map).await?;
        Ok(())
    }

    async fn change(&self, name: &str, patch: Value) -> anyhow::Result<()> {
        self.api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }

    async fn data(&self, name: &str) -> anyhow::Result<BTreeMap<String, String>> {
        Ok(self.api.get(name).await?.data.unwrap_or_default())
    }

    /// Waits until one is bound to a port that is looked for, and says where.
    async fn bound(&self, name: &str, protocol: Protocol, port: Option<u16>) -> anyhow::Result<Front> {
        eventually(&format!("ConfigMap {name} to be bound to port {port:?}"), LIMIT, async || {
            let data = self.data(name).await?;
            let address: IpAddr = data.get("bind-ip").with_context(|| format!("no bind-ip in {data:?}"))?.parse()?;
            let found: u16 = data.get("bind-port").with_context(|| format!("no bind-port in {data:?}"))?.parse()?;
            ensure!(port.is_none_or(|port| port == found), "it is {data:?}");
            // Its claim is as far as the ConfigMap says.
            let claim = self.tenant.site.claims.get(&format!("configmap-{name}")).await?;
            let status = claim.status.context("a status")?;
            let current = status.observed_generation == claim.metadata.generation;
            let given = status.ports.first().is_some_and(|given| given.port.get() == found);
            Ok((current && given).then_some(Front { address, port: found, protocol }))
        })
        .await
    }

    /// Waits until nothing is bound any longer.
    async fn unbound(&self, name: &str) -> anyhow::Result<()> {
        self.tenant.site.gone(&format!("configmap-{name}")).await?;
        eventually(&format!("nothing of ours in ConfigMap {name}"), LIMIT, async || {
            let data = self.data(name).await?;
            ensure!(!data.contains_key("bind-ip"), "it is {data:?}");
            Ok(Some(()))
        })
        .await
    }
}

async fn tenant_with_web(cluster: &Arc<Cluster>, name: &str) -> anyhow::Result<Tenant> {
    let tenant = Tenant::open(cluster, name, json!({})).await?;
    tenant.pod("web-0", "web").await?;
    tenant.service("web", plain()).await?;
    Ok(tenant)
}

/// A Service that needs no load balancer of its own.
fn plain() -> Value {
    json!({"type": "ClusterIP", "loadBalancerClass": null, "allocateLoadBalancerNodePorts": null})
}

async fn bound(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = tenant_with_web(&world.cluster, "map-bound").await?;
    let maps = Maps::of(&tenant);
    maps.create("mine", json!({})).await?;
    let front = maps.bound("mine", Tcp, None).await?;
    tenant.only_answer(front, &["web-0"]).await?;
    let note = tenant.event("ConfigMap", "mine", "Bound").await?;
    ensure!(note == format!("{}/TCP of {} leads to Service web", front.port, front.address), "{note}");
    ensure!(maps.data("mine").await?.get("theirs").is_some_and(|value| value == "stays"));
    let claim = tenant.site.claims.get("configmap-mine").await?;
    ensure!(claim.labels().get("sharedlb.dev/source").is_some_and(|source| source == "configmap"));
    Ok(())
}

async fn by_number(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = tenant_with_web(&world.cluster, "map-by-number").await?;
    let maps = Maps::of(&tenant);
    maps.create("mine", json!({"bind-port": "5432"})).await?;
    tenant.only_answer(maps.bound("mine", Tcp, Some(5432)).await?, &["web-0"]).await?;
    maps.change("mine", json!({"data": {"bind-port": "5433"}})).await?;
    let front = maps.bound("mine", Tcp, Some(5433)).await?;
    tenant.only_answer(front, &["web-0"]).await?;
    tenant.closed(front.at(5432)).await?;
    // Without the ask it keeps what it has, and that is not a new ask.
    maps.change("mine", json!({"data": {"bind-port": null}})).await?;
    maps.bound("mine", Tcp, Some(5433)).await?;
    let claim = tenant.site.claims.get("configmap-mine").await?;
    ensure!(claim.spec.ports[0].port.is_none(), "{:?}", claim.spec);
    Ok(())
}

async fn one_of_several(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world.cluster, "map-several", json!({})).await?;
    tenant.pod("web-0", "web").await?;
    let mut spec = plain();
    spec["ports"] = json!([
        {"name": "http", "port": 80, "targetPort": "http"}, {"name": "dns", "port": 53, "targetPort": "dns", "protocol": "UDP"},
    ]);
    tenant.service("web", spec).await?;
    let maps = Maps::of(&tenant);
    maps.create("none", json!({})).await?;
    let note = tenant.event("ConfigMap", "none", "PortMissing").await?;
    ensure!(note == "Service web has 2 ports: set target-port to the number or name of one of them", "{note}");
    maps.create("number", json!({"target-port": "80"})).await?;
    tenant.only_answer(maps.bound("number", Tcp, None).await?, &["web-0"]).await?;
    maps.create("name", json!({"target-port": "dns"})).await?;
    tenant.only_answer(maps.bound("name", Udp, None).await?, &["web-0"]).await?;
    maps.change("none", json!({"data": {"target-port": "http"}})).await?;
    tenant.only_answer(maps.bound("none", Tcp, None).await?, &["web-0"]).await
}

async fn wrong(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = tenant_with_web(&world.cluster, "map-wrong").await?;
    let maps = Maps::of(&tenant);
    let cases = [
        ("no-namespace", json!({"namespace": null}), "MissingKey", "key namespace is missing"),
        ("no-service", json!({"target-service-name": null}), "MissingKey", "key target-service-name is missing"),
        ("elsewhere", json!({"namespace": "default"}), "OtherNamespace", "map-wrong"),
        ("nobody", json!({"target-service-name": "nobody"}), "ServiceNotFound", "Service nobody does not exist"),
        ("no-number", json!({"bind-port": "http"}), "InvalidPort", "1 to 65535"),
    ];
    for (name, data, reason, words) in cases {
        maps.create(name, data).await?;
        let before = maps.api.get(name).await?;
        let note = tenant.event("ConfigMap", name, reason).await?;
        ensure!(note.contains(words), "{note}");
        let after = maps.api.get(name).await?;
        ensure!(before.resource_version() == after.resource_version(), "it was touched: {after:?}");
        ensure!(tenant.site.claims.get_opt(&format!("configmap-{name}")).await?.is_none(), "{name} has a claim");
    }
    // No Event was sent twice.
    let events = Api::<Event>::namespaced(world.cluster.admin(), "map-wrong");
    let told = events.list(&ListParams::default().fields("regarding.kind=ConfigMap")).await?.items.len();
    ensure!(told == 5, "{told} events");
    // And it works once it is right.
    maps.change("no-namespace", json!({"data": {"namespace": "map-wrong"}})).await?;
    tenant.only_answer(maps.bound("no-namespace", Tcp, None).await?, &["web-0"]).await?;
    // The new mistake is reported, and the port is closed.
    maps.change("no-namespace", json!({"data": {"namespace": "default"}})).await?;
    maps.unbound("no-namespace").await?;
    tenant.event("ConfigMap", "no-namespace", "OtherNamespace").await.map(drop)
}

async fn service_comes_and_goes(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world.cluster, "map-service", json!({})).await?;
    tenant.pod("web-0", "web").await?;
    let maps = Maps::of(&tenant);
    maps.create("mine", json!({})).await?;
    tenant.event("ConfigMap", "mine", "ServiceNotFound").await?;
    tenant.service("web", plain()).await?;
    let front = maps.bound("mine", Tcp, None).await?;
    tenant.only_answer(front, &["web-0"]).await?;
    let bound = maps.data("mine").await?;
    let claim = tenant.site.claims.get("configmap-mine").await?.uid();
    tenant.delete("web").await?;
    tenant.site.has_no_backends("configmap-mine", &["web"]).await?;
    tenant.closed(front).await?;
    tenant.event("ConfigMap", "mine", "NoBackends").await?;
    tenant.service("web", plain()).await?;
    tenant.only_answer(front, &["web-0"]).await?;
    ensure!(maps.data("mine").await? == bound, "it was changed");
    ensure!(tenant.site.claims.get("configmap-mine").await?.uid() == claim, "it has another claim");
    Ok(())
}

async fn mistakes(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = tenant_with_web(&world.cluster, "map-mistakes").await?;
    let maps = Maps::of(&tenant);
    for (name, mistake, reason) in [
        ("number", json!({"bind-port": "5432x"}), "InvalidPort"),
        ("target", json!({"target-port": "htpp"}), "PortNotFound"),
        ("class", json!({"class": "Map Mistakes"}), "InvalidClass"),
        ("key", json!({"target-service-name": null, "target-servce-name": "web"}), "MissingKey"),
    ] {
        maps.create(name, json!({})).await?;
        let front = maps.bound(name, Tcp, None).await?;
        let claim = tenant.site.claims.get(&format!("configmap-{name}")).await?;
        maps.change(name, json!({ "data": mistake })).await?;
        tenant.event("ConfigMap", name, reason).await?;
        tenant.only_answer(front, &["web-0"]).await?;
        let now = tenant.site.claims.get(&format!("configmap-{name}")).await?;
        ensure!(now.uid() == claim.uid() && now.spec == claim.spec, "{name}: {:?}", now.spec);
        ensure!(maps.data(name).await?.contains_key("bind-ip"), "{name}: its address was taken out");
    }
    Ok(())
}

async fn given_back(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = tenant_with_web(&world.cluster, "map-given-back").await?;
    let maps = Maps::of(&tenant);
    maps.create("mine", json!({})).await?;
    maps.create("other", json!({})).await?;
    let (mine, other) = (maps.bound("mine", Tcp, None).await?, maps.bound("other", Tcp, None).await?);
    maps.api.delete("mine", &DeleteParams::default()).await?;
    tenant.site.gone("configmap-mine").await?;
    tenant.site.released("configmap-mine", mine.port).await?;
    tenant.closed(mine).await?;
    tenant.only_answer(other, &["web-0"]).await?;
    maps.change("other", json!({"metadata": {"labels": {"app": null}}})).await?;
    tenant.site.gone("configmap-other").await?;
    tenant.closed(other).await
}

async fn verdict(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = tenant_with_web(&world.cluster, "map-verdict").await?;
    let maps = Maps::of(&tenant);
    maps.create("no-class", json!({"class": "nobodys"})).await?;
    let note = tenant.event("ConfigMap", "no-class", "NoClass").await?;
    ensure!(note.contains("class nobodys does not exist"), "{note}");
    maps.create("one", json!({"bind-port": "22222", "class": "map-verdict"})).await?;
    let front = maps.bound("one", Tcp, Some(22222)).await?;
    // A claim cannot be moved to another class, so it is another one.
    maps.change("no-class", json!({"data": {"class": "map-verdict"}})).await?;
    maps.bound("no-class", Tcp, None).await?;
    tenant.only_answer(front, &["web-0"]).await
}

async fn killed(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    let mut replica = Replica::alone(SHAREDLB, &cluster, &[]).await?;
    let tenant = tenant_with_web(&cluster, "map-killed").await?;
    tenant.site.fronts(1).await?;
    let maps = Maps::of(&tenant);
    let port = async || anyhow::Ok(maps.data("mine").await?.get("bind-port").cloned());
    let is_bound = async || Ok(port().await?.is_some());
    killed_after_each_write(&mut replica, maps.create("mine", json!({})), is_bound).await?;
    let front = maps.bound("mine", Tcp, None).await?;
    tenant.only_answer(front, &["web-0"]).await?;
    let claim = tenant.site.claims.get("configmap-mine").await?;
    ensure!(claim.spec.ports[0].port.is_none(), "what was written back became an ask: {:?}", claim.spec);
    let delete = async {
        maps.api.delete("mine", &DeleteParams::default()).await?;
        Ok(())
    };
    let gone = async || Ok(tenant.site.claims.get_opt("configmap-mine").await?.is_none());
    killed_after_each_write(&mut replica, delete, gone).await?;
    tenant.site.released("configmap-mine", front.port).await?;
    clear(&tenant, replica).await
}

async fn while_down(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    let mut replica = Replica::alone(SHAREDLB, &cluster, &[]).await?;
    let tenant = tenant_with_web(&cluster, "map-while-down").await?;
    let maps = Maps::of(&tenant);
    for name in ["deleted", "unlabelled", "kept"] {
        maps.create(name, json!({})).await?;
    }
    let kept = maps.bound("kept", Tcp, None).await?;
    for name in ["deleted", "unlabelled"] {
        maps.bound(name, Tcp, None).await?;
    }
    replica.kill().await?;
    maps.api.delete("deleted", &DeleteParams::default()).await?;
    maps.change("unlabelled", json!({"metadata": {"labels": {"app": null}}})).await?;
    replica.start()?;
    tenant.site.gone("configmap-deleted").await?;
    tenant.site.gone("configmap-unlabelled").await?;
    tenant.only_answer(kept, &["web-0"]).await?;
    ensure!(maps.bound("kept", Tcp, None).await? == kept, "it is elsewhere");
    maps.api.delete("kept", &DeleteParams::default()).await?;
    tenant.site.gone("configmap-kept").await?;
    clear(&tenant, replica).await
}

async fn clear(tenant: &Tenant, mut replica: Replica) -> anyhow::Result<()> {
    tenant.site.delete_class().await?;
    tenant.site.class_gone().await?;
    replica.kill().await
}
