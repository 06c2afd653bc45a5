//! Traffic follows the pods.

use std::sync::Arc;

use libtest_mimic::Trial;
use serde_json::json;
use sharedlb_harness::{Tests, World};
use sharedlb_testbed::Protocol;

use crate::place::{Place, front};

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
    let place = Place::open(world, "all", json!({})).await?;
    place.pod("web-0", "web").await?;
    place.pod("web-1", "web").await?;
    let front = front(&place.site.assigned("web").await?, "")?;
    place.only_answer(front, Protocol::Tcp, &["web-0", "web-1"]).await?;
    place.pod("web-2", "web").await?;
    place.only_answer(front, Protocol::Tcp, &["web-0", "web-1", "web-2"]).await
}

async fn one_dies(world: Arc<World>) -> anyhow::Result<()> {
    let place = Place::open(world, "one-dies", json!({})).await?;
    let doomed = place.pod("web-0", "web").await?;
    place.pod("web-1", "web").await?;
    let front = front(&place.site.assigned("web").await?, "")?;
    place.only_answer(front, Protocol::Tcp, &["web-0", "web-1"]).await?;
    doomed.kill().await?;
    place.only_answer(front, Protocol::Tcp, &["web-1"]).await?;
    place.site.ready("web").await.map(drop)
}

async fn unready(world: Arc<World>) -> anyhow::Result<()> {
    let place = Place::open(world, "unready", json!({})).await?;
    let pod = place.pod("web-0", "web").await?;
    place.pod("web-1", "web").await?;
    let front = front(&place.site.assigned("web").await?, "")?;
    place.only_answer(front, Protocol::Tcp, &["web-0", "web-1"]).await?;
    pod.set_ready(false).await?;
    place.only_answer(front, Protocol::Tcp, &["web-1"]).await?;
    pod.set_ready(true).await?;
    place.only_answer(front, Protocol::Tcp, &["web-0", "web-1"]).await
}

async fn terminating(world: Arc<World>) -> anyhow::Result<()> {
    let place = Place::open(world, "terminating", json!({})).await?;
    let last = place.pod("web-0", "web").await?;
    let front = front(&place.site.assigned("web").await?, "")?;
    place.answers(front, Protocol::Tcp, "web-0").await?;
    last.terminate().await?;
    place.only_answer(front, Protocol::Tcp, &["web-0"]).await?;
    // Whoever comes next takes over from it.
    place.pod("web-1", "web").await?;
    place.only_answer(front, Protocol::Tcp, &["web-1"]).await?;
    last.delete().await
}

async fn nobody_left(world: Arc<World>) -> anyhow::Result<()> {
    let place = Place::open(world, "nobody-left", json!({})).await?;
    let pod = place.pod("web-0", "web").await?;
    place.pod("other-0", "other").await?;
    let other = json!({"selector": {"app": "other"}, "ports": [{"targetPort": "http"}]});
    place.site.claim_with("other", other).await?;
    let other = front(&place.site.ready("other").await?, "")?;
    let front = front(&place.site.assigned("web").await?, "")?;
    place.answers(front, Protocol::Tcp, "web-0").await?;
    pod.delete().await?;
    place.site.without_backends("web", &[]).await?;
    place.closed(front, Protocol::Tcp).await?;
    place.answers(other, Protocol::Tcp, "other-0").await?;
    place.pod("web-1", "web").await?;
    place.answers(front, Protocol::Tcp, "web-1").await?;
    place.site.ready("web").await.map(drop)
}
