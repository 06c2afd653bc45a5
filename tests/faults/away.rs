//! The API server is away, or ends watches.

use std::sync::Arc;

use anyhow::ensure;
use libtest_mimic::Trial;
use sharedlb_harness::{LIMIT, Tests};
use sharedlb_testbed::{Cluster, eventually};

use crate::setting::Setting;

pub(crate) fn trials(test: &Tests<Cluster>) -> Vec<Trial> {
    vec![
        test.test("while the API server refuses connections, the controller waits and reports it", refused),
        test.test("the controller waits for an API server that restarts", restarted),
        test.test("watches that end with 410 Gone are restarted, and no change is missed", gone),
        test.test("started without an API server, the controller waits for it", away_at_start),
    ]
}

async fn refused(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    let mut setting = Setting::start(&cluster, "refused").await?;
    setting.site.create_burst(0..10).await?;
    setting.site.all_ready(10).await?;
    setting.replica.proxy.refuse();
    // What happens in the meantime: some come, and one goes.
    setting.site.create_burst(10..20).await?;
    setting.site.claims.delete("web-0", &kube::api::DeleteParams::default()).await?;
    let controller = setting.replica.controller_mut()?;
    eventually("the log and the metrics to tell of failed watches", LIMIT, async || {
        let errors = controller.metrics().await?.sum("sharedlb_watch_errors_total", &[]);
        ensure!(controller.log()?.contains("\"WARN\""), "the log does not say so");
        Ok((errors >= 1.0).then_some(()))
    })
    .await?;
    let answer = controller.get("/healthz").await?;
    ensure!(answer.status() == 200 && controller.is_running()?, "/healthz answers {answer:?}");
    setting.replica.proxy.accept()?;
    setting.site.gone("web-0").await?;
    setting.site.all_ready(19).await?;
    setting.nobody_wronged(19).await?;
    setting.clear().await
}

async fn restarted(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    let setting = Setting::start(&cluster, "restarted").await?;
    setting.site.create_burst(0..10).await?;
    cluster.stop_apiserver().await?;
    cluster.start_apiserver().await?;
    setting.site.create_burst(10..20).await?;
    setting.site.all_ready(20).await?;
    setting.nobody_wronged(20).await?;
    setting.clear().await
}

async fn gone(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    let setting = Setting::start(&cluster, "gone").await?;
    for round in 0..4 {
        setting.site.create_burst(round * 8..round * 8 + 4).await?;
        setting.replica.proxy.faults.expire_watches();
        setting.site.create_burst(round * 8 + 4..round * 8 + 8).await?;
        setting.site.pod(&format!("web-{}", round + 1), "web").await?;
    }
    setting.site.all_ready(32).await?;
    setting.replica.proxy.faults.expire_watches();
    setting.site.delete("web-0").await?;
    setting.site.all_ready(31).await?;
    setting.nobody_wronged(31).await?;
    setting.clear().await
}

async fn away_at_start(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    let mut setting = Setting::start(&cluster, "away-at-start").await?;
    setting.site.create_burst(0..10).await?;
    setting.site.all_ready(10).await?;
    setting.replica.kill().await?;
    setting.replica.proxy.refuse();
    setting.replica.start()?;
    let controller = setting.replica.controller_mut()?;
    eventually("/readyz to say that it is not ready", LIMIT, async || {
        Ok((controller.get("/readyz").await?.status() == 503).then_some(()))
    })
    .await?;
    setting.replica.proxy.accept()?;
    setting.replica.controller_mut()?.until_ready().await?;
    setting.site.create_burst(10..12).await?;
    setting.site.all_ready(12).await?;
    setting.nobody_wronged(12).await?;
    setting.clear().await
}
