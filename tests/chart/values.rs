//! What the values of the chart make of it.

use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use libtest_mimic::Trial;
use sharedlb_harness::{LIMIT, Tests, definitions_established, repository};
use sharedlb_testbed::{Cluster, eventually};

use crate::OTHER_NAMESPACE;
use crate::release::{self, Controller, NAME, NAMESPACE, values};

pub(crate) fn trials(test: &Tests<Cluster>) -> Vec<Trial> {
    vec![
        test.test("with each of its values files, the chart passes strict validation", |cluster| async move {
            let crds = repository("crds")?;
            cluster.kubectl_output(&["apply", "--server-side", "-f", &crds]).await?;
            definitions_established(&cluster).await?;
            for file in values_files()? {
                validate(&cluster, &file).await.with_context(|| file.clone())?;
            }
            cluster.kubectl_output(&["delete", "-f", &crds]).await.map(drop)
        }),
        test.test("an unknown or invalid value is rejected", |cluster| async move {
            for (value, named) in [
                ("replicaCout=3", "replicaCout"),
                ("replicaCount=many", "replicaCount"),
                ("sources.services.enabled=maybe", "enabled"),
                ("sources.gateways.enabled=true", "gateways"),
                ("providers.aws.callRate=0", "callRate"),
                ("providers.gcp.secretNames=google", "secretNames"),
                ("providers.httpUpdater.enabled=maybe", "enabled"),
                ("controller.resyncSeconds=5", "resyncSeconds"),
                ("controller.clusterId=a/b", "clusterId"),
                ("image.digest=sha256:1", "digest"),
                ("classes[0].name=default", "spec"),
            ] {
                let output = cluster.helm_run(&["template", &release::chart()?, "--set", value]).await?;
                let complaint = String::from_utf8_lossy(&output.stderr);
                ensure!(!output.status.success(), "{value} is accepted");
                ensure!(complaint.contains(named), "{value}: {complaint}");
            }
            Ok(())
        }),
        test.test("the controller starts with the arguments and rights of the default values", |cluster| async move {
            release::install(&cluster, &release::chart()?, &["--values", &values("default")?]).await?;
            starts(&cluster).await?;
            for (verb, resource, namespace) in SOURCES {
                ensure!(may(&cluster, NAME, verb, resource, namespace).await?, "it may not {verb} {resource}");
            }
            ensure!(may(&cluster, NAME, "create", SLICES, NAMESPACE).await?, "no load balancer can be a Service");
            release::uninstall(&cluster).await?;
            release::remove_crds(&cluster).await
        }),
        test.test("the controller starts without the rights that values switch off", |cluster| async move {
            release::install(&cluster, &release::chart()?, &["--values", &values("minimal")?]).await?;
            starts(&cluster).await?;
            for (verb, resource, namespace) in SOURCES {
                ensure!(!may(&cluster, NAME, verb, resource, namespace).await?, "it may {verb} {resource}");
            }
            for (verb, resource) in [("create", SLICES), ("patch", "services/status")] {
                ensure!(!may(&cluster, NAME, verb, resource, NAMESPACE).await?, "it may {verb} {resource}");
            }
            release::uninstall(&cluster).await?;
            release::remove_crds(&cluster).await
        }),
        test.test("the controller starts with everything that values switch on", |cluster| async move {
            release::install(&cluster, &release::chart()?, &["--values", &values("full")?]).await?;
            starts(&cluster).await?;
            let account = "load-balancer-controller";
            for namespace in [NAMESPACE, OTHER_NAMESPACE] {
                ensure!(may(&cluster, account, "create", SLICES, namespace).await?, "not in {namespace}");
            }
            ensure!(!may(&cluster, account, "create", SLICES, "default").await?, "it may in every namespace");
            ensure!(!may(&cluster, account, "get", "secrets", NAMESPACE).await?, "it may get every Secret");
            ensure!(may_get_secret(&cluster, account, "google").await?, "it may not get the Secret of a class");
            ensure!(!may_get_secret(&cluster, account, "another").await?, "it may get another Secret");
            ensure!(
                may(&cluster, "sharedlb-dry-run", "list", "configmaps", "default").await?,
                "a dry run may not read"
            );
            // The CRDs are not kept by these values.
            release::uninstall(&cluster).await?;
            eventually("the CRDs to be deleted", LIMIT, async || {
                let left = cluster.kubectl_output(&["get", "crd", "--output=name"]).await?;
                ensure!(!left.contains("sharedlb.dev"), "{left}");
                Ok(Some(()))
            })
            .await
        }),
    ]
}

/// What only sources need: each a verb, a resource and a namespace.
const SOURCES: [(&str, &str, &str); 4] = [
    ("create", "sharedlbs.sharedlb.dev", "default"),
    ("patch", "services/status", "default"),
    ("list", "configmaps", "default"),
    ("patch", "configmaps", "default"),
];

const SLICES: &str = "endpointslices.discovery.k8s.io";

/// All values files that come with the chart.
fn values_files() -> anyhow::Result<Vec<String>> {
    let folder = std::fs::read_dir(repository("deploy/chart/ci")?)?;
    let paths: Vec<PathBuf> = folder.map(|file| Ok(file?.path())).collect::<std::io::Result<_>>()?;
    paths.into_iter().map(|path| path.into_os_string().into_string().ok().context("UTF-8")).collect()
}

/// Requires that Helm finds no fault in the chart, and the API server none in its objects.
async fn validate(cluster: &Cluster, values: &str) -> anyhow::Result<()> {
    let chart = release::chart()?;
    cluster.helm(&["lint", "--strict", &chart, "--values", values]).await?;
    let rendered = ["template", NAME, &chart, "--namespace", NAMESPACE, "--values", values];
    let manifests = cluster.helm(&rendered).await?;
    let apply = ["apply", "--dry-run=server", "--validate=strict", "-f", "-"];
    let output = cluster.kubectl_run(&apply, &manifests).await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Starts the controller of the release. It must see all that it watches.
async fn starts(cluster: &Cluster) -> anyhow::Result<()> {
    let controller = Controller::start(cluster).await?;
    let page = controller.page("/metrics").await?;
    ensure!(!page.contains("sharedlb_watch_errors_total{"), "a right is missing: {page}");
    controller.terminate().await
}

/// Whether a service account of the release has a right.
async fn may(cluster: &Cluster, account: &str, verb: &str, resource: &str, namespace: &str) -> anyhow::Result<bool> {
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    let user = format!("--as=system:serviceaccount:{NAMESPACE}:{account}");
    let subresource = format!("--subresource={subresource}");
    can_i(cluster, &["auth", "can-i", verb, resource, &subresource, "--namespace", namespace, &user]).await
}

/// Whether a service account of the release may get the Secret of this name.
async fn may_get_secret(cluster: &Cluster, account: &str, name: &str) -> anyhow::Result<bool> {
    let user = format!("--as=system:serviceaccount:{NAMESPACE}:{account}");
    can_i(cluster, &["auth", "can-i", "get", &format!("secrets/{name}"), "--namespace", NAMESPACE, &user]).await
}

/// The answer to `kubectl auth can-i`.
async fn can_i(cluster: &Cluster, ask: &[&str]) -> anyhow::Result<bool> {
    let output = cluster.kubectl_run(ask, "").await?;
    match String::from_utf8_lossy(&output.stdout).trim() {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => anyhow::bail!("{ask:?}: {}", String::from_utf8_lossy(&output.stderr)),
    }
}
