//! `other_class`: how long a new claim of a small class waits for its port while
//! claims of a large class are edited all the time.

use std::time::Duration;

use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use sharedlb_crds::SharedLB;
use tokio::task::{AbortHandle, JoinSet};

use crate::claims::{FEW, SmallClasses, Tenant, time_to_port};
use crate::controller::Controller;
use crate::echo::Echo;
use crate::figures::{percentile_ms, print, progress};
use crate::stage::Stage;

/// How often a claim of the large class is edited.
const EDIT_EVERY: Duration = Duration::from_millis(20);

/// Measures so many new claims of small classes, [`FEW`] of each class, while claims of
/// the large class are edited, and then the echo under the same edits without a
/// controller. The controller that is given back is another one than before.
pub(crate) async fn measure(
    stage: &Stage,
    controller: Controller,
    echo: &mut Echo,
    large: &[Tenant],
    samples: usize,
) -> anyhow::Result<Controller> {
    progress(&format!("{samples} claims of other classes, while claims of a large class are edited"));
    let classes = SmallClasses::make(stage, "side", samples.div_ceil(FEW)).await?;
    controller.until_quiet().await?;

    let edits = Edits::start(stage, large);
    let (mut ports, mut answers) = (Vec::new(), Vec::new());
    for tenant in classes.tenants(1).iter().take(samples) {
        ports.push(time_to_port(stage, tenant).await?);
    }
    controller.kill().await?;
    for _ in 0..samples {
        answers.push(echo.time_to_answer().await?);
    }
    drop(edits);
    let (port, answer) = (percentile_ms(&ports, 50), percentile_ms(&answers, 50));
    print("other_class_p50_ms", port, "ms");
    print("other_class_p99_ms", percentile_ms(&ports, 99), "ms");
    print("other_class_ratio", port / answer, "ratio");
    let controller = Controller::start(stage).await?;
    controller.until_quiet().await?;
    Ok(controller)
}

/// Edits claims for as long as it lives.
struct Edits(AbortHandle);

impl Edits {
    /// Gives the claims of these tenants another `targetPort`, one after another.
    fn start(stage: &Stage, tenants: &[Tenant]) -> Self {
        let (client, tenants) = (stage.admin.clone(), tenants.to_vec());
        let edit = async move {
            let mut ticks = tokio::time::interval(EDIT_EVERY);
            let mut edits = JoinSet::new();
            for (nth, tenant) in tenants.iter().cycle().enumerate() {
                ticks.tick().await;
                let claims: Api<SharedLB> = Api::namespaced(client.clone(), &tenant.namespace);
                let (name, target) = (tenant.name.clone(), 9000 + nth / tenants.len());
                edits.spawn(async move {
                    let patch = Patch::Merge(json!({"spec": {"ports": [{"targetPort": target}]}}));
                    claims.patch(&name, &PatchParams::default(), &patch).await
                });
                while let Some(edited) = edits.try_join_next() {
                    if let Ok(Err(error)) = edited {
                        eprintln!("bench: an edit: {error}");
                    }
                }
            }
        };
        Self(tokio::spawn(edit).abort_handle())
    }
}

impl Drop for Edits {
    fn drop(&mut self) {
        self.0.abort();
    }
}
