//! Traffic follows the pods.

use std::sync::Arc;

use libtest_mimic::Trial;
use serde_json::json;
use sharedlb_harness::front::front;
use sharedlb_harness::tenant::Tenant;
use sharedlb_harness::{Tests, World};

pub(crate) fn trials(test: &Tests<World>) -> Vec<Trial> {
    vec![
        test.test("all pods of a claim answer, and a new one too", all),
        test.test("when a pod dies, the others answer", one_dies),
        test.test("a pod that is not ready gets no traffic", unready),
        test.test("the last pod serves while it terminates", terminating),
        test.test("without pods a port refuses, and answers again when one comes", nobody_left),
    ]
}

async fn all(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world.cluster, "all", json!({})).await?;
    tenant.pod("web-0", "web").await?;
    tenant.pod("web-1", "web").await?;
    let front = front(&tenant.site.assigned("web").await?, "")?;
    tenant.only_answer(front, &["web-0", "web-1"]).await?;
    tenant.pod("web-2", "web").await?;
    tenant.only_answer(front, &["web-0", "web-1", "web-2"]).await
}

async fn one_dies(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world.cluster, "one-dies", json!({})).await?;
    let doomed = tenant.pod("web-0", "web").await?;
    tenant.pod("web-1", "web").await?;
    let front = front(&tenant.site.assigned("web").await?, "")?;
    tenant.only_answer(front, &["web-0", "web-1"]).await?;
    doomed.kill().await?;
    tenant.only_answer(front, &["web-1"]).await?;
    tenant.site.ready("web").await.map(drop)
}

async fn unready(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world.cluster, "unready", json!({})).await?;
    let pod = tenant.pod("web-0", "web").await?;
    tenant.pod("web-1", "web").await?;
    let front = front(&tenant.site.assigned("web").await?, "")?;
    tenant.only_answer(front, &["web-0", "web-1"]).await?;
    pod.set_ready(false).await?;
    tenant.only_answer(front, &["web-1"]).await?;
    pod.set_ready(true).await?;
    tenant.only_answer(front, &["web-0", "web-1"]).await
}

async fn terminating(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world.cluster, "terminating", json!({})).await?;
    let last = tenant.pod("web-0", "web").await?;
    let front = front(&tenant.site.assigned("web").await?, "")?;
    tenant.answers(front, "web-0").await?;
    last.terminate().await?;
    tenant.only_answer(front, &["web-0"]).await?;
    // The next pod takes over from it.
    tenant.pod("web-1", "web").await?;
    tenant.only_answer(front, &["web-1"]).await?;
    last.delete().await
}

async fn nobody_left(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world.cluster, "nobody-left", json!({})).await?;
    let pod = tenant.pod("web-0", "web").await?;
    tenant.pod("other-0", "other").await?;
    let other = json!({"selector": {"app": "other"}, "ports": [{"targetPort": "http"}]});
    tenant.site.claim_with("other", other).await?;
    let other = front(&tenant.site.ready("other").await?, "")?;
    let front = front(&tenant.site.assigned("web").await?, "")?;
    tenant.answers(front, "web-0").await?;
    pod.delete().await?;
    tenant.site.without_backends("web", &[]).await?;
    tenant.closed(front).await?;
    tenant.answers(other, "other-0").await?;
    tenant.pod("web-1", "web").await?;
    tenant.answers(front, "web-1").await?;
    tenant.site.ready("web").await.map(drop)
}
