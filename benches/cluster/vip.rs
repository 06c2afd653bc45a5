//! `vip_written` and `vip_open`: new ports at virtual addresses (the provider `vip`), of
//! classes with few ports and of one with many.
//!
//! - `vip_written_ratio`: from the reply to the creation of a claim until the Service of its
//!   load balancer has the port, over the answer of the echo.
//! - `vip_open_p50_ms`: from the creation of a claim until a client outside of the cluster has
//!   an answer through the address; and `vip_open_ratio`, that over the same time of a bare
//!   Service with an external IP address. A bare Service is one write, and its endpoints are
//!   the work of Kubernetes' own controller, so no port is open sooner. kube-proxy has the same
//!   to do for both. Pauses of random lengths keep them out of step with whatever is periodic.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::Context;
use k8s_openapi::api::core::v1::Service;
use kube::api::PostParams;
use kube::{Api, ResourceExt as _};
use serde_json::json;
use sharedlb_crds::{CLASS_LABEL, SharedLBClass};
use sharedlb_testbed::Client;

use crate::census::SYSTEM;
use crate::claims::{FEW, SmallClasses, Tenant, add_pods_at, answering_pod, endpoint_of, populate, prepare};
use crate::controller::Controller;
use crate::echo::Echo;
use crate::figures::{percentile_ms, print, progress};
use crate::latency::beside_echo;
use crate::parts::{Chosen, Part};
use crate::scale::Scale;
use crate::sightings::Sightings;
use crate::stage::{PATIENCE, Stage};
use crate::traffic::until_answered;

/// The class with many ports.
const MANY: &str = "vip-many";

/// Where the pod that answers is.
const PODS: &str = "vip-pods";

/// The longest pause before a port is created.
const PAUSE_MAX: Duration = Duration::from_millis(250);

/// The virtual address with this number.
fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(203, 0, 113, number)
}

/// The addresses of the class with many ports, and of the bare Services.
const MANY_ADDRESS: u8 = 200;
const BARE_ADDRESS: u8 = 201;

/// Measures the chosen parts.
pub(crate) async fn run(stage: &Stage, chosen: &Chosen) -> anyhow::Result<()> {
    let scale = Scale::asked_for()?;
    prepare(stage).await?;
    let controller = Controller::start(stage).await?;
    let mut ports = Ports::prepare(stage).await?;
    if chosen.has(Part::VipFew) {
        let classes = SmallClasses::new("vip-few", scale.samples / FEW);
        for (number, class) in (1..).zip(classes.names()) {
            create_class(stage, class, address(number)).await?;
        }
        populate(stage, &classes.tenants(0)).await?;
        controller.until_quiet().await?;
        ports.measure_written(FEW, FEW, &classes.tenants(1)).await?;
        controller.until_quiet().await?;
        ports.measure_open(FEW, &classes.tenants(2)).await?;
    }
    if chosen.has(Part::VipMany) {
        let many = (scale.claims / 10).max(3 * scale.samples);
        create_class(stage, MANY, address(MANY_ADDRESS)).await?;
        let tenants: Vec<Tenant> = (0..many).map(|number| Tenant::new(MANY, number)).collect();
        // Those that are measured make it full.
        let (before, measured) = tenants.split_at(many - 2 * scale.samples);
        let (written, open) = measured.split_at(scale.samples);
        progress(&format!("{} ports at one address", before.len()));
        populate(stage, before).await?;
        controller.until_quiet().await?;
        ports.measure_written(many, before.len(), written).await?;
        controller.until_quiet().await?;
        ports.measure_open(many, open).await?;
    }
    Ok(())
}

/// Makes a class with one load balancer, which has this address.
async fn create_class(stage: &Stage, name: &str, address: Ipv4Addr) -> anyhow::Result<SharedLBClass> {
    let class = json!({
        "apiVersion": "sharedlb.dev/v1alpha1",
        "kind": "SharedLBClass",
        "metadata": {"name": name},
        "spec": {
            "provider": {"vip": {}},
            "addresses": [{"min": address, "max": address}],
            "ports": {"dynamic": [{"min": 20000, "max": 39999}]},
            "loadBalancers": {"min": 1, "max": 1},
            "portsPerNamespace": 1_000_000,
        },
    });
    stage.add_class(serde_json::from_value(class)?).await
}

/// New ports, and when they are there.
struct Ports<'a> {
    stage: &'a Stage,
    client: Client,
    /// The address of the pod behind all ports
    pod: Ipv4Addr,
    echo: Echo,
    /// Shows how many ports the load balancer of a class has; see [`ports_of`]
    services: Sightings<Service>,
    /// The number of the next bare Service's port
    next_bare: u16,
}

