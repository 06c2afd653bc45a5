//! Writes that fail, and writes of which one does not know whether they did.

use std::sync::Arc;

use anyhow::ensure;
use libtest_mimic::Trial;
use serde_json::json;
use sharedlb_crds::{ConditionType, Reason};
use sharedlb_harness::Tests;
use sharedlb_testbed::Cluster;

use crate::setting::Setting;

const BURST: usize = 30;

pub(crate) fn trials(test: &Tests<Cluster>) -> Vec<Trial> {
    vec![
        test.test("a conflict on every second write only delays it", conflicts),
        test.test("a write whose answer is lost is neither lost nor repeated", lost_answers),
    ]
}

async fn conflicts(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    let setting = Setting::start(&cluster, "conflicts").await?;
    setting.replica.proxy.faults.conflict_every(2);
    burst_and_change(&setting).await?;
    let metrics = setting.replica.controller()?.metrics().await?;
    let conflicts = metrics.sum("sharedlb_api_writes_total", &[("result", "conflict")]);
    ensure!(conflicts >= 1.0, "the metrics tell of no conflict");
    setting.replica.proxy.faults.conflict_every(0);
    setting.clear().await
}

async fn lost_answers(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    let setting = Setting::start(&cluster, "lost-answers").await?;
    setting.replica.proxy.faults.lose_answer_every(3);
    burst_and_change(&setting).await?;
    setting.replica.proxy.faults.lose_answer_every(0);
    setting.clear().await
}

/// Claims come, change and go while writes fail.
async fn burst_and_change(setting: &Setting) -> anyhow::Result<()> {
    setting.site.create_burst(0..BURST).await?;
    setting.site.all_ready(BURST).await?;
    setting.nobody_wronged(BURST).await?;
    setting.site.delete("web-0").await?;
    setting.site.claim("more", json!([{"name": "a", "port": 5432, "targetPort": "http"}])).await?;
    setting.site.ready("more").await?;
    setting.site.change("web-1", json!({"spec": {"selector": {"app": "nobody"}}})).await?;
    let nobody = ("False", Reason::NoBackends);
    setting.site.verdict("web-1", ConditionType::Ready, nobody).await?;
    setting.site.change("web-1", json!({"spec": {"selector": {"app": "web"}}})).await?;
    setting.site.all_ready(BURST).await?;
    setting.nobody_wronged(BURST).await
}
