//! A bare client: makes a number of writes, and nothing else.
//!
//! Its objects have the shape of those that the controller made, are written by
//! the same kinds of requests, and are in a namespace of their own. While it
//! runs there must be no controller, and it leaves nothing behind.

use std::time::{Duration, Instant};

use anyhow::Context;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::events::v1::Event;
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource};
use serde_json::{Value, json};
use sharedlb_crds::{CLAIM_LABEL, LOAD_BALANCER_LABEL, SharedLB, SharedLBClass};
use sharedlb_testbed::eventually;

use crate::census::{Counts, SYSTEM, Write};
use crate::claims::Tenant;
use crate::stage::CONNECTIONS;

/// The namespace, and how everything in it is named.
const BARE: &str = "bare";

/// How long the namespace may take to go.
const LIMIT: Duration = Duration::from_secs(180);

/// How long so many writes take, by so many connections. What there is of this
/// tenant and its class is the pattern of what is written.
pub(crate) async fn time_of(client: &Client, writes: &Counts, tenant: &Tenant) -> anyhow::Result<Duration> {
    let count = |write| writes.get(&write).copied().unwrap_or(0);
    let is_there_before = count(Write::Claim) == 0;
    let claims = if is_there_before { count(Write::ClaimStatus).max(1) } else { count(Write::Claim) };
    let bare = Bare::prepare(client, tenant, claims).await?;
    if is_there_before {
        bare.write(&Counts::from([(Write::Claim, claims)])).await?;
    }
    // The others are about the claims, which have to be there.
    let (claims, others) = writes.iter().partition::<Counts, _>(|(write, _)| **write == Write::Claim);
    let started = Instant::now();
    bare.write(&claims).await?;
    bare.write(&others).await?;
    let took = started.elapsed();
    bare.clean_up().await?;
    Ok(took)
}

/// One object of each kind, to write more of.
struct Bare {
    /// How many claims there are to patch the status of
    claims: usize,
    claim: Pattern,
    class: Pattern,
    companion: Pattern,
    load_balancer: Pattern,
    slice: Pattern,
    event: Pattern,
    namespaces: Api<Namespace>,
}

impl Bare {
    async fn prepare(client: &Client, tenant: &Tenant, claims: usize) -> anyhow::Result<Self> {
        let all = ListParams::default();
        let named = |name: &str| all.clone().fields(&format!("metadata.name={name}"));
        let (system, there) = (Some(SYSTEM), Some(tenant.namespace.as_str()));
        let bare = Self {
            claims,
            claim: Pattern::largest::<SharedLB>(client, there, &named(&tenant.name)).await?,
            class: Pattern::largest::<SharedLBClass>(client, None, &named(&tenant.class)).await?,
            companion: Pattern::largest::<Service>(client, there, &all.clone().labels(CLAIM_LABEL)).await?,
            load_balancer: Pattern::largest::<Service>(client, system, &all.clone().labels(LOAD_BALANCER_LABEL))
                .await?,
            slice: Pattern::largest::<EndpointSlice>(client, system, &all.clone().labels(LOAD_BALANCER_LABEL)).await?,
            event: Pattern::largest::<Event>(client, there, &all).await?,
            namespaces: Api::all(client.clone()),
        };
        let metadata = ObjectMeta { name: Some(BARE.into()), ..ObjectMeta::default() };
        bare.namespaces.create(&PostParams::default(), &Namespace { metadata, ..Namespace::default() }).await?;
        bare.class.create(BARE).await?;
        Ok(bare)
    }

    /// Makes all these writes by [`CONNECTIONS`], those to one object one after
    /// another.
    async fn write(&self, counts: &Counts) -> anyhow::Result<()> {
        let (to_one, to_many): (Vec<_>, Vec<_>) =
            counts.iter().partition(|(write, _)| matches!(write, Write::ClassStatus | Write::LoadBalancer));
        let mut chains: Vec<Vec<(Write, usize)>> =
            to_one.into_iter().map(|(write, count)| (0..*count).map(|number| (*write, number)).collect()).collect();
        let longest = to_many.iter().map(|(_, count)| **count).max().unwrap_or(0);
        chains.extend((0..longest).map(|number| {
            to_many.iter().filter(|(_, count)| number < **count).map(|(write, _)| (**write, number)).collect()
        }));
        let write_chain = async |chain: Vec<(Write, usize)>| {
            for (write, number) in chain {
                self.write_one(write, number).await.with_context(|| format!("{write:?} number {number}"))?;
            }
            anyhow::Ok(())
        };
        stream::iter(chains).map(write_chain).buffer_unordered(CONNECTIONS).try_collect().await
    }

