//! What becomes of claims and classes when the release is upgraded, rolled back,
//! uninstalled and installed again.

use std::sync::Arc;

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use libtest_mimic::Trial;
use serde_json::json;
use sharedlb_crds::SharedLB;
use sharedlb_harness::{LIMIT, Site, Tests, definitions_established, repository, slots};
use sharedlb_testbed::{Cluster, eventually};

use crate::release::{self, Controller, NAME, NAMESPACE, values};

/// The chart as it was before `status.ports[].opened` was in the CRDs.
const EARLIER: &str = "tests/chart/sharedlb-0.1.0-alpha.1.tgz";

pub(crate) fn trials(test: &Tests<Cluster>) -> Vec<Trial> {
    vec![
        test.test("an upgrade and a rollback move no port, and bring their CRDs", |cluster| async move {
            upgrade(&cluster).await
        }),
        test.test("claims outlive an uninstall, and are released by the next install", |cluster| async move {
            uninstall(&cluster).await
        }),
        test.test("Helm takes over what kubectl installed", |cluster| async move { take_over(&cluster).await }),
        test.test("classes come from values, and stay without them", |cluster| async move { classes(&cluster).await }),
    ]
}

async fn upgrade(cluster: &Arc<Cluster>) -> anyhow::Result<()> {
    release::install(cluster, &repository(EARLIER)?, &[]).await?;
    ensure!(image(cluster).await?.ends_with(":0.1.0-alpha.1"), "the fixture is the earlier version");
    ensure!(!crds_are_current(cluster).await?, "the fixture has the CRDs of today");
    let controller = Controller::start(cluster).await?;
    let site = Site::with_pod(cluster, "upgrade", json!({})).await?;
    let before = site.assigned("web").await?;
    controller.terminate().await?;

    release::upgrade(cluster, &release::chart()?, &[]).await?;
    ensure!(image(cluster).await?.ends_with(concat!(":", env!("CARGO_PKG_VERSION"))), "the image is upgraded");
    eventually("the CRDs to be upgraded", LIMIT, async || Ok(crds_are_current(cluster).await?.then_some(()))).await?;
    let controller = Controller::start(cluster).await?;
    require_unmoved(&before, &site.ready("web").await?)?;
    controller.terminate().await?;

    cluster.helm(&["rollback", NAME, "--namespace", NAMESPACE]).await?;
    ensure!(image(cluster).await?.ends_with(":0.1.0-alpha.1"), "the image is rolled back");
    ensure!(!crds_are_current(cluster).await?, "the CRDs are rolled back");
    let controller = Controller::start(cluster).await?;
    require_unmoved(&before, &site.ready("web").await?)?;
    release::remove(cluster, controller).await
}

async fn uninstall(cluster: &Arc<Cluster>) -> anyhow::Result<()> {
    release::install(cluster, &release::chart()?, &[]).await?;
    let controller = Controller::start(cluster).await?;
    let site = Site::with_pod(cluster, "uninstall", json!({})).await?;
    let before = site.assigned("web").await?;
    release::uninstall(cluster).await?;
    controller.terminate().await?;
    let crds = Api::<CustomResourceDefinition>::all(cluster.admin()).list(&ListParams::default()).await?;
    let ours = crds.iter().filter(|crd| crd.spec.group == "sharedlb.dev").collect::<Vec<_>>();
    let kept = ours.iter().all(|crd| crd.metadata.deletion_timestamp.is_none());
    ensure!(ours.len() == sharedlb_crds::crds().len() && kept, "the CRDs are deleted: {ours:?}");
    require_unmoved(&before, &site.claims.get("web").await?)?;

    // As docs/install.md says: the finalizer of the claim holds its namespace.
    cluster.kubectl_output(&["delete", "namespace", &site.namespace, "--wait=false"]).await?;
    let namespaces: Api<Namespace> = Api::all(cluster.admin());
    eventually("the namespace to report what holds it", LIMIT, async || {
        let status = namespaces.get(&site.namespace).await?.status.context("it has a status")?;
        let held = status.conditions.unwrap_or_default();
        let held = held.iter().find(|condition| condition.type_ == "NamespaceFinalizersRemaining");
        let held = held.filter(|condition| condition.status == "True").and_then(|held| held.message.as_deref());
        Ok(held.unwrap_or_default().contains("sharedlb.dev/release-ports").then_some(()))
    })
    .await?;

    release::install(cluster, &release::chart()?, &[]).await?;
    let controller = Controller::start(cluster).await?;
    eventually("the namespace to be gone", LIMIT, async || {
        Ok(namespaces.get_opt(&site.namespace).await?.is_none().then_some(()))
    })
    .await?;
    release::remove(cluster, controller).await
}

