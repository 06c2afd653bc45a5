//! `service_port`: how long a new Service of type LoadBalancer waits until its
//! status has its port, which by then is served; and that time over the echo's.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Service;
use kube::api::PostParams;
use kube::{Api, ResourceExt as _};
use serde_json::json;

use crate::claims::{Tenant, add_pods};
use crate::echo::Echo;
use crate::figures::{percentile_ms, print, progress};
use crate::sightings::Sightings;
use crate::stage::{PATIENCE, Stage};

const CLASS: &str = "services";

/// Measures so many new Services one after another, each beside an answer of the echo.
/// It needs a controller that runs.
pub(crate) async fn measure(stage: &Stage, echo: &mut Echo, count: usize) -> anyhow::Result<()> {
    progress(&format!("{count} Services, one after another"));
    stage.class(CLASS).await?;
    let tenants: Vec<Tenant> = (0..count).map(|number| Tenant::new(CLASS, number)).collect();
    add_pods(stage, &tenants).await?;
    let ports = Sightings::start(Api::all(stage.admin.clone()), shown_by).await?;
    let (mut took, mut answers) = (Vec::new(), Vec::new());
    for tenant in &tenants {
        took.push(time_to_port(stage, &ports, tenant).await?);
        answers.push(echo.time_to_answer().await?);
    }
    print("service_port_p50_ms", percentile_ms(&took, 50), "ms");
    print("service_port_p99_ms", percentile_ms(&took, 99), "ms");
    print("service_port_ratio", percentile_ms(&took, 50) / percentile_ms(&answers, 50), "ratio");
    Ok(())
}

/// From the reply to the creation of a Service until the watch shows its port.
async fn time_to_port(stage: &Stage, ports: &Sightings<Service>, tenant: &Tenant) -> anyhow::Result<Duration> {
    let service = service_of(tenant, &tenant.name, &format!("sharedlb.dev/{CLASS}"))?;
    let port = ports.expect(port_of(&tenant.namespace, &tenant.name));
    let services: Api<Service> = Api::namespaced(stage.admin.clone(), &tenant.namespace);
    services.create(&PostParams::default(), &service).await?;
    let replied = Instant::now();
    // The watch may be quicker than the reply.
    Ok(port.wait(PATIENCE).await?.at.saturating_duration_since(replied))
}

/// A Service of this name and class for the pod of a tenant.
pub(crate) fn service_of(tenant: &Tenant, name: &str, class: &str) -> anyhow::Result<Service> {
    Ok(serde_json::from_value(json!({
        "metadata": {
            "namespace": tenant.namespace, "name": name, "annotations": {"sharedlb.dev/assign-ports": "true"},
        },
        "spec": {
            "type": "LoadBalancer", "loadBalancerClass": class, "allocateLoadBalancerNodePorts": false,
            "selector": {"app": tenant.name}, "ports": [{"port": 80, "targetPort": 8080}],
        },
    }))?)
}

/// What is to be expected when a Service gets its port.
pub(crate) fn port_of(namespace: &str, name: &str) -> String {
    format!("the port of Service {namespace}/{name}")
}

/// What a Service is a sight of; see [`port_of`].
pub(crate) fn shown_by(service: &Service) -> Vec<String> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let mut ingress = status.into_iter().flat_map(|status| status.ingress.iter().flatten());
    let served = ingress.any(|ingress| ingress.ports.as_ref().is_some_and(|ports| !ports.is_empty()));
    let named = served.then(|| port_of(&service.namespace().unwrap_or_default(), &service.name_any()));
    named.into_iter().collect()
}
