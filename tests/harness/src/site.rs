//! A test's own place: a namespace, and a class of the same name.

use std::sync::Arc;

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::events::v1::Event;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use sharedlb_crds::{ConditionType, Reason, SharedLB, SharedLBClass};
use sharedlb_testbed::{Cluster, eventually};

use crate::pods::Backend;
use crate::{LIMIT, Slot, condition, slots};

/// What every pod of [`Site::pod`] listens on.
const POD_PORTS: [(&str, u16, &str); 2] = [("http", 8080, "TCP"), ("dns", 5353, "UDP")];

/// A namespace, and the class that its claims use.
#[derive(Clone)]
pub struct Site {
    /// The cluster that it is in
    pub cluster: Arc<Cluster>,
    /// The name of the namespace
    pub namespace: String,
    /// The name of the class
    pub class: String,
    /// The claims of the namespace
    pub claims: Api<SharedLB>,
    /// All classes
    pub classes: Api<SharedLBClass>,
}

/// A claim of the same class, as it was when it was ready.
pub struct Neighbour(SharedLB);

impl Site {
    /// Makes a namespace and a class of this name. What `spec` does not say
    /// about the class is the default, but for the Services' node ports: there
    /// are too few of those for many tests at once.
    pub async fn open(cluster: &Arc<Cluster>, name: &str, spec: Value) -> anyhow::Result<Self> {
        let site = Self::in_class(cluster, name, name).await?;
        site.create_class(spec).await?;
        Ok(site)
    }

    /// The same with a pod labelled `app: web` that can take traffic.
    pub async fn with_pod(cluster: &Arc<Cluster>, name: &str, spec: Value) -> anyhow::Result<Self> {
        let site = Self::open(cluster, name, spec).await?;
        site.pod("web-0", "web").await?;
        Ok(site)
    }

    /// Makes a namespace only, for claims of a class that may exist or not.
    pub async fn in_class(cluster: &Arc<Cluster>, name: &str, class: &str) -> anyhow::Result<Self> {
        let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": name}}))?;
        let namespaces = Api::<Namespace>::all(cluster.admin());
        namespaces.create(&PostParams::default(), &namespace).await.with_context(|| format!("making {name}"))?;
        Ok(Self {
            cluster: cluster.clone(),
            namespace: name.to_owned(),
            class: class.to_owned(),
            claims: Api::namespaced(cluster.admin(), name),
            classes: Api::all(cluster.admin()),
        })
    }

    /// Another namespace whose claims use this class, with a pod labelled
    /// `app: web`.
    pub async fn other_namespace(&self, name: &str) -> anyhow::Result<Self> {
        let site = Self::in_class(&self.cluster, name, &self.class).await?;
        site.pod("web-0", "web").await?;
        Ok(site)
    }

    /// A pod that can take traffic on the ports `http` (8080/TCP) and `dns`
    /// (5353/UDP).
    pub async fn pod(&self, name: &str, app: &str) -> anyhow::Result<Backend> {
        Backend::create(self.cluster.admin(), &self.namespace, (name, app), &POD_PORTS).await
    }

    /// Creates a claim on the pods labelled `app: web` with these ports.
    pub async fn claim(&self, name: &str, ports: Value) -> anyhow::Result<SharedLB> {
        self.claim_with(name, json!({"selector": {"app": "web"}, "ports": ports})).await
    }

    /// Creates a claim with this spec, of this site's class unless the spec
    /// names another.
    pub async fn claim_with(&self, name: &str, spec: Value) -> anyhow::Result<SharedLB> {
        let mut full = json!({"className": self.class});
        merge(&mut full, spec);
        self.claim_as(name, full).await
    }

    /// Creates a claim with exactly this spec.
    pub async fn claim_as(&self, name: &str, spec: Value) -> anyhow::Result<SharedLB> {
        let claim: SharedLB = serde_json::from_value(json!({
            "apiVersion": "sharedlb.dev/v1alpha1",
            "kind": "SharedLB",
            "metadata": {"name": name},
            "spec": spec,
        }))?;
        let created = self.claims.create(&PostParams::default(), &claim).await;
        created.with_context(|| format!("making claim {}/{name}", self.namespace))
    }

    /// Creates a claim with one TCP port of no certain number, and returns it
    /// when it is ready.
    pub async fn assigned(&self, name: &str) -> anyhow::Result<SharedLB> {
        self.claim(name, json!([{"targetPort": "http"}])).await?;
        self.ready(name).await
    }

    /// Changes a claim by a merge patch.
    pub async fn change(&self, name: &str, patch: Value) -> anyhow::Result<()> {
        self.claims.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }

