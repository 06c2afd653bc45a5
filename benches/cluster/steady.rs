//! `restart`, `rss` and `idle`: what it costs to have many claims of which none
//! changes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::events::v1::Event;
use kube::api::{DynamicObject, ListParams};
use kube::core::ApiResource;
use kube::{Api, Client, ResourceExt as _};
use sharedlb_crds::{SharedLB, SharedLBClass};

use crate::controller::Controller;
use crate::figures::{percentile_ms, print, progress};
use crate::stage::Stage;

/// How often it is restarted.
const RESTARTS: usize = 5;

/// Measures the controller that has seen all claims come; then one that is
/// started with all of them there; then one that has nothing to do.
pub(crate) async fn measure(stage: &Stage, controller: Controller, idle: Duration) -> anyhow::Result<Controller> {
    controller.until_quiet().await?;
    print("rss_mb", controller.rss_mb()?, "MB");
    let controller = restart(stage, controller).await?;
    print("rss_after_restart_mb", controller.rss_mb()?, "MB");
    measure_idle(stage, &controller, idle).await?;
    Ok(controller)
}

/// What is written is counted twice: as the controller's metrics say, and by the
/// versions of all objects. The larger number is reported.
async fn restart(stage: &Stage, mut controller: Controller) -> anyhow::Result<Controller> {
    progress(&format!("{RESTARTS} restarts"));
    let before = versions(&stage.admin).await?;
    let (mut times, mut writes) = (Vec::new(), 0.0);
    for _ in 0..RESTARTS {
        controller.kill().await?;
        controller = Controller::start(stage).await?;
        times.push(controller.ready_after);
        controller.until_quiet().await?;
        let metrics = controller.metrics().await?;
        writes += metrics.writes() + metrics.provider_changes();
    }
    let changed = changed(&before, &versions(&stage.admin).await?);
    controller.kill().await?;
    let bare = bare_lists(&stage.admin).await?;
    controller = Controller::start(stage).await?;
    controller.until_quiet().await?;
    print("restart_ms", percentile_ms(&times, 50), "ms");
    print("restart_ratio", percentile_ms(&times, 50) / percentile_ms(&bare, 50), "ratio");
    print("restart_writes", f64::max(writes, changed), "writes");
    Ok(controller)
}

/// How long a bare client takes to list the kinds that the controller watches, all of
/// them at once, as often as the controller was restarted.
async fn bare_lists(client: &Client) -> anyhow::Result<Vec<Duration>> {
    let mut times = Vec::new();
    for _ in 0..RESTARTS {
        let started = Instant::now();
        tokio::try_join!(
            list(client, ApiResource::erase::<SharedLB>(&())),
            list(client, ApiResource::erase::<SharedLBClass>(&())),
            list(client, ApiResource::erase::<Namespace>(&())),
            list(client, ApiResource::erase::<Service>(&())),
            list(client, ApiResource::erase::<EndpointSlice>(&())),
        )?;
        times.push(started.elapsed());
    }
    Ok(times)
}

/// Lists all objects of a kind, by pages of the size that watchers have by default.
async fn list(client: &Client, kind: ApiResource) -> anyhow::Result<()> {
    let all: Api<DynamicObject> = Api::all_with(client.clone(), &kind);
    let mut page = ListParams::default().limit(500);
    loop {
        let listed = all.list(&page).await?;
        match listed.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(()),
        }
    }
}

async fn measure_idle(stage: &Stage, controller: &Controller, idle: Duration) -> anyhow::Result<()> {
    progress(&format!("nothing for {idle:?}"));
    let (versions_before, before) = (versions(&stage.admin).await?, controller.metrics().await?);
    tokio::time::sleep(idle).await;
    let (versions_after, after) = (versions(&stage.admin).await?, controller.metrics().await?);
    let writes = f64::max(after.writes() - before.writes(), changed(&versions_before, &versions_after));
    let calls = after.provider_calls() - before.provider_calls();
    let minutes = idle.as_secs_f64() / 60.0;
    print("idle_writes_per_min", writes / minutes, "writes/min");
    print("idle_provider_calls_per_min", calls / minutes, "calls/min");
    Ok(())
}

/// The version of every object that the controller may write, by kind and name.
type Versions = BTreeMap<String, Option<String>>;

async fn versions(client: &Client) -> anyhow::Result<Versions> {
    let mut versions = Versions::new();
    for kind in [
        ApiResource::erase::<SharedLB>(&()),
        ApiResource::erase::<SharedLBClass>(&()),
        ApiResource::erase::<Service>(&()),
        ApiResource::erase::<EndpointSlice>(&()),
        ApiResource::erase::<Event>(&()),
    ] {
        let all: Api<DynamicObject> = Api::all_with(client.clone(), &kind);
        let listed = all.list_metadata(&ListParams::default()).await?;
        versions.extend(listed.items.into_iter().map(|object| {
            let name = format!("{} {}/{}", kind.kind, object.namespace().unwrap_or_default(), object.name_any());
            (name, object.resource_version())
        }));
    }
    Ok(versions)
}

/// How many objects came, went or changed.
fn changed(before: &Versions, after: &Versions) -> f64 {
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let changed: Vec<_> = names.into_iter().filter(|name| before.get(*name) != after.get(*name)).collect();
    for name in changed.iter().take(5) {
        progress(&format!("{name} changed, and should not have"));
    }
    changed.len() as f64
}
