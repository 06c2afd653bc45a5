//! What a soak has besides its changes: tenants that make noise, and claims that
//! fail for ever.

use k8s_openapi::api::core::v1::ResourceQuota;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;
use sharedlb_crds::SharedLB;
use sharedlb_testbed::eventually;
use tokio::sync::watch;

use super::{Kind, PER_NAMESPACE, Phase};
use crate::claims::{Tenant, populate};
use crate::stage::{PATIENCE, Stage};

/// Where no Service may be made.
const REFUSED: &str = "soak-refused";
/// Where the noise is.
const NOISY: &str = "soak-noisy";
/// How many claims fail.
const FAILING: usize = 5;

/// Those that trouble the others.
pub(super) struct Trouble<'a> {
    stage: &'a Stage,
    failing: Vec<Tenant>,
    noisy: Vec<Tenant>,
}

impl<'a> Trouble<'a> {
    /// Makes their namespaces, and the claims that make noise.
    pub(super) async fn prepare(stage: &'a Stage, class: &str) -> anyhow::Result<Self> {
        for namespace in [REFUSED, NOISY] {
            stage.namespace(namespace).await?;
        }
        let quota: ResourceQuota = serde_json::from_value(json!({
            "metadata": {"name": "no-services"}, "spec": {"hard": {"services": "0"}},
        }))?;
        let quotas: Api<ResourceQuota> = Api::namespaced(stage.admin.clone(), REFUSED);
        quotas.create(&PostParams::default(), &quota).await?;
        // What is enforced is the status, and no controller of quotas runs here.
        let enforced = Patch::Merge(json!({"status": {"hard": {"services": "0"}, "used": {"services": "0"}}}));
        quotas.patch_status("no-services", &PatchParams::default(), &enforced).await?;
        let tenants = |namespace: &str, count| -> Vec<Tenant> {
            let name = |number| format!("{namespace}-{number}");
            let tenant = |number| Tenant { class: class.into(), namespace: namespace.into(), name: name(number) };
            (0..count).map(tenant).collect()
        };
        let noisy = tenants(NOISY, PER_NAMESPACE);
        populate(stage, &noisy).await?;
        Ok(Self { stage, failing: tenants(REFUSED, FAILING), noisy })
    }

    /// In each noisy slice, edits one claim, and those of a namespace in turn, as
    /// fast as they are answered. Returns how many edits that were.
    pub(super) async fn noise(&self, phases: watch::Receiver<Phase>) -> anyhow::Result<usize> {
        let (one, all) = self.noisy.split_at(1);
        let (one, all) = tokio::try_join!(self.edit(one, phases.clone()), self.edit(all, phases))?;
        Ok(one + all)
    }

    async fn edit(&self, tenants: &[Tenant], mut phases: watch::Receiver<Phase>) -> anyhow::Result<usize> {
        for (number, tenant) in tenants.iter().cycle().enumerate() {
            if is_over(&mut phases, |kind| kind == Kind::Noisy).await? {
                return Ok(number);
            }
            let port = 8081 - (number / tenants.len()) % 2;
            let patch = Patch::Merge(json!({"spec": {"ports": [{"targetPort": port}]}}));
            self.claims(tenant).patch(&tenant.name, &PatchParams::default(), &patch).await?;
        }
        Ok(0)
    }

    /// Lets the failing claims come with each failing slice, and go with it.
    pub(super) async fn failing(&self, mut phases: watch::Receiver<Phase>) -> anyhow::Result<()> {
        while !is_over(&mut phases, |kind| kind == Kind::Failing).await? {
            for tenant in &self.failing {
                let port = tenant.port(self.stage);
                tenant.create(self.stage).await?;
                port.wait(PATIENCE).await?;
            }
            is_over(&mut phases, |kind| kind != Kind::Failing).await?;
            for tenant in &self.failing {
                self.claims(tenant).delete(&tenant.name, &DeleteParams::default()).await?;
                eventually("a failing claim to be gone", PATIENCE, async || {
                    Ok(self.claims(tenant).get_opt(&tenant.name).await?.is_none().then_some(()))
                })
                .await?;
            }
        }
        Ok(())
    }

    fn claims(&self, tenant: &Tenant) -> Api<SharedLB> {
        Api::namespaced(self.stage.admin.clone(), &tenant.namespace)
    }
}

/// Waits for such a slice; whether it was over before.
async fn is_over(phases: &mut watch::Receiver<Phase>, wanted: impl Fn(Kind) -> bool) -> anyhow::Result<bool> {
    Ok(phases.wait_for(|phase| phase.is_none_or(&wanted)).await?.is_none())
}
