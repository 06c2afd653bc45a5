//! `endpoint_change`: how long a change of a claim's endpoints takes to its load
//! balancer.
//!
//! It begins where the watch shows the EndpointSlice that Kubernetes keeps for
//! the claim's Service, and ends where the same watch shows what the provider
//! applied, since that too is an EndpointSlice. Each claim has two pods, of
//! which one comes and goes, so that no verdict changes with it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Api, ResourceExt as _};
use sharedlb_harness::{Backend, next_addresses};

use crate::census::SYSTEM;
use crate::claims::Tenant;
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
        times.push(pair.change(&slices).await?);
    }
    print("endpoint_change_p50_ms", percentile_ms(&times, 50), "ms");
    print("endpoint_change_p99_ms", percentile_ms(&times, 99), "ms");
    Ok(())
}

/// The two pods of a claim.
struct Pair {
    constant: Backend,
    changing: Backend,
    both_ready: bool,
}

impl Pair {
    /// Gives a claim that has one pod a second one, and waits until its load
    /// balancer knows.
    async fn make(stage: &Stage, slices: &Sightings<EndpointSlice>, tenant: &Tenant) -> anyhow::Result<Self> {
        let (constant, (address, _)) = (tenant.own_pod(stage).await?, next_addresses());
        let both = constant.addresses.iter().copied().chain([IpAddr::from(address)]);
        let applied = slices.expect(backends(&texts(both)));
        let changing = tenant.pod(stage, &format!("{}-changing", tenant.name), address).await?;
        applied.wait(PATIENCE).await?;
        Ok(Self { constant, changing, both_ready: true })
    }

    /// Lets the changing pod come or go, and returns how long it took.
    async fn change(&mut self, slices: &Sightings<EndpointSlice>) -> anyhow::Result<Duration> {
        self.both_ready = !self.both_ready;
        let changing = self.changing.addresses.iter().filter(|_| self.both_ready);
        let ready = texts(self.constant.addresses.iter().chain(changing).copied());
        let (changed, applied) = (slices.expect(endpoints(&ready)), slices.expect(backends(&ready)));
        self.changing.set_ready(self.both_ready).await?;
        let (changed, applied) = (changed.wait(PATIENCE).await?.at, applied.wait(PATIENCE).await?.at);
        Ok(applied.saturating_duration_since(changed))
    }
}

fn texts(addresses: impl Iterator<Item = IpAddr>) -> BTreeSet<String> {
    addresses.map(|address| address.to_string()).collect()
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
