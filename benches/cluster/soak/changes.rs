//! The changes of a soak. A claim is changed again only once it has been seen to be
//! as it was asked for before.
//!
//! Of 20 changes, 16 are edits that alter the status only (the address that it has
//! is insisted on, or no longer), two are edits that alter the load balancer (the
//! target port), one is a claim that goes or comes again, and one a pod that
//! becomes ready or unready.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures::FutureExt as _;
use futures::future::LocalBoxFuture;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use sharedlb_crds::SharedLB;
use sharedlb_harness::Backend;
use sharedlb_testbed::eventually;

use crate::claims::Tenant;
use crate::sightings::Sightings;
use crate::stage::{PATIENCE, Stage};

/// One of so many claims that go and come is away.
const AWAY: usize = 4;

/// What is free to be changed, the longest first.
type Free<T> = Rc<RefCell<VecDeque<T>>>;

/// A change that is under way; what it measured, if anything.
pub(super) type Change<'a> = LocalBoxFuture<'a, anyhow::Result<Option<Sample>>>;

/// How long a change took from its request until it was seen.
pub(super) enum Sample {
    /// Of a claim, until the status was about the new spec
    Edit(Duration),
    /// A new claim, until it had its port
    Create(Duration),
}

impl Sample {
    pub(super) fn edit(&self) -> Option<Duration> {
        if let Self::Edit(took) = self { Some(*took) } else { None }
    }

    pub(super) fn create(&self) -> Option<Duration> {
        if let Self::Create(took) = self { Some(*took) } else { None }
    }
}

/// A claim that is edited.
struct Edited {
    tenant: Tenant,
    generation: i64,
    address: String,
    insists: bool,
    port: u16,
}

/// Makes changes.
pub(super) struct Changes<'a> {
    stage: &'a Stage,
    seen: Sightings<SharedLB>,
    edited: Free<Edited>,
    /// Those that go and come again
    there: Free<Tenant>,
    away: Free<Tenant>,
    come_and_go: usize,
    /// Those whose pods become ready and unready
    pods: Free<(Backend, bool)>,
    made: usize,
}

impl<'a> Changes<'a> {
    /// With all these claims, which are there and ready.
    pub(super) async fn open(stage: &'a Stage, tenants: Vec<Tenant>) -> anyhow::Result<Self> {
        let claims: Api<SharedLB> = Api::all(stage.admin.clone());
        let listed = claims.list(&ListParams::default()).await?.items;
        let addresses: HashMap<String, String> = listed
            .iter()
            .filter_map(|claim| Some((claim.name_any(), claim.status.as_ref()?.address.clone()?)))
            .collect();
        let seen = Sightings::start(claims, shown_by).await?;
        let changes = Self {
            stage,
            seen,
            edited: Free::default(),
            there: Free::default(),
            away: Free::default(),
            come_and_go: tenants.len().div_ceil(20),
            pods: Free::default(),
            made: 0,
        };
        for (number, tenant) in tenants.into_iter().enumerate() {
            match number % 20 {
                0 => changes.there.borrow_mut().push_back(tenant),
                1 => {
                    let pod = tenant.own_pod(stage).await?;
                    changes.pods.borrow_mut().push_back((pod, true));
                }
                _ => {
                    let address = addresses.get(&tenant.name).context("a claim that is ready has an address")?.clone();
                    changes.edited.borrow_mut().push_back(Edited {
                        tenant,
                        generation: 1,
                        address,
                        insists: false,
                        port: 8080,
                    });
                }
            }
        }
        Ok(changes)
    }

    /// Begins the next change; `None`: all that could be changed are still changing.
    pub(super) fn next(&mut self) -> Option<Change<'a>> {
        let number = self.made % 20;
        self.made += 1;
        match number {
            0 => self.come_or_go(),
            1 => self.flip_pod(),
            2 | 12 => self.edit(|claim| {
                claim.port = if claim.port == 8080 { 8081 } else { 8080 };
                json!({"ports": [{"targetPort": claim.port}]})
            }),
            _ => self.edit(|claim| {
                claim.insists = !claim.insists;
                json!({"address": claim.insists.then_some(&claim.address)})
            }),
        }
    }

    fn edit(&self, change: impl Fn(&mut Edited) -> Value) -> Option<Change<'a>> {
        let (edited, mut claim) = (self.edited.clone(), self.edited.borrow_mut().pop_front()?);
        let spec = change(&mut claim);
        claim.generation += 1;
        let seen = self.seen.expect(generation_of(&claim.tenant.namespace, &claim.tenant.name, claim.generation));
        let claims: Api<SharedLB> = Api::namespaced(self.stage.admin.clone(), &claim.tenant.namespace);
        let change = async move {
            let (asked, patch) = (Instant::now(), Patch::Merge(json!({ "spec": spec })));
            claims.patch(&claim.tenant.name, &PatchParams::default(), &patch).await?;
            let took = seen.wait(PATIENCE).await?.at.saturating_duration_since(asked);
            edited.borrow_mut().push_back(claim);
            Ok(Some(Sample::Edit(took)))
        };
        Some(change.boxed_local())
    }

    fn come_or_go(&self) -> Option<Change<'a>> {
        if self.away.borrow().len() * AWAY > self.come_and_go { self.come() } else { self.go() }
    }

    fn come(&self) -> Option<Change<'a>> {
        let (stage, there, tenant) = (self.stage, self.there.clone(), self.away.borrow_mut().pop_front()?);
        let port = tenant.port(stage);
        let change = async move {
            let asked = Instant::now();
            tenant.create(stage).await?;
            let took = port.wait(PATIENCE).await?.at.saturating_duration_since(asked);
            there.borrow_mut().push_back(tenant);
            Ok(Some(Sample::Create(took)))
        };
        Some(change.boxed_local())
    }

    fn go(&self) -> Option<Change<'a>> {
        let (away, tenant) = (self.away.clone(), self.there.borrow_mut().pop_front()?);
        let claims: Api<SharedLB> = Api::namespaced(self.stage.admin.clone(), &tenant.namespace);
        let change = async move {
            claims.delete(&tenant.name, &DeleteParams::default()).await?;
            let gone = eventually("a claim that was deleted to be gone", PATIENCE, async || {
                Ok(claims.get_opt(&tenant.name).await?.is_none().then_some(()))
            });
            gone.await?;
            away.borrow_mut().push_back(tenant);
            Ok(None)
        };
        Some(change.boxed_local())
    }

    fn flip_pod(&self) -> Option<Change<'a>> {
        let (pods, (pod, ready)) = (self.pods.clone(), self.pods.borrow_mut().pop_front()?);
        let change = async move {
            pod.set_ready(!ready).await?;
            pods.borrow_mut().push_back((pod, !ready));
            Ok(None)
        };
        Some(change.boxed_local())
    }
}

/// What is to be expected when the status of a claim is about this generation.
fn generation_of(namespace: &str, name: &str, generation: i64) -> String {
    format!("the status of claim {namespace}/{name} to be about generation {generation}")
}

fn shown_by(claim: &SharedLB) -> Vec<String> {
    let generation = claim.status.as_ref().and_then(|status| status.observed_generation);
    let (namespace, name) = (claim.namespace().unwrap_or_default(), claim.name_any());
    generation.map(|generation| generation_of(&namespace, &name, generation)).into_iter().collect()
}