    /// Changes a claim's status by a merge patch, which only an administrator
    /// may do.
    pub async fn tamper(&self, name: &str, status: Value) -> anyhow::Result<()> {
        let patch = Patch::Merge(json!({ "status": status }));
        self.claims.patch_status(name, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    /// Deletes a claim and waits until it is gone; another of that name may have its
    /// place at once.
    pub async fn delete(&self, name: &str) -> anyhow::Result<()> {
        let uid = self.claims.get(name).await?.uid();
        self.claims.delete(name, &DeleteParams::default()).await?;
        let what = format!("the deleted claim {}/{name} to be gone", self.namespace);
        eventually(&what, LIMIT, async || {
            let now = self.claims.get_opt(name).await?;
            Ok(now.is_none_or(|now| now.uid() != uid).then_some(()))
        })
        .await
    }

    /// Waits until there is no claim of that name.
    pub async fn gone(&self, name: &str) -> anyhow::Result<()> {
        let what = format!("claim {}/{name} to be gone", self.namespace);
        eventually(&what, LIMIT, async || Ok(self.claims.get_opt(name).await?.is_none().then_some(()))).await
    }

    /// Waits until the controller says this of the claim as it is now.
    pub async fn verdict(
        &self,
        name: &str,
        kind: ConditionType,
        (status, reason): (&str, Reason),
    ) -> anyhow::Result<()> {
        self.verdict_with(name, kind, (status, reason), &[]).await
    }

    /// Waits until the controller says this of the claim as it is now, with
    /// all these words in the message.
    pub async fn verdict_with(
        &self,
        name: &str,
        kind: ConditionType,
        (status, reason): (&str, Reason),
        words: &[&str],
    ) -> anyhow::Result<()> {
        let what = format!("claim {}/{name} to be {kind}={status} ({reason}) {words:?}", self.namespace);
        eventually(&what, LIMIT, async || {
            let claim = self.claims.get(name).await?;
            let found = condition(&claim, kind).with_context(|| format!("nothing about it in {:?}", claim.status))?;
            let current = found.observed_generation == claim.metadata.generation;
            let as_said = found.status == status && found.reason == reason.as_str();
            let has_words = words.iter().all(|words| found.message.contains(words));
            ensure!(current && as_said && has_words, "generation {:?}, {:?}", claim.metadata.generation, claim.status);
            Ok(Some(()))
        })
        .await
    }

    /// Waits until the claim is ready as it is now.
    pub async fn ready(&self, name: &str) -> anyhow::Result<SharedLB> {
        for (kind, reason) in [
            (ConditionType::Ready, Reason::Ready),
            (ConditionType::Programmed, Reason::Programmed),
            (ConditionType::Allocated, Reason::Allocated),
        ] {
            self.verdict(name, kind, ("True", reason)).await?;
        }
        Ok(self.claims.get(name).await?)
    }

    /// Waits until the claim is refused for this reason, and requires that
    /// it is reported: in the conditions, with this message, and by an Event.
    pub async fn refused(&self, name: &str, reason: Reason, words: &[&str]) -> anyhow::Result<()> {
        self.verdict_with(name, ConditionType::Allocated, ("False", reason), words).await?;
        self.verdict_with(name, ConditionType::Ready, ("False", reason), words).await?;
        self.event(name, reason.as_str()).await.map(drop)
    }

    /// Waits until the claim has its ports and nobody to send traffic to, and
    /// requires that the user is told so.
    pub async fn without_backends(&self, name: &str, words: &[&str]) -> anyhow::Result<()> {
        self.has_no_backends(name, words).await?;
        self.event(name, Reason::NoBackends.as_str()).await.map(drop)
    }

    /// The same for the claim of a source, which publishes Events elsewhere.
    pub async fn has_no_backends(&self, name: &str, words: &[&str]) -> anyhow::Result<()> {
        self.verdict(name, ConditionType::Allocated, ("True", Reason::Allocated)).await?;
        self.verdict_with(name, ConditionType::Ready, ("False", Reason::NoBackends), words).await.map(drop)
    }

    /// Waits for an Event about a claim, and returns what it says.
    pub async fn event(&self, claim: &str, reason: &str) -> anyhow::Result<String> {
        let what = format!("an Event {reason} about claim {}/{claim}", self.namespace);
        eventually(&what, LIMIT, async || {
            let events = self.events(claim).await?;
            let found = events.iter().find(|event| event.reason.as_deref() == Some(reason));
            let others: Vec<_> = events.iter().filter_map(|event| event.reason.clone()).collect();
            Ok(Some(found.with_context(|| format!("there are {others:?}"))?.note.clone().unwrap_or_default()))
        })
        .await
    }

    /// All Events about a claim.
    pub async fn events(&self, claim: &str) -> anyhow::Result<Vec<Event>> {
        let events = Api::<Event>::namespaced(self.cluster.admin(), &self.namespace);
        let about = ListParams::default().fields(&format!("regarding.kind=SharedLB,regarding.name={claim}"));
        Ok(events.list(&about).await?.items)
    }

    /// A claim that has its port and is ready.
    pub async fn neighbour(&self) -> anyhow::Result<Neighbour> {
        Ok(Neighbour(self.assigned("neighbour").await?))
    }

    /// Requires that nothing at all was written into the neighbour since, and
    /// so that it is still ready with the same port.
    pub async fn undisturbed(&self, neighbour: &Neighbour) -> anyhow::Result<()> {
        let before = &neighbour.0;
        let now = self.claims.get(&before.name_any()).await?;
        ensure!(now.uid() == before.uid(), "the neighbour is another one");
        ensure!(
            now.resource_version() == before.resource_version(),
            "the neighbour was disturbed: it had\n{:?}\nand has\n{:?}",
            before.status,
            now.status
        );
        Ok(())
    }
}

impl Neighbour {
    /// What it holds.
    pub fn slot(&self) -> Slot {
        slots(&self.0).into_values().next().expect("it was ready, so it has a port")
    }

    /// The claim as it was.
    pub fn claim(&self) -> &SharedLB {
        &self.0
    }
}

/// Puts the fields of one object into another.
pub fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}
