//! What a command knows of the cluster: read once, and then only looked at.
//!
//! A user may not see everything. What cannot be listed is recorded as [`Unseen`], with the
//! right to ask for, and the command goes on with the rest.

use std::fmt;

use anyhow::{Context as _, bail};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sharedlb_crds::{SharedLB, SharedLBClass};
use sharedlb_kubernetes::{ObjectKey, text};

use crate::connection::Connection;
use crate::rights::{self, Right};

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
    /// The Services
    pub(crate) services: bool,
    /// What [`Health`] has
    pub(crate) health: bool,
}

/// What could be seen of one kind.
#[derive(Clone, Debug)]
pub(crate) struct Seen<T> {
    /// The objects
    pub(crate) items: Vec<T>,
    /// Whether these are all objects of the kind
    pub(crate) is_complete: bool,
}

impl<T> Seen<T> {
    /// All objects of the kind.
    pub(crate) fn all(items: impl IntoIterator<Item = T>) -> Self {
        Self { items: items.into_iter().collect(), is_complete: true }
    }
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
    /// The Services: of all namespaces, or those of the user's one if only they may be listed
    pub(crate) services: Seen<Service>,
    /// The namespace of the controller
    pub(crate) system_namespace: String,
    /// What is around SharedLB
    pub(crate) health: Health,
    /// What could not be seen
    pub(crate) unseen: Vec<Unseen>,
}

/// What is around SharedLB, for a diagnosis.
#[derive(Clone, Debug, Default)]
pub(crate) struct Health {
    /// The version of the API server: 1.33 is `(1, 33)`
    pub(crate) server_version: Option<(u32, u32)>,
    /// The definitions of claims and classes
    pub(crate) definitions: Seen<CustomResourceDefinition>,
    /// The DaemonSets of all namespaces, of which some are kube-proxy or stand in its place
    pub(crate) daemon_sets: Seen<DaemonSet>,
    /// The configuration of kube-proxy, as kubeadm writes it
    pub(crate) proxy_configuration: Option<ConfigMap>,
    /// The Events `StatusFought` in the namespace of the controller
    pub(crate) fights: Seen<Event>,
    /// The rights that the controller needs and does not have
    pub(crate) lacking_rights: Vec<Right>,
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
        let claims = reader.list_as_far_as_allowed(&connection.namespace).await?;
        let mut snapshot = Self {
            now: Timestamp::now(),
            system_namespace: system_namespace.to_owned(),
            classes,
            claims,
            ..Self::default()
        };
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
        if wanted.services {
            snapshot.services = reader.list_as_far_as_allowed(&connection.namespace).await?;
        }
        if wanted.health {
            snapshot.health = reader.health(&snapshot).await?;
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
    /// The objects of all namespaces, or if they may not be listed, those of this one.
    async fn list_as_far_as_allowed<K>(&mut self, namespace: &str) -> anyhow::Result<Seen<K>>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned,
    {
        let all = self.list(Place::Everywhere, ListParams::default()).await?;
        if all.is_complete || !all.items.is_empty() {
            return Ok(all);
        }
        let of_namespace = self.list(Place::Namespace(namespace), ListParams::default()).await?;
        Ok(Seen { is_complete: false, ..of_namespace })
    }

    /// What is around SharedLB.
    async fn health(&mut self, snapshot: &Snapshot) -> anyhow::Result<Health> {
        let named = |name: &str| ListParams::default().fields(&format!("metadata.name={name}"));
        let system = Place::Namespace(&snapshot.system_namespace);
        let fights = ListParams::default().fields("reason=StatusFought");
        let proxy: Seen<ConfigMap> = self.list(Place::Namespace("kube-system"), named("kube-proxy")).await?;
        Ok(Health {
            server_version: self.server_version().await?,
            definitions: self.definitions().await?,
            daemon_sets: self.list(Place::Everywhere, ListParams::default()).await?,
            proxy_configuration: proxy.items.into_iter().next(),
            fights: self.list(system, fights).await?,
            lacking_rights: self.lacking_rights(snapshot).await?,
        })
    }

    /// The version of the API server, if it is one of Kubernetes.
    async fn server_version(&self) -> anyhow::Result<Option<(u32, u32)>> {
        let version = self.client.apiserver_version().await.context("asking the API server for its version")?;
        let number = |text: &str| text.trim_end_matches('+').parse().ok();
        Ok(number(&version.major).zip(number(&version.minor)))
    }

    /// The definitions of claims and classes.
    async fn definitions(&mut self) -> anyhow::Result<Seen<CustomResourceDefinition>> {
        let mut all = Seen::all([]);
        for ours in sharedlb_crds::crds() {
            let name = format!("metadata.name={}", ours.name_any());
            let found = self.list(Place::Everywhere, ListParams::default().fields(&name)).await?;
            all.is_complete &= found.is_complete;
            all.items.extend(found.items);
        }
        Ok(all)
    }

    /// The rights that the controller's service account lacks.
    async fn lacking_rights(&mut self, snapshot: &Snapshot) -> anyhow::Result<Vec<Right>> {
        let deployment = snapshot.deployments.items.first();
        let account = deployment
            .and_then(|deployment| deployment.spec.as_ref()?.template.spec.as_ref()?.service_account_name.clone());
        let Some(account) = account else { return Ok(Vec::new()) };
        let namespace = &snapshot.system_namespace;
        let user = format!("system:serviceaccount:{namespace}:{account}");
        let needed = rights::needed(&snapshot.classes.items, &snapshot.services.items, namespace);
        match rights::lacking(self.client, &user, needed).await {
            Ok(lacking) => Ok(lacking),
            Err(kube::Error::Api(status)) if status.code == 403 => {
                let ask = "ask an administrator for the right to create subjectaccessreviews".to_owned();
                let what = format!("the rights of {user}");
                self.unseen.push(Unseen { what, why: "forbidden".to_owned(), ask: Some(ask) });
                Ok(Vec::new())
            }
            Err(error) => Err(error).with_context(|| format!("asking for the rights of {user}")),
        }
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
        Place::Everywhere if is_cluster_scoped(&plural) => plural.to_string(),
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

/// Whether objects of this kind, among those that are read, have no namespace.
fn is_cluster_scoped(plural: &str) -> bool {
    plural == SharedLBClass::plural(&()) || plural == CustomResourceDefinition::plural(&())
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
