//! The endpoints as services of a balancer of tower.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Context as _, anyhow, ensure};
use libtest_mimic::Trial;
use sharedlb_harness::{LIMIT, Tests};
use sharedlb_testbed::{Cluster, eventually};
use tower::balance::p2c::Balance;
use tower::load::Constant;
use tower::{Service as _, ServiceExt as _, service_fn};

use crate::setting::Place;

pub(crate) fn trials(test: &Tests<Cluster>) -> Vec<Trial> {
    vec![test.test("a balancer of tower follows the endpoints", balanced)]
}

async fn balanced(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    let place = Place::make(&cluster, "balanced").await?;
    let load_balancer = place.load_balancer(place.config());
    let services = load_balancer.discover(|endpoint| {
        let pod = endpoint.pod.clone();
        let answer = service_fn(move |()| {
            let pod = pod.clone();
            async { pod.map(|pod| pod.to_string()).context("an endpoint without a pod") }
        });
        Constant::new(answer, 1)
    });
    let balance = tokio::sync::Mutex::new(Balance::new(services));
    // The pods that answer a number of requests.
    let answering = async || {
        let mut balance = balance.lock().await;
        let mut pods = BTreeSet::new();
        for _ in 0..50 {
            let ready = balance.ready().await.map_err(|error| anyhow!(error))?;
            pods.insert(ready.call(()).await.map_err(|error| anyhow!(error))?);
        }
        anyhow::Ok(pods)
    };
    let until_answering = async |names: &[&str]| {
        eventually(&format!("{names:?} to answer"), LIMIT, async || {
            let pods = answering().await?;
            ensure!(pods.iter().eq(names), "{pods:?} answer");
            Ok(Some(()))
        })
        .await
    };
    let first = place.pod("web-0").await?;
    until_answering(&["web-0"]).await?;
    let _second = place.pod("web-1").await?;
    until_answering(&["web-0", "web-1"]).await?;
    first.end().await?;
    until_answering(&["web-1"]).await
}
