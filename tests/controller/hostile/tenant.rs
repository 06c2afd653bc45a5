//! A tenant with the rights of an editor in one namespace, and a victim.

use std::fmt::Debug;

use anyhow::{Context, bail, ensure};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::rbac::v1::Role;
use kube::api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sharedlb_crds::SharedLB;
use sharedlb_harness::{Neighbour, Site, World, bind, editor, merge};

/// A tenant in a namespace of their own, and a victim of the same class in
/// another.
pub(crate) struct Tenant {
    /// What the tenant does in their own namespace, with their own rights
    pub(crate) site: Site,
    pub(crate) victim: Site,
    pub(crate) client: Client,
    neighbour: Neighbour,
}

impl Tenant {
    /// A tenant in the namespace `<name>`, and a victim in `victim-of-<name>` that
    /// has a claim `neighbour`, both of the class `<name>`. Each has a pod
    /// labelled `app: web`.
    pub(crate) async fn open(world: &World, name: &str, class: Value) -> anyhow::Result<Self> {
        let site = Site::with_pod(&world.cluster, name, class).await?;
        let victim = site.other_namespace(&format!("victim-of-{name}")).await?;
        let neighbour = victim.neighbour().await?;
        let client = editor(&world.cluster, name).await?;
        let claims = Api::<SharedLB>::namespaced(client.clone(), name);
        Ok(Self { site: Site { claims, ..site }, victim, client, neighbour })
    }

    /// Gives the tenant one more right in their own namespace.
    pub(crate) async fn may_besides(&self, groups: &[&str], resource: &str, verbs: &[&str]) -> anyhow::Result<()> {
        let (admin, namespace) = (self.site.cluster.admin(), &self.site.namespace);
        let role = json!({
            "metadata": {"name": resource},
            "rules": [{"apiGroups": groups, "resources": [resource], "verbs": verbs}],
        });
        create::<Role>(&Api::namespaced(admin.clone(), namespace), role).await?;
        bind(&admin, namespace, "Role", resource).await
    }

    /// The number that the victim's claim has.
    pub(crate) fn victims_port(&self) -> u16 {
        self.neighbour.slot().2
    }

    /// Requires that nothing at all was written to the victim's claim, that its
    /// port leads to the victim's pods, and to nobody else's.
    pub(crate) async fn victim_is_safe(&self) -> anyhow::Result<()> {
        self.victim.undisturbed(&self.neighbour).await?;
        for slice in self.victim.front_slices(self.victims_port()).await? {
            for endpoint in slice.endpoints {
                let namespace = endpoint.target_ref.and_then(|target| target.namespace);
                ensure!(namespace.as_ref() == Some(&self.victim.namespace), "the victim's port leads to {namespace:?}");
            }
        }
        Ok(())
    }

    /// Objects of one kind in the tenant's namespace, with the tenant's rights.
    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.site.namespace)
    }

    /// The tenant's claims as whatever they are.
    pub(crate) fn raw_claims(&self) -> Api<DynamicObject> {
        let kind = ApiResource::erase::<SharedLB>(&());
        Api::namespaced_with(self.client.clone(), &self.site.namespace, &kind)
    }

    /// Creates a claim with this metadata, status and whatever else, on the
    /// tenant's pods, with one port.
    pub(crate) async fn forged(&self, name: &str, port: Value, forged: Value) -> anyhow::Result<DynamicObject> {
        let mut claim = json!({
            "apiVersion": "sharedlb.dev/v1alpha1", "kind": "SharedLB", "metadata": {"name": name},
            "spec": {"className": self.site.class, "selector": {"app": "web"}, "ports": [port]},
        });
        merge(&mut claim, forged);
        create(&self.raw_claims(), claim).await
    }

    /// Creates a Service on the tenant's pods with this spec.
    pub(crate) async fn service(&self, name: &str, spec: Value) -> anyhow::Result<Service> {
        create(&self.api(), json!({"metadata": {"name": name}, "spec": spec})).await
    }

    /// Everything that the tenant can read in their own namespace of what the
    /// controller said: the text of all claims, Services and Events.
    pub(crate) async fn all_that_was_said(&self) -> anyhow::Result<String> {
        let all = ListParams::default();
        let claims = self.raw_claims().list(&all).await?.items;
        let services = self.api::<Service>().list(&all).await?.items;
        let events = self.api::<Event>().list(&all).await?.items;
        Ok(format!(
            "{}{}{}",
            serde_json::to_string(&claims)?,
            serde_json::to_string(&services)?,
            serde_json::to_string(&events)?
        ))
    }
}

/// Creates an object of whatever is written there.
pub(crate) async fn create<K>(api: &Api<K>, object: Value) -> anyhow::Result<K>
where
    K: Clone + Debug + serde::Serialize + DeserializeOwned,
{
    let object: K = serde_json::from_value(object)?;
    Ok(api.create(&PostParams::default(), &object).await?)
}

/// Changes an object by a merge patch.
pub(crate) async fn change<K: Clone + Debug + DeserializeOwned>(
    api: &Api<K>,
    name: &str,
    patch: Value,
) -> anyhow::Result<K> {
    Ok(api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?)
}

/// Requires that the API server did not let the tenant do this.
pub(crate) fn forbidden<T>(what: &str, result: anyhow::Result<T>) -> anyhow::Result<()> {
    refused(what, result, 403)
}

/// Requires that the API server did not take this.
pub(crate) fn invalid<T>(what: &str, result: anyhow::Result<T>) -> anyhow::Result<()> {
    refused(what, result, 422)
}

fn refused<T>(what: &str, result: anyhow::Result<T>, code: u16) -> anyhow::Result<()> {
    match result {
        Ok(_) => bail!("the tenant could {what}"),
        Err(error) => match error.downcast_ref::<kube::Error>() {
            Some(kube::Error::Api(status)) if status.code == code => Ok(()),
            _ => Err(error).with_context(|| format!("{what}: something else went wrong")),
        },
    }
}
