//! A dry run makes no call of AWS that changes anything, and says what the controller
//! then does.

use std::sync::Arc;

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use libtest_mimic::Trial;
use serde_json::json;
use sharedlb_harness::{DryRun, Tests, slots};

use crate::setting::{FLAGS, Setting, World};

pub(crate) fn trials(test: &Tests<World>) -> Vec<Trial> {
    vec![test.test("a dry run reports what would be opened and closed, and only reads", only_reads)]
}

async fn only_reads(world: Arc<World>) -> anyhow::Result<()> {
    let setting = Setting::start(&world, "dry-run", json!({})).await?;
    // Where targets are counted, no port opens before Kubernetes has listed the pods of
    // its Service, so the Service is there before.
    let service: Service = serde_json::from_value(json!({
        "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 8080}]},
    }))?;
    let services = Api::<Service>::namespaced(setting.cluster.admin(), &setting.namespace);
    services.create(&PostParams::default(), &service).await?;
    let claim = json!({"serviceName": "web", "ports": [{"targetPort": "http"}]});
    setting.claim_with("web-0", claim.clone()).await?;
    setting.all_ready(1).await?;
    let seen = setting.as_promised().await?;
    let (_, (_, _, closing)) = slots(&setting.claims.get("web-0").await?).pop_first().context("it has a port")?;
    world.kill().await?;
    setting.claims.delete("web-0", &DeleteParams::default()).await?;
    setting.claim_with("web-1", claim).await?;

    setting.region.forget().await?;
    let launch = world.launch(&setting.region, &FLAGS);
    let would = DryRun::make(&launch).await?;
    ensure!(would.code == Some(2), "{would:?}");
    let calls = setting.calls().await?;
    ensure!(!calls.is_empty() && calls.iter().all(|call| call.reads()), "{calls:?}");
    ensure!(setting.seen().await?.balancers.len() == seen.balancers.len(), "a load balancer came or went");
    let closes = format!("    - listener {closing}/TCP of dry-run/web-0\n");
    ensure!(would.text.contains(&closes), "{closes:?} is not in\n{}", would.text);

    let unreachable =
        [setting.region.environment(), vec![("AWS_ENDPOINT_URL", "http://127.0.0.1:9".to_owned())]].concat();
    let failed = DryRun::make(&launch.environment(&unreachable)).await?;
    ensure!(failed.code == Some(1) && failed.text.is_empty(), "{failed:?}");
    ensure!(failed.log.contains("could not be observed"), "{}", failed.log);

    world.controller(&setting.region, &FLAGS).await?;
    let claim = setting.ready("web-1").await?;
    let (_, (_, _, opened)) = slots(&claim).pop_first().context("it has a port")?;
    let opens = format!("    + listener {opened}/TCP of dry-run/web-1: 1 backend ({})\n", setting.targets()[0]);
    ensure!(would.text.contains(&opens), "{opens:?} is not in\n{}", would.text);
    setting.clear().await
}