    async fn write_one(&self, write: Write, number: usize) -> anyhow::Result<()> {
        let name = format!("{BARE}-{number}");
        let claim = format!("{BARE}-{}", number % self.claims);
        match write {
            Write::Claim => self.claim.create(&name).await,
            Write::ClaimFinalizer => self.claim.annotate(&claim, number).await,
            Write::ClaimStatus => self.claim.replace_status(&claim, number).await,
            Write::ClassStatus => self.class.replace_status(BARE, number).await,
            Write::CompanionService => self.companion.create(&name).await,
            Write::LoadBalancer => self.load_balancer.apply(BARE, number).await,
            Write::Slice => self.slice.apply(&name, number).await,
            Write::Event => self.event.create(&name).await,
        }
    }

    async fn clean_up(&self) -> anyhow::Result<()> {
        self.class.api.delete(BARE, &DeleteParams::default()).await?;
        self.namespaces.delete(BARE, &DeleteParams::default()).await?;
        eventually("the bare client's namespace to go", LIMIT, async || {
            Ok(self.namespaces.get_opt(BARE).await?.is_none().then_some(()))
        })
        .await
    }
}

/// An object of a kind, and where to write more of its kind.
struct Pattern {
    api: Api<DynamicObject>,
    resource: ApiResource,
    object: DynamicObject,
}

impl Pattern {
    /// The largest of these objects.
    async fn largest<K>(client: &Client, namespace: Option<&str>, which: &ListParams) -> anyhow::Result<Self>
    where
        K: Resource<DynamicType = ()>,
    {
        let resource = ApiResource::erase::<K>(&());
        let api = |namespace: Option<&str>| match namespace {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
            None => Api::all_with(client.clone(), &resource),
        };
        let listed: Vec<DynamicObject> = api(namespace).list(which).await?.items;
        let largest = listed.into_iter().max_by_key(|object| object.data.to_string().len());
        let mut object = largest.with_context(|| format!("there is no {} to take as a pattern", resource.kind))?;
        strip(&mut object.data);
        Ok(Self { api: api(namespace.map(|_| BARE)), object, resource })
    }

    /// Another one of its kind.
    fn named(&self, name: &str) -> DynamicObject {
        let metadata = ObjectMeta {
            name: Some(name.into()),
            labels: self.object.metadata.labels.clone(),
            annotations: self.object.metadata.annotations.clone(),
            ..ObjectMeta::default()
        };
        DynamicObject { metadata, data: self.object.data.clone(), ..DynamicObject::new(name, &self.resource) }
    }

    async fn create(&self, name: &str) -> anyhow::Result<()> {
        self.api.create(&PostParams::default(), &self.named(name)).await?;
        Ok(())
    }

    /// Applies all but the status, each time with another annotation.
    async fn apply(&self, name: &str, number: usize) -> anyhow::Result<()> {
        let mut object = self.named(name);
        if let Some(fields) = object.data.as_object_mut() {
            fields.remove("status");
        }
        object.metadata.annotations.get_or_insert_default().insert(BARE.into(), number.to_string());
        self.api.patch(name, &PatchParams::apply(BARE).force(), &Patch::Apply(object)).await?;
        Ok(())
    }

    /// Adds an annotation, which costs what a finalizer costs and holds up
    /// nothing.
    async fn annotate(&self, name: &str, number: usize) -> anyhow::Result<()> {
        let patch = json!({"metadata": {"annotations": {BARE: number.to_string()}}});
        self.api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }

    /// Replaces the status as a whole, each time with another generation.
    async fn replace_status(&self, name: &str, number: usize) -> anyhow::Result<()> {
        let mut status = self.object.data.get("status").cloned().unwrap_or(json!({}));
        status["observedGeneration"] = json!(number + 1);
        let patch = serde_json::from_value(json!([{"op": "add", "path": "/status", "value": status}]))?;
        self.api.patch_status(name, &PatchParams::default(), &Patch::Json::<()>(patch)).await?;
        Ok(())
    }
}

/// Takes away what belongs to one object alone, and puts an Event where the
/// others are. Of a load balancer's ports it leaves half: as many as it has on
/// average while it fills.
fn strip(data: &mut Value) {
    let fields = data.pointer_mut("/spec").and_then(Value::as_object_mut);
    if let Some(spec) = fields.filter(|spec| spec.get("type") == Some(&json!("LoadBalancer"))) {
        spec.remove("clusterIP");
        spec.remove("clusterIPs");
        if let Some(ports) = spec.get_mut("ports").and_then(Value::as_array_mut) {
            ports.truncate(ports.len().div_ceil(2));
        }
    }
    if let Some(namespace) = data.pointer_mut("/regarding/namespace") {
        *namespace = json!(BARE);
    }
}
