//! `burst_1000_ready_ratio`: many claims at once, until each of them has answered a
//! client outside of the cluster.
//!
//! Then, with the controller stopped, a bare client makes as many writes of the same
//! kinds, and copies of the load balancers' Services are created, until each of their
//! ports has answered. The claims' time is compared with the sum of these two.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::Context;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{ListParams, ObjectMeta, PostParams};
use sharedlb_crds::{CLASS_LABEL, SharedLB};
use sharedlb_testbed::{Client, eventually};

use crate::bare;
use crate::census::{self, SYSTEM};
use crate::claims::{Tenant, add_pods_at, answering_pod, endpoint_of};
use crate::controller::Controller;
use crate::figures::{print, progress};
use crate::sightings::Sighting;
use crate::stage::{CONNECTIONS, PATIENCE, Stage, for_all};

const CLASS: &str = "ready";

/// How many listeners a load balancer has.
const LISTENERS: u32 = 250;

/// How many claims there are: so many as load balancers have room for.
const CLAIMS: usize = 1000;

/// Where the copies of the load balancers' Services are.
const COPIES: &str = "ready-copies";

/// How long a burst may take.
const LIMIT: Duration = Duration::from_secs(300);

/// How long a client waits before it asks again: the grain of what is measured.
const ASK_EVERY: Duration = Duration::from_millis(5);

/// Measures a burst. It ends the controller.
pub(crate) async fn measure(stage: &Stage, controller: Controller, client: &Client) -> anyhow::Result<()> {
    stage.class_of(CLASS, LISTENERS).await?;
    let tenants: Vec<Tenant> = (0..CLAIMS).map(|number| Tenant::new(CLASS, number)).collect();
    progress(&format!("{CLAIMS} pods for claims of load balancers with {LISTENERS} listeners"));
    add_pods_at(stage, &tenants, answering_pod(stage, COPIES).await?).await?;
    controller.until_quiet().await?;

    progress(&format!("{CLAIMS} claims at once, until all have answered"));
    let census = census::start(&stage.admin).await?;
    let claims: Vec<_> = tenants.iter().map(|tenant| tenant.readiness(stage)).collect();
    let started = Instant::now();
    for_all(&tenants, CONNECTIONS, async |tenant: &Tenant| tenant.create(stage).await.map(drop)).await?;
    progress(&format!("created after {:.2} s", started.elapsed().as_secs_f64()));
    for_all(claims, CONNECTIONS, async |ready: Sighting<SharedLB>| {
        let claim = ready.wait(LIMIT).await?.object;
        let (address, port) = endpoint_of(&claim).context("a claim that is ready has an address and a port")?;
        until_answered(client, address, port).await
    })
    .await?;
    let took = started.elapsed();
    controller.until_quiet().await?;
    let writes = census.counts();
    controller.kill().await?;

    progress(&format!("{:.2} s; the same writes by a bare client: {writes:?}", took.as_secs_f64()));
    let bare = bare::time_of(&stage.admin, &writes, tenants.first().context("a claim")?).await?;
    progress(&format!("{:.2} s; copies of the load balancers, until all have answered", bare.as_secs_f64()));
    let proxied = time_of_copies(stage, client).await?;
    progress(&format!("{:.2} s", proxied.as_secs_f64()));
    print(&format!("burst_{CLAIMS}_ready_s"), took.as_secs_f64(), "s");
    print(&format!("burst_{CLAIMS}_ready_bare_s"), bare.as_secs_f64(), "s");
    print(&format!("burst_{CLAIMS}_ready_proxy_s"), proxied.as_secs_f64(), "s");
    print(&format!("burst_{CLAIMS}_ready_ratio"), took.as_secs_f64() / (bare + proxied).as_secs_f64(), "ratio");
    Ok(())
}

async fn until_answered(client: &Client, address: IpAddr, port: u16) -> anyhow::Result<()> {
    let answered = async {
        while client.tcp(address, port).await.is_err() {
            tokio::time::sleep(ASK_EVERY).await;
        }
    };
    tokio::time::timeout(PATIENCE, answered)
        .await
        .with_context(|| format!("waited {PATIENCE:?} for an answer from {address}, port {port}"))
}

/// From the creation of copies of the load balancers' Services until all their ports
/// have answered.
async fn time_of_copies(stage: &Stage, client: &Client) -> anyhow::Result<Duration> {
    let of_class = ListParams::default().labels(&format!("{CLASS_LABEL}={CLASS}"));
    let services = Api::<Service>::namespaced(stage.admin.clone(), SYSTEM).list(&of_class).await?.items;
    let slices = Api::<EndpointSlice>::namespaced(stage.admin.clone(), SYSTEM).list(&of_class).await?.items;
    let copied: Api<Service> = Api::namespaced(stage.admin.clone(), COPIES);
    let copied_slices: Api<EndpointSlice> = Api::namespaced(stage.admin.clone(), COPIES);
    let started = Instant::now();
    for_all(services, CONNECTIONS, async |service: Service| {
        copied.create(&PostParams::default(), &copy_of(service)).await?;
        Ok(())
    })
    .await?;
    for_all(slices, CONNECTIONS, async |slice: EndpointSlice| {
        let metadata = plain(&slice.metadata);
        copied_slices.create(&PostParams::default(), &EndpointSlice { metadata, ..slice }).await?;
        Ok(())
    })
    .await?;
    let addressed = eventually("the copies to have addresses", PATIENCE, async || {
        let all = copied.list(&ListParams::default()).await?.items;
        let addressed: Option<Vec<_>> =
            all.iter().map(|service| Some((address_of(service)?, ports_of(service)))).collect();
        Ok(addressed)
    })
    .await?;
    let endpoints: Vec<_> =
        addressed.into_iter().flat_map(|(address, ports)| ports.into_iter().map(move |port| (address, port))).collect();
    for_all(endpoints, CONNECTIONS, async |(address, port): (IpAddr, u16)| until_answered(client, address, port).await)
        .await?;
    Ok(started.elapsed())
}

fn copy_of(mut service: Service) -> Service {
    if let Some(spec) = &mut service.spec {
        (spec.cluster_ip, spec.cluster_ips) = (None, None);
    }
    Service { metadata: plain(&service.metadata), status: None, ..service }
}

/// What Kubernetes needs of an object's metadata.
fn plain(metadata: &ObjectMeta) -> ObjectMeta {
    ObjectMeta { name: metadata.name.clone(), labels: metadata.labels.clone(), ..ObjectMeta::default() }
}

fn address_of(service: &Service) -> Option<IpAddr> {
    let status = service.status.as_ref()?.load_balancer.as_ref()?;
    status.ingress.as_ref()?.first()?.ip.as_ref()?.parse().ok()
}

fn ports_of(service: &Service) -> Vec<u16> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    ports.filter_map(|port| u16::try_from(port.port).ok()).collect()
}