impl<'a> Ports<'a> {
    async fn prepare(stage: &'a Stage) -> anyhow::Result<Self> {
        let services = Api::namespaced(stage.admin.clone(), SYSTEM);
        Ok(Self {
            stage,
            client: stage.cluster.client()?,
            pod: answering_pod(stage, PODS).await?,
            echo: Echo::start(stage).await?,
            services: Sightings::start(services, shown_by).await?,
            next_bare: 20000,
        })
    }

    /// Measures when the Services have new ports, one after another. Each class has so many
    /// ports before; the figures have the number `size` in their names.
    async fn measure_written(&mut self, size: usize, before: usize, tenants: &[Tenant]) -> anyhow::Result<()> {
        progress(&format!("{} ports, until the Service has them", tenants.len()));
        let Self { stage, echo, services, .. } = self;
        add_pods_at(stage, tenants, self.pod).await?;
        let mut counts: HashMap<String, usize> = HashMap::new();
        let (times, answers) = beside_echo(tenants, echo, async |tenant| {
            let count = counts.entry(tenant.class.clone()).or_insert(before);
            *count += 1;
            let written = services.expect(ports_of(&tenant.class, *count));
            let replied = tenant.create(stage).await?;
            Ok(written.wait(PATIENCE).await?.at.saturating_duration_since(replied))
        })
        .await?;
        print(&format!("vip_written_p50_ms_{size}"), percentile_ms(&times, 50), "ms");
        print(&format!("vip_written_p99_ms_{size}"), percentile_ms(&times, 99), "ms");
        let ratio = percentile_ms(&times, 50) / percentile_ms(&answers, 50);
        print(&format!("vip_written_ratio_{size}"), ratio, "ratio");
        Ok(())
    }

    /// Measures when new ports answer, in the order claim, bare, bare, claim.
    async fn measure_open(&mut self, size: usize, tenants: &[Tenant]) -> anyhow::Result<()> {
        progress(&format!("{} ports, until they answer", tenants.len()));
        add_pods_at(self.stage, tenants, self.pod).await?;
        let (mut claims, mut bare) = (Vec::new(), Vec::new());
        for (number, tenant) in tenants.iter().enumerate() {
            if number % 2 == 0 {
                claims.push(self.time_to_open(tenant).await?);
                bare.push(self.time_to_open_bare(tenant).await?);
            } else {
                bare.push(self.time_to_open_bare(tenant).await?);
                claims.push(self.time_to_open(tenant).await?);
            }
        }
        print(&format!("vip_open_p50_ms_{size}"), percentile_ms(&claims, 50), "ms");
        print(&format!("vip_open_p99_ms_{size}"), percentile_ms(&claims, 99), "ms");
        print(&format!("vip_open_bare_p50_ms_{size}"), percentile_ms(&bare, 50), "ms");
        print(&format!("vip_open_bare_p99_ms_{size}"), percentile_ms(&bare, 99), "ms");
        let ratio = percentile_ms(&claims, 50) / percentile_ms(&bare, 50);
        print(&format!("vip_open_ratio_{size}"), ratio, "ratio");
        Ok(())
    }

    /// From the creation of a claim until its port answers.
    async fn time_to_open(&self, tenant: &Tenant) -> anyhow::Result<Duration> {
        pause().await;
        let port = tenant.port(self.stage);
        let created = Instant::now();
        tenant.create(self.stage).await?;
        let claim = port.wait(PATIENCE).await?.object;
        let (address, port) = endpoint_of(&claim).context("a claim with a port has an address")?;
        until_answered(&self.client, address, port).await?;
        Ok(created.elapsed())
    }

    /// From the creation of a Service with an external IP address until its port answers.
    async fn time_to_open_bare(&mut self, tenant: &Tenant) -> anyhow::Result<Duration> {
        pause().await;
        let (address, port) = (address(BARE_ADDRESS), self.next_bare);
        self.next_bare += 1;
        let service: Service = serde_json::from_value(json!({
            "metadata": {"namespace": tenant.namespace, "name": format!("bare-{}", tenant.name)},
            "spec": {
                "selector": {"app": tenant.name}, "externalIPs": [address],
                "ports": [{"port": port, "targetPort": 8080}],
            },
        }))?;
        let services: Api<Service> = Api::namespaced(self.stage.admin.clone(), &tenant.namespace);
        let created = Instant::now();
        services.create(&PostParams::default(), &service).await?;
        until_answered(&self.client, address.into(), port).await?;
        Ok(created.elapsed())
    }
}

async fn pause() {
    tokio::time::sleep(PAUSE_MAX.mul_f64(fastrand::f64())).await;
}

/// What is to be expected when the load balancer of a class gets a port.
fn ports_of(class: &str, count: usize) -> String {
    format!("the load balancer of class {class} with {count} ports")
}

fn shown_by(service: &Service) -> Vec<String> {
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_ref()).map_or(0, Vec::len);
    service.labels().get(CLASS_LABEL).map(|class| ports_of(class, ports)).into_iter().collect()
}
