//! What a command knows of the cluster: read once, and then only looked at.
//!
//! A user may not see everything. What cannot be listed is recorded as [`Unseen`], with the
//! right to ask for, and the command goes on with the rest.

use std::fmt;

use anyhow::{Context as _, bail};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::events::v1::Event;
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sharedlb_crds::{SharedLB, SharedLBClass};
use sharedlb_kubernetes::{ObjectKey, text};

use crate::connection::Connection;

/// How many objects the API server returns at once, as for kubectl.
const PAGE: u32 = 500;

/// Where the objects of a kind are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place<'a> {
    /// In all namespaces, or without one
    Everywhere,
    /// In one namespace
    Namespace(&'a str),
}

/// What a command needs to know besides claims and classes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// The Deployment of the controller, and its Lease
    pub(crate) controller: bool,
    /// The Events about this claim
    pub(crate) events_of: Option<ObjectKey>,
}

/// What could be seen of one kind.
#[derive(Clone, Debug)]
pub(crate) struct Seen<T> {
    /// The objects
    pub(crate) items: Vec<T>,
    /// Whether these are all objects of the kind
    pub(crate) is_complete: bool,
}

impl<T> Default for Seen<T> {
    fn default() -> Self {
        Self { items: Vec::new(), is_complete: false }
    }
}

impl<'a, T> IntoIterator for &'a Seen<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.items.iter()
    }
}

/// What could not be seen, and what would help.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Unseen {
    /// What it is: `sharedlbs in all namespaces`
    pub(crate) what: String,
    /// Why it was not seen: `forbidden`
    pub(crate) why: String,
    /// What the user can do
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ask: Option<String>,
}

impl fmt::Display for Unseen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "could not see {}: {}", self.what, self.why)?;
        self.ask.iter().try_for_each(|ask| write!(f, "; {ask}"))
    }
}

/// What a command knows of the cluster.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    /// When it was read
    pub(crate) now: Timestamp,
    /// The claims: of all namespaces, or those of the user's one if only they may be listed
    pub(crate) claims: Seen<SharedLB>,
    /// The classes
    pub(crate) classes: Seen<SharedLBClass>,
    /// The Deployments of the controller
    pub(crate) deployments: Seen<Deployment>,
    /// The Leases of the controller's namespace
    pub(crate) leases: Seen<Lease>,
    /// The Events about the claim that was asked for
    pub(crate) events: Seen<Event>,
    /// What could not be seen
    pub(crate) unseen: Vec<Unseen>,
}

impl Snapshot {
    /// Reads what is wanted.
    ///
    /// # Errors
    /// If the API server cannot be reached, or fails. That something is forbidden, or that a kind
    /// is not installed, is no error.
    pub(crate) async fn read(connection: &Connection, system_namespace: &str, wanted: Wanted) -> anyhow::Result<Self> {
        let mut reader = Reader { client: &connection.client, unseen: Vec::new() };
        let classes = reader.list(Place::Everywhere, ListParams::default()).await?;
        let claims = reader.claims(&connection.namespace).await?;
        let mut snapshot = Self { now: Timestamp::now(), classes, claims, ..Self::default() };
        if wanted.controller {
            let system = Place::Namespace(system_namespace);
            let ours = ListParams::default().labels("app.kubernetes.io/name=sharedlb");
            snapshot.deployments = reader.list(system, ours).await?;
            snapshot.leases = reader.list(system, ListParams::default()).await?;
        }
        if let Some(ObjectKey { namespace, name }) = wanted.events_of {
            let about = ListParams::default().fields(&format!("regarding.kind=SharedLB,regarding.name={name}"));
            snapshot.events = reader.list(Place::Namespace(&namespace), about).await?;
        }
        snapshot.unseen = reader.unseen;
        Ok(snapshot)
    }
}

/// Lists objects, and keeps what could not be listed.
struct Reader<'a> {
    client: &'a Client,
    unseen: Vec<Unseen>,
}

