//! `writes_per_claim` and `writes_per_service`: what the controller writes for each of
//! many that are created at once, until it has nothing left to do. The class' own
//! status, which is written once a second, does not count; Events do.
//!
//! `burst_services_ratio`: how long so many Services take until all have a status, over
//! a bare client that creates as many and writes their status.

use std::time::Instant;

use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::claims::{Tenant, add_pods, populate};
use crate::controller::Controller;
use crate::figures::{print, progress};
use crate::services::{port_of, service_of, shown_by};
use crate::sightings::Sightings;
use crate::stage::{CONNECTIONS, PATIENCE, Stage, for_all};

const CLAIMS: &str = "writes-claims";
const SERVICES: &str = "writes-services";

/// How many claims and Services are created at once where writes are counted.
const COUNTED: usize = 400;

/// Counts the writes for claims, and then for Services.
pub(crate) async fn measure(stage: &Stage, controller: &Controller) -> anyhow::Result<()> {
    progress(&format!("the writes for {COUNTED} claims, and for as many Services"));
    let tenants = |class: &str| -> Vec<Tenant> { (0..COUNTED).map(|number| Tenant::new(class, number)).collect() };
    stage.class(CLAIMS).await?;
    stage.class(SERVICES).await?;
    controller.until_quiet().await?;
    let before = controller.metrics().await?.writes_for_users();
    populate(stage, &tenants(CLAIMS)).await?;
    controller.until_quiet().await?;
    let between = controller.metrics().await?.writes_for_users();
    print("writes_per_claim", (between - before) / COUNTED as f64, "writes");

    add_pods(stage, &tenants(SERVICES)).await?;
    let before = controller.metrics().await?.writes_for_users();
    burst(stage, &tenants(SERVICES)).await?;
    controller.until_quiet().await?;
    let after = controller.metrics().await?.writes_for_users();
    print("writes_per_service", (after - before) / COUNTED as f64, "writes");
    Ok(())
}

/// Measures the time of so many Services at once. No controller acts while the bare
/// client writes: the class of its Services is none of ours.
pub(crate) async fn measure_burst(stage: &Stage, controller: &Controller, count: usize) -> anyhow::Result<()> {
    let class = "burst-services";
    progress(&format!("{count} Services at once"));
    stage.class(class).await?;
    let tenants: Vec<Tenant> = (0..count).map(|number| Tenant::new(class, number)).collect();
    add_pods(stage, &tenants).await?;
    controller.until_quiet().await?;
    let seconds = burst(stage, &tenants).await?;
    controller.until_quiet().await?;
    let bare = bare(stage, &tenants).await?;
    print(&format!("burst_{count}_services_s"), seconds, "s");
    print(&format!("burst_{count}_services_bare_s"), bare, "s");
    print(&format!("burst_{count}_services_ratio"), seconds / bare, "ratio");
    Ok(())
}

/// Creates a Service for each tenant, and returns how many seconds it took until all
/// had their ports.
async fn burst(stage: &Stage, tenants: &[Tenant]) -> anyhow::Result<f64> {
    let sightings = Sightings::start(Api::all(stage.admin.clone()), shown_by).await?;
    let ports: Vec<_> =
        tenants.iter().map(|tenant| sightings.expect(port_of(&tenant.namespace, &tenant.name))).collect();
    let started = Instant::now();
    for_all(tenants, CONNECTIONS, async |tenant: &Tenant| {
        let class = format!("sharedlb.dev/{}", tenant.class);
        create(stage, tenant, &tenant.name, &class).await
    })
    .await?;
    let mut ended = started;
    for port in ports {
        ended = ended.max(port.wait(PATIENCE * 5).await?.at);
    }
    Ok((ended - started).as_secs_f64())
}

/// Creates as many Services of another class, and writes the status of each, which is
/// that of the Service of the burst. They are deleted again.
async fn bare(stage: &Stage, tenants: &[Tenant]) -> anyhow::Result<f64> {
    let name = |tenant: &Tenant| format!("bare-{}", tenant.name);
    let services = |tenant: &Tenant| Api::<Service>::namespaced(stage.admin.clone(), &tenant.namespace);
    let Some(first) = tenants.first() else { return Ok(f64::NAN) };
    let status = services(first).get(&first.name).await?.status;
    let started = Instant::now();
    for_all(tenants, CONNECTIONS, async |tenant: &Tenant| {
        create(stage, tenant, &name(tenant), "bare.example/none").await?;
        let patch = Patch::Merge(json!({ "status": status }));
        services(tenant).patch_status(&name(tenant), &PatchParams::default(), &patch).await?;
        Ok(())
    })
    .await?;
    let took = started.elapsed().as_secs_f64();
    for_all(tenants, CONNECTIONS, async |tenant: &Tenant| {
        services(tenant).delete(&name(tenant), &DeleteParams::default()).await?;
        Ok(())
    })
    .await?;
    Ok(took)
}

async fn create(stage: &Stage, tenant: &Tenant, name: &str, class: &str) -> anyhow::Result<()> {
    let services: Api<Service> = Api::namespaced(stage.admin.clone(), &tenant.namespace);
    services.create(&PostParams::default(), &service_of(tenant, name, class)?).await?;
    Ok(())
}
