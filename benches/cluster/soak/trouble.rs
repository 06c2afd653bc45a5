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
/// Where the claims are that share the same load: so many namespaces, so many in all.
const SPREAD: (&str, usize, usize) = ("soak-spread", 20, 400);
/// How many claims fail.
const FAILING: usize = 5;

/// Those that trouble the others.
pub(super) struct Trouble<'a> {
    stage: &'a Stage,
    failing: Vec<Tenant>,
    noisy: Vec<Tenant>,
    spread: Vec<Tenant>,
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
        let (name, namespaces, count) = SPREAD;
        let mut spread = Vec::with_capacity(count);
        for number in 0..namespaces {
            let namespace = format!("{name}-{number}");
            stage.namespace(&namespace).await?;
            spread.extend(tenants(&namespace, count / namespaces));
        }
        populate(stage, &noisy).await?;
        populate(stage, &spread).await?;
        Ok(Self { stage, failing: tenants(REFUSED, FAILING), noisy, spread })
    }

    /// In each noisy slice, edits one claim, and those of a namespace in turn, as
    /// fast as they are answered. Returns how many edits that were.
    pub(super) async fn noise(&self, phases: watch::Receiver<Phase>) -> anyhow::Result<usize> {
        let (one, all) = self.noisy.split_at(1);
        let edits = tokio::try_join!(self.edit(one, Kind::Noisy, phases.clone()), self.edit(all, Kind::Noisy, phases))?;
        Ok(edits.0 + edits.1)
    }

    /// The same in each spread slice, with the edits of two halves of many claims.
    pub(super) async fn spread(&self, phases: watch::Receiver<Phase>) -> anyhow::Result<usize> {
        let (one, other) = self.spread.split_at(self.spread.len() / 2);
        let edits =
            tokio::try_join!(self.edit(one, Kind::Spread, phases.clone()), self.edit(other, Kind::Spread, phases))?;
        Ok(edits.0 + edits.1)
    }

    async fn edit(
        &self,
        tenants: &[Tenant],
        during: Kind,
        mut phases: watch::Receiver<Phase>,
    ) -> anyhow::Result<usize> {
        for (number, tenant) in tenants.iter().cycle().enumerate() {
            if is_over(&mut phases, |kind| kind == during).await? {
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
