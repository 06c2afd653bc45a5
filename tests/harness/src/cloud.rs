//! Stands in for a cloud: gives every Service of type LoadBalancer an address,
//! as the controllers of clouds do, and does nothing else.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use futures::{StreamExt, pin_mut};
use k8s_openapi::api::core::v1::Service;
use kube::api::{Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

/// The annotation of a Service that must get no address yet.
pub const WITHHELD: &str = "cloud.test/withheld";

/// How soon a write is tried again that failed because the API server is away.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// Gives addresses for as long as it is polled.
pub(crate) async fn serve_addresses(client: Client) {
    let services = watcher(Api::<Service>::all(client.clone()), watcher::Config::default());
    let services = services.default_backoff().applied_objects();
    pin_mut!(services);
    // An event may be from before the Service got its address: it gets the same again.
    let (mut given, mut last) = (HashMap::new(), 0);
    while let Some(service) = services.next().await {
        // An error means that it is listed again.
        let Ok(service) = service else { continue };
        if wants_address(&service) {
            let number = *given.entry(service.uid()).or_insert_with(|| {
                last += 1;
                last
            });
            give(&client, &service, number).await;
        }
    }
}

fn wants_address(service: &Service) -> bool {
    let is_balancer = service.spec.as_ref().is_some_and(|spec| spec.type_.as_deref() == Some("LoadBalancer"));
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let has_one = status.and_then(|status| status.ingress.as_ref()).is_some_and(|ingress| !ingress.is_empty());
    is_balancer && !has_one && !service.annotations().contains_key(WITHHELD)
}

async fn give(client: &Client, service: &Service, number: u16) {
    let [high, low] = number.to_be_bytes();
    let families = service.spec.iter().flat_map(|spec| spec.ip_families.iter().flatten());
    let ingress: Vec<Value> = families
        .map(|family| match family.as_str() {
            "IPv6" => json!({"ip": Ipv6Addr::new(0xfd00, 0x99, 0, 0, 0, 0, 0, number)}),
            _ => json!({"ip": Ipv4Addr::new(10, 99, high, low)}),
        })
        .collect();
    let patch = Patch::Merge(json!({"status": {"loadBalancer": {"ingress": ingress}}}));
    let services = Api::<Service>::namespaced(client.clone(), &service.namespace().unwrap_or_default());
    while let Err(error) = services.patch_status(&service.name_any(), &PatchParams::default(), &patch).await {
        // The Service may be gone by now; otherwise the API server is away.
        if matches!(error, kube::Error::Api(_)) {
            break;
        }
        tokio::time::sleep(RETRY_AFTER).await;
    }
}