async fn take_over(cluster: &Arc<Cluster>) -> anyhow::Result<()> {
    cluster.kubectl_output(&["apply", "-k", &repository("deploy")?]).await?;
    definitions_established(cluster).await?;
    let controller = Controller::start(cluster).await?;
    let site = Site::with_pod(cluster, "take-over", json!({})).await?;
    let before = site.assigned("web").await?;
    let deployment = release::deployment(cluster).await?.uid();

    let unasked = cluster.helm_run(&["install", NAME, &release::chart()?, "--namespace", NAMESPACE]).await?;
    ensure!(!unasked.status.success(), "Helm takes over without being asked");
    release::install(cluster, &release::chart()?, &["--take-ownership", "--force-conflicts"]).await?;
    ensure!(release::deployment(cluster).await?.uid() == deployment, "the Deployment is another one");
    require_unmoved(&before, &site.ready("web").await?)?;
    release::remove(cluster, controller).await?;
    // What is no part of the chart.
    let left = cluster.kubectl_output(&["get", "-k", &repository("deploy")?, "--ignore-not-found", "-o=name"]).await?;
    ensure!(left.trim() == format!("namespace/{NAMESPACE}"), "{left}");
    Ok(())
}

async fn classes(cluster: &Arc<Cluster>) -> anyhow::Result<()> {
    let (chart, with_classes) = (release::chart()?, values("classes")?);
    let first = ["install", NAME, &chart, "--namespace", NAMESPACE, "--values", &with_classes];
    let first = cluster.helm_run(&first).await?;
    let complaint = String::from_utf8_lossy(&first.stderr);
    ensure!(!first.status.success() && complaint.contains("ensure CRDs are installed first"), "{complaint}");

    let names = async || cluster.kubectl_output(&["get", "slbc", "--output=name"]).await;
    let expected = "sharedlbclass.sharedlb.dev/default\nsharedlbclass.sharedlb.dev/nlb\n";
    release::install(cluster, &chart, &[]).await?;
    release::upgrade(cluster, &chart, &["--values", &with_classes]).await?;
    ensure!(names().await? == expected, "after the upgrade: {}", names().await?);
    release::upgrade(cluster, &chart, &[]).await?;
    ensure!(names().await? == expected, "without classes in the values: {}", names().await?);
    release::uninstall(cluster).await?;
    ensure!(names().await? == expected, "after the uninstall: {}", names().await?);
    release::install(cluster, &chart, &["--values", &with_classes]).await?;
    release::uninstall(cluster).await?;
    release::remove_crds(cluster).await
}

/// Requires that a claim is the same object and has the same ports.
fn require_unmoved(before: &SharedLB, now: &SharedLB) -> anyhow::Result<()> {
    ensure!(now.uid() == before.uid(), "the claim is another one");
    ensure!(now.metadata.deletion_timestamp.is_none(), "the claim is being deleted");
    ensure!(slots(now) == slots(before), "{:?} was {:?}", slots(now), slots(before));
    Ok(())
}

async fn image(cluster: &Cluster) -> anyhow::Result<String> {
    release::container(cluster).await?.image.context("the container has an image")
}

/// Whether the CRDs in the cluster are those of the Rust types.
async fn crds_are_current(cluster: &Cluster) -> anyhow::Result<bool> {
    let installed: Api<CustomResourceDefinition> = Api::all(cluster.admin());
    for crd in sharedlb_crds::crds() {
        if installed.get(&crd.name_any()).await?.spec.versions != crd.spec.versions {
            return Ok(false);
        }
    }
    Ok(true)
}
