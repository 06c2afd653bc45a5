//! The API server is away, or ends watches.

use std::sync::Arc;

use anyhow::ensure;
use libtest_mimic::Trial;
use sharedlb_testbed::{Cluster, eventually};

use crate::harness::{LIMIT, Tests};
use crate::setting::Setting;

pub(crate) fn trials(test: &Tests<Cluster>) -> Vec<Trial> {
    vec![
        test.test("while the API server refuses connections it waits, says so, and then goes on", refused),
        test.test("an API server that restarts is waited for", restarted),
        test.test("watches that end with 410 Gone are begun again, and nothing is missed", gone),
        test.test("started while the API server is away, it waits for it", away_at_start),
    ]
}

async fn refused(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    let mut setting = Setting::start(&cluster, "refused").await?;
    setting.create(0..10).await?;
    setting.all_ready(10).await?;
    setting.proxy.refuse();
    // What happens in the meantime: some come, and one goes.
    setting.create(10..20).await?;
    setting.site.claims.delete("web-0", &kube::api::DeleteParams::default()).await?;
    let controller = setting.controller()?;
    eventually("the log and the metrics to tell of failed watches", LIMIT, async || {
        let errors = controller.metrics().await?.sum("sharedlb_watch_errors_total", &[]);
        ensure!(controller.log()?.contains("\"WARN\""), "the log does not say so");
        Ok((errors >= 1.0).then_some(()))
    })
    .await?;
    let (code, text) = controller.get("/healthz").await?;
    ensure!(code == 200 && controller.is_running()?, "/healthz answers {code}: {text}");
    setting.proxy.accept()?;
    setting.site.gone("web-0").await?;
    setting.all_ready(19).await?;
    setting.nobody_wronged(19).await?;
    setting.clear().await
}

async fn restarted(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    let setting = Setting::start(&cluster, "restarted").await?;
    setting.create(0..10).await?;
    cluster.stop_apiserver().await?;
    cluster.start_apiserver().await?;
    setting.create(10..20).await?;
    setting.all_ready(20).await?;
    setting.nobody_wronged(20).await?;
    setting.clear().await
}

async fn gone(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    let setting = Setting::start(&cluster, "gone").await?;
    for round in 0..4 {
        setting.create(round * 8..round * 8 + 4).await?;
        setting.proxy.faults.expire_watches();
        setting.create(round * 8 + 4..round * 8 + 8).await?;
        setting.site.pod(&format!("web-{}", round + 1), "web").await?;
    }
    setting.all_ready(32).await?;
    setting.proxy.faults.expire_watches();
    setting.site.delete("web-0").await?;
    setting.all_ready(31).await?;
    setting.nobody_wronged(31).await?;
    setting.clear().await
}

async fn away_at_start(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    let mut setting = Setting::start(&cluster, "away-at-start").await?;
    setting.create(0..10).await?;
    setting.all_ready(10).await?;
    setting.take_controller()?.kill().await?;
    setting.proxy.refuse();
    setting.start_controller()?;
    let controller = setting.controller()?;
    eventually("/readyz to say that it is not ready", LIMIT, async || {
        let (code, _) = controller.get("/readyz").await?;
        Ok((code == 503).then_some(()))
    })
    .await?;
    setting.proxy.accept()?;
    setting.controller()?.until_ready().await?;
    setting.create(10..12).await?;
    setting.all_ready(12).await?;
    setting.nobody_wronged(12).await?;
    setting.clear().await
}
