//! `endpoint_change`: how long a change of a claim's endpoints takes to its load
//! balancer.
//!
//! It begins where the watch shows the EndpointSlice that Kubernetes keeps for
//! the claim's Service, and ends where the same watch shows what the provider
//! was told, since that too is an EndpointSlice. Each claim has two pods, of
//! which one comes and goes, so that no verdict changes with it.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Api, ResourceExt as _};

use crate::census::SYSTEM;
use crate::claims::{Tenant, next_address};
use crate::figures::{percentile_ms, print, progress};
use crate::sightings::Sightings;
use crate::stage::{PATIENCE, Stage};

/// Measures so many changes, of these claims in turn.
pub(crate) async fn measure(stage: &Stage, tenants: &[Tenant], samples: usize) -> anyhow::Result<()> {
    progress(&format!("{samples} changes of endpoints"));
    let slices = Sightings::start(Api::all(stage.admin.clone()), shown_by).await?;
    let mut pairs = Vec::new();
    for tenant in tenants {
        pairs.push(Pair::make(stage, &slices, tenant).await?);
    }
    let mut times = Vec::new();
    for sample in 0..samples {
        let pair = pairs.get_mut(sample % tenants.len()).context("a claim to change")?;
        times.push(pair.change(stage, &slices).await?);
    }
    print("endpoint_change_p50_ms", percentile_ms(&times, 50), "ms");
    print("endpoint_change_p99_ms", percentile_ms(&times, 99), "ms");
    Ok(())
}

/// The two pods of a claim.
struct Pair<'a> {
    tenant: &'a Tenant,
    constant: Ipv4Addr,
    changing: Ipv4Addr,
    changing_name: String,
    both_ready: bool,
}

impl<'a> Pair<'a> {
    /// Gives a claim that has one pod a second one, and waits until its load
    /// balancer knows.
    async fn make(stage: &Stage, slices: &Sightings<EndpointSlice>, tenant: &'a Tenant) -> anyhow::Result<Self> {
        let pods: Api<Pod> = Api::namespaced(stage.admin.clone(), &tenant.namespace);
        let status = pods.get(&tenant.name).await?.status.unwrap_or_default();
        let constant = status.pod_ip.context("the pod has an address")?.parse()?;
        let pair = Self {
            tenant,
            constant,
            changing: next_address(),
            changing_name: format!("{}-changing", tenant.name),
            both_ready: true,
        };
        let told = slices.expect(backends(&pair.ready()));
        tenant.pod(stage, &pair.changing_name, pair.changing).await?;
        told.wait(PATIENCE).await?;
        Ok(pair)
    }

    /// The addresses of the pods that are ready.
    fn ready(&self) -> BTreeSet<String> {
        let addresses = std::iter::once(self.constant).chain(self.both_ready.then_some(self.changing));
        addresses.map(|address| address.to_string()).collect()
    }

    /// Lets the changing pod come or go, and tells how long it took.
    async fn change(&mut self, stage: &Stage, slices: &Sightings<EndpointSlice>) -> anyhow::Result<Duration> {
        self.both_ready = !self.both_ready;
        let ready = self.ready();
        let (changed, told) = (slices.expect(endpoints(&ready)), slices.expect(backends(&ready)));
        self.tenant.set_pod_ready(stage, &self.changing_name, self.changing, self.both_ready).await?;
        let (changed, told) = (changed.wait(PATIENCE).await?.at, told.wait(PATIENCE).await?.at);
        Ok(told.saturating_duration_since(changed))
    }
}

fn endpoints(ready: &BTreeSet<String>) -> String {
    format!("Kubernetes' EndpointSlice with {ready:?}")
}

fn backends(ready: &BTreeSet<String>) -> String {
    format!("the load balancer's EndpointSlice with {ready:?}")
}

fn shown_by(slice: &EndpointSlice) -> Vec<String> {
    let is_ready = |ready: Option<bool>| ready.unwrap_or(true);
    let ready = slice
        .endpoints
        .iter()
        .filter(|each| is_ready(each.conditions.as_ref().and_then(|conditions| conditions.ready)));
    let ready: BTreeSet<String> = ready.flat_map(|each| each.addresses.iter().cloned()).collect();
    let of_ours = slice.namespace().as_deref() == Some(SYSTEM);
    vec![if of_ours { backends(&ready) } else { endpoints(&ready) }]
}
