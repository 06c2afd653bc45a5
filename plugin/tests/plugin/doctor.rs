//! `doctor` on a cluster where something is wrong. What each check finds is tested on objects; here
//! it finds what the API server has.

use anyhow::{Context as _, ensure};
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::PostParams;
use libtest_mimic::Trial;
use serde_json::json;
use sharedlb_harness::{Site, Tests};

use crate::world::World;

pub(crate) fn trials(test: &Tests<World>) -> Vec<Trial> {
    vec![
        test.test("doctor names the rights that the controller lacks", |world| async move {
            Site::in_class(&world.cluster, "elsewhere", "none").await?;
            let controller = "
apiVersion: v1
kind: ServiceAccount
metadata: {name: powerless, namespace: elsewhere}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  {name: sharedlb, namespace: elsewhere, labels: {app.kubernetes.io/name: sharedlb, app.kubernetes.io/version: 0.0.1}}
spec:
  replicas: 0
  selector: {matchLabels: {app: none}}
  template:
    metadata: {labels: {app: none}}
    spec: {serviceAccountName: powerless, containers: [{name: none, image: none}]}
";
            world.cluster.apply(controller).await?;
            let found = findings(&world, &["--system-namespace", "elsewhere"]).await?;
            for message in [
                "it lacks the right to list sharedlbs.sharedlb.dev",
                "it lacks the right to update leases.coordination.k8s.io in namespace elsewhere",
                "the controller has version 0.0.1, and this plugin 0.1.0",
                "it does not exist, so no replica has ever led",
            ] {
                ensure!(found.iter().any(|found| found == message), "no {message:?} in {found:?}");
            }
            Ok(())
        }),
        test.test(
            "doctor finds nothing wrong with the rights and definitions that deploy/ installs",
            |world| async move {
                let site = Site::with_pod(&world.cluster, "healthy", json!({})).await?;
                site.assigned("web").await?;
                let found = findings(&world, &[]).await?;
                ensure!(
                    !found.iter().any(|found| found.contains("lacks") || found.contains("Kubernetes")),
                    "{found:?}"
                );
                Ok(())
            },
        ),
        test.test("doctor passes on that the status of a Service is fought over", |world| async move {
            // As the controller publishes it.
            let event: Event = serde_json::from_value(json!({
                "metadata": {"name": "fought"}, "eventTime": "2026-01-01T00:00:00.000000Z", "type": "Warning",
                "reason": "StatusFought", "note": "the client \"some-ccm\" has changed the addresses", "action": "Report",
                "reportingController": "sharedlb.dev/controller", "reportingInstance": "sharedlb",
                "regarding": {"kind": "Service", "namespace": "sharedlb-system", "name": "slb-vip-0"},
            }))?;
            let events = Api::<Event>::namespaced(world.cluster.admin(), "sharedlb-system");
            events.create(&PostParams::default(), &event).await?;
            let found = findings(&world, &[]).await?;
            ensure!(found.iter().any(|found| found.contains("some-ccm")), "{found:?}");
            Ok(())
        }),
        test.test("doctor says of a viewer that most of it could not be seen", |world| async move {
            Site::with_pod(&world.cluster, "patient", json!({})).await?;
            let user = world.user("patient", "view").await?;
            let answer = user.plugin(&["doctor"]).await?;
            ensure!(answer.status == Some(4), "{answer:?}");
            ensure!(answer.stdout == "nothing is wrong with what can be seen\n", "{answer:?}");
            for what in [
                "sharedlbclasses",
                "services in all namespaces",
                "daemonsets in all namespaces",
                "deployments in namespace",
            ] {
                ensure!(answer.stderr.contains(&format!("could not see {what}")), "no {what} in {answer:?}");
            }
            Ok(())
        }),
    ]
}

/// The messages of all findings.
async fn findings(world: &World, arguments: &[&str]) -> anyhow::Result<Vec<String>> {
    let report = world.report(&[&["doctor"], arguments].concat()).await?;
    let findings = report["findings"].as_array().context("a report has findings")?;
    Ok(findings.iter().filter_map(|finding| finding["message"].as_str()).map(str::to_owned).collect())
}