impl Reader<'_> {
    /// The claims of all namespaces, or if they may not be listed, those of this one.
    async fn claims(&mut self, namespace: &str) -> anyhow::Result<Seen<SharedLB>> {
        let all = self.list(Place::Everywhere, ListParams::default()).await?;
        if all.is_complete || !all.items.is_empty() {
            return Ok(all);
        }
        let of_namespace = self.list(Place::Namespace(namespace), ListParams::default()).await?;
        Ok(Seen { is_complete: false, ..of_namespace })
    }

    /// The objects of a kind that are selected.
    async fn list<K>(&mut self, place: Place<'_>, selected: ListParams) -> anyhow::Result<Seen<K>>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned,
    {
        let resource = ApiResource::erase::<K>(&());
        let api: Api<DynamicObject> = match place {
            Place::Everywhere => Api::all_with(self.client.clone(), &resource),
            Place::Namespace(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
        };
        let mut seen = Seen { items: Vec::new(), is_complete: true };
        let mut page = selected.limit(PAGE);
        loop {
            let found = match api.list(&page).await {
                Ok(found) => found,
                Err(kube::Error::Api(status)) if matches!(status.code, 403 | 404) => {
                    self.unseen.push(unseen::<K>(place, status.code));
                    return Ok(Seen { is_complete: false, ..seen });
                }
                Err(kube::Error::Api(status)) => {
                    bail!("listing {}: {}", resource.plural, text::message(&status.message))
                }
                Err(error) => return Err(error).with_context(|| format!("listing {}", resource.plural)),
            };
            for object in found.items {
                self.add(object, &mut seen);
            }
            match found.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page.continue_token = Some(token),
                None => return Ok(seen),
            }
        }
    }

    /// Parses one object. One that cannot be parsed hides no other.
    fn add<K: Resource<DynamicType = ()> + DeserializeOwned>(&mut self, object: DynamicObject, seen: &mut Seen<K>) {
        let key =
            ObjectKey { namespace: object.namespace().unwrap_or_default().into(), name: object.name_any().into() };
        match object.try_parse() {
            Ok(parsed) => seen.items.push(parsed),
            Err(error) => {
                seen.is_complete = false;
                let what = format!("{} {key}", K::kind(&()));
                let why = format!("it cannot be parsed: {}", text::value(&error.to_string()));
                let ask = Some("use the version of this plugin that the controller has".to_owned());
                self.unseen.push(Unseen { what, why, ask });
            }
        }
    }
}

/// Why the API server does not list a kind, by the code of its answer.
fn unseen<K: Resource<DynamicType = ()>>(place: Place<'_>, code: u16) -> Unseen {
    let plural = K::plural(&());
    let what = match place {
        Place::Everywhere if plural == SharedLBClass::plural(&()) => plural.to_string(),
        Place::Everywhere => format!("{plural} in all namespaces"),
        Place::Namespace(namespace) => format!("{plural} in namespace {namespace}"),
    };
    if code == 404 {
        let ask = Some("install SharedLB, or choose another context".to_owned());
        return Unseen { what, why: "the API server does not have them".to_owned(), ask };
    }
    let ours = K::group(&()) == sharedlb_crds::GROUP;
    let role = if ours { "the ClusterRole sharedlb-view" } else { "a role that may list them" };
    let ask = match place {
        Place::Everywhere => format!("ask an administrator for {role}, bound in the whole cluster"),
        Place::Namespace(namespace) => format!("ask an administrator for {role} in namespace {namespace}"),
    };
    Unseen { what, why: "forbidden".to_owned(), ask: Some(ask) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_forbidden_names_the_role_to_ask_for() {
        assert_eq!(
            unseen::<SharedLB>(Place::Everywhere, 403).to_string(),
            "could not see sharedlbs in all namespaces: forbidden; ask an administrator for the ClusterRole \
             sharedlb-view, bound in the whole cluster"
        );
        assert_eq!(
            unseen::<Lease>(Place::Namespace("sharedlb-system"), 403).to_string(),
            "could not see leases in namespace sharedlb-system: forbidden; ask an administrator for a role that may \
             list them in namespace sharedlb-system"
        );
    }
}
