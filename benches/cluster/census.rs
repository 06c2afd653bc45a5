//! The writes of a part of the bench, by what they are.

use std::collections::{BTreeMap, HashSet};

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::events::v1::Event;
use kube::api::{ObjectMeta, WatchParams};
use kube::{Api, Client};
use sharedlb_crds::{SharedLB, SharedLBClass};
use sharedlb_harness::Writes;

/// Where the load balancers are.
pub(crate) const SYSTEM: &str = "sharedlb-system";

/// A kind of write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Write {
    /// A claim is created. The bench does that; all the rest is the controller.
    Claim,
    /// A claim gets its finalizer.
    ClaimFinalizer,
    /// A claim's status is patched.
    ClaimStatus,
    /// A class's status is patched.
    ClassStatus,
    /// A claim's companion Service is created.
    CompanionService,
    /// The Service that is a load balancer is applied.
    LoadBalancer,
    /// An EndpointSlice of a load balancer is applied.
    Slice,
    /// An Event is created or counted up.
    Event,
}

/// How many writes of each kind there were.
pub(crate) type Counts = BTreeMap<Write, usize>;

/// Counts all writes from now on.
pub(crate) async fn start(client: &Client) -> anyhow::Result<Writes<Write>> {
    let (all, mut writes) = (WatchParams::default(), Writes::default());
    let mut with_finalizer = HashSet::new();
    let of_claim = move |claim: &ObjectMeta, is_new| {
        let is_protected = claim.finalizers.as_ref().is_some_and(|finalizers| !finalizers.is_empty());
        let was_protected = is_protected && with_finalizer.insert(claim.uid.clone());
        Some(match (is_new, was_protected) {
            (true, _) => Write::Claim,
            (false, true) => Write::ClaimFinalizer,
            (false, false) => Write::ClaimStatus,
        })
    };
    writes.count(Api::<SharedLB>::all(client.clone()), &all, of_claim).await?;
    writes.count(Api::<SharedLBClass>::all(client.clone()), &all, |_, _| Some(Write::ClassStatus)).await?;
    let of_service =
        |service: &ObjectMeta, _| Some(if in_system(service) { Write::LoadBalancer } else { Write::CompanionService });
    writes.count(Api::<Service>::all(client.clone()), &all, of_service).await?;
    // The others are Kubernetes' own work.
    let of_slice = |slice: &ObjectMeta, _| in_system(slice).then_some(Write::Slice);
    writes.count(Api::<EndpointSlice>::all(client.clone()), &all, of_slice).await?;
    writes.count(Api::<Event>::all(client.clone()), &all, |_, _| Some(Write::Event)).await?;
    Ok(writes)
}

fn in_system(object: &ObjectMeta) -> bool {
    object.namespace.as_deref() == Some(SYSTEM)
}
