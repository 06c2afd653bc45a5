//! What was written to the API, counted from outside: every write that changes
//! something is one event of a watch.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::events::v1::Event;
use kube::api::{ApiResource, DynamicObject, ListParams, WatchEvent, WatchParams};
use kube::core::PartialObjectMeta;
use kube::{Api, Client, Resource, ResourceExt as _};
use sharedlb_crds::{SharedLB, SharedLBClass};
use tokio::task::JoinSet;

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
    /// A claim's own Service is created.
    OwnService,
    /// The Service that is a load balancer is applied.
    LoadBalancer,
    /// An EndpointSlice of a load balancer is applied.
    Slice,
    /// An Event is created or counted up.
    Event,
}

/// How many writes of each kind there were.
pub(crate) type Counts = BTreeMap<Write, usize>;

/// Counts for as long as it lives.
pub(crate) struct Census {
    counts: Arc<Mutex<Counts>>,
    /// They end when this is dropped.
    _watches: JoinSet<()>,
}

impl Census {
    /// Counts all writes from now on.
    pub(crate) async fn start(client: &Client) -> anyhow::Result<Self> {
        let counts = Arc::default();
        let mut watches = JoinSet::new();
        let mut count = async |kind| count(client, kind, &counts, &mut watches).await;
        let mut with_finalizer = HashSet::new();
        count(Kind::of::<SharedLB>(move |claim, new| {
            let finalized = !claim.finalizers().is_empty() && with_finalizer.insert(claim.uid());
            Some(match (new, finalized) {
                (true, _) => Write::Claim,
                (false, true) => Write::ClaimFinalizer,
                (false, false) => Write::ClaimStatus,
            })
        }))
        .await?;
        count(Kind::of::<SharedLBClass>(|_, _| Some(Write::ClassStatus))).await?;
        count(Kind::of::<Service>(|service, _| {
            Some(if in_system(service) { Write::LoadBalancer } else { Write::OwnService })
        }))
        .await?;
        // The others are Kubernetes' own work.
        count(Kind::of::<EndpointSlice>(|slice, _| in_system(slice).then_some(Write::Slice))).await?;
        count(Kind::of::<Event>(|_, _| Some(Write::Event))).await?;
        Ok(Self { counts, _watches: watches })
    }

    /// What was counted so far.
    pub(crate) fn counts(&self) -> Counts {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

type Object = PartialObjectMeta<DynamicObject>;
/// Which write an event of this object stands for; the flag says whether the
/// object is new.
type Judge = dyn FnMut(&Object, bool) -> Option<Write> + Send;

/// A kind of object, and what its events mean.
struct Kind {
    resource: ApiResource,
    write: Box<Judge>,
}

impl Kind {
    fn of<K>(write: impl FnMut(&Object, bool) -> Option<Write> + Send + 'static) -> Self
    where
        K: Resource<DynamicType = ()>,
    {
        Self { resource: ApiResource::erase::<K>(&()), write: Box::new(write) }
    }
}

fn in_system(object: &Object) -> bool {
    object.metadata.namespace.as_deref() == Some(SYSTEM)
}

/// Counts the events of one kind in a task of its own.
async fn count(
    client: &Client,
    mut kind: Kind,
    counts: &Arc<Mutex<Counts>>,
    watches: &mut JoinSet<()>,
) -> anyhow::Result<()> {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &kind.resource);
    let now = api.list_metadata(&ListParams::default().limit(1)).await?.metadata.resource_version.unwrap_or_default();
    // It lasts for as long as the API server lets a watch last, which is minutes.
    let mut events = api.watch_metadata(&WatchParams::default(), &now).await?.boxed();
    let counts = counts.clone();
    watches.spawn(async move {
        while let Some(event) = events.next().await {
            let (object, new) = match event {
                Ok(WatchEvent::Added(object)) => (object, true),
                Ok(WatchEvent::Modified(object)) => (object, false),
                Ok(WatchEvent::Deleted(_) | WatchEvent::Bookmark(_)) => continue,
                Ok(WatchEvent::Error(error)) => return eprintln!("bench: the census: {error}"),
                Err(error) => return eprintln!("bench: the census: {error}"),
            };
            if let Some(write) = (kind.write)(&object, new) {
                *counts.lock().unwrap_or_else(PoisonError::into_inner).entry(write).or_default() += 1;
            }
        }
    });
    Ok(())
}
