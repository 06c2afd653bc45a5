//! The dashboard of the chart, the alerts and the runbooks on a real Prometheus that scrapes
//! the real controller.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use libtest_mimic::Trial;
use serde_json::{Value, json};
use sharedlb_crds::{ConditionType, Reason};
use sharedlb_harness::{LIMIT, Site, Tests};
use sharedlb_testbed::{Cluster, Prometheus, eventually};
use tokio::process::Command;

use crate::NODE_PORTS;
use crate::alerts::{alerts, blocks, runbooks};
use crate::release::{self, Controller, NAMESPACE};

/// A namespace in which the chart gives the controller no rights.
const NO_RIGHTS: &str = "default";

pub(crate) fn trials(test: &Tests<Cluster>) -> Vec<Trial> {
    vec![test.test(
        "no panel is empty, alerts see a class near its end, and runbooks have commands and queries that work",
        |cluster| async move { monitoring(&cluster).await },
    )]
}

async fn monitoring(cluster: &Arc<Cluster>) -> anyhow::Result<()> {
    let enabled = ["--set", "prometheus.dashboard.enabled=true"];
    release::install(cluster, &release::chart()?, &enabled).await?;
    // A right that is missing makes the metric of failed watches.
    cluster.kubectl_output(&["delete", "clusterrolebinding/sharedlb-source-configmaps"]).await?;
    let controller = Controller::launch(cluster).await?;
    let queries = Queries::of(&dashboard(cluster).await?)?;
    let prometheus = cluster.prometheus(&[controller.address()]).await?;
    trouble(cluster, prometheus.as_ref()).await?;
    exported(cluster, &queries, &controller).await?;
    match prometheus {
        Some(prometheus) => {
            no_panel_is_empty(&queries, &prometheus).await?;
            near_end(cluster, &prometheus).await?;
            runbooks_work(cluster, &prometheus).await?;
            prometheus.stop().await?;
        }
        None => eprintln!("skipped, but for the names of metrics: Prometheus could not be unpacked on this machine"),
    }
    remove(cluster, controller).await
}

async fn no_panel_is_empty(queries: &Queries, prometheus: &Prometheus) -> anyhow::Result<()> {
    eventually("every panel to have data", LIMIT, async || {
        let mut empty = Vec::new();
        for query in &queries.0 {
            if !has_data(&prometheus.query(query).await?) {
                empty.push(query);
            }
        }
        ensure!(empty.is_empty(), "without data: {empty:#?}");
        Ok(Some(()))
    })
    .await
}

/// Requires that the queries of the runbooks have data, and that their commands succeed.
async fn runbooks_work(cluster: &Cluster, prometheus: &Prometheus) -> anyhow::Result<()> {
    for (name, page) in runbooks()? {
        for query in blocks(&page, "promql") {
            ensure!(has_data(&prometheus.query(query).await?), "{name} has a query without data: {query}");
        }
        for commands in blocks(&page, "sh") {
            run(cluster, commands).await.with_context(|| name.clone())?;
        }
    }
    Ok(())
}

/// Removes everything. Without the right to delete load balancers, their class cannot be deleted.
async fn remove(cluster: &Cluster, controller: Controller) -> anyhow::Result<()> {
    let rights = format!("providers.service.namespaces={{{NO_RIGHTS}}}");
    release::upgrade(cluster, &release::chart()?, &["--set", &rights]).await?;
    release::remove(cluster, controller).await
}

/// The dashboard as Grafana's sidecar finds it.
async fn dashboard(cluster: &Cluster) -> anyhow::Result<Value> {
    let maps = Api::<ConfigMap>::namespaced(cluster.admin(), NAMESPACE);
    let data = maps.get("sharedlb-dashboard").await?.data.unwrap_or_default();
    Ok(serde_json::from_str(data.get("sharedlb.json").context("it has a dashboard")?)?)
}

/// The queries of all panels, with values for the variables.
struct Queries(Vec<String>);

impl Queries {
    fn of(dashboard: &Value) -> anyhow::Result<Self> {
        let panels = dashboard["panels"].as_array().context("it has panels")?;
        let mut queries = Vec::new();
        for panel in panels {
            let targets = panel["targets"].as_array().with_context(|| format!("{} has queries", panel["title"]))?;
            for target in targets {
                let query = target["expr"].as_str().with_context(|| format!("{} has a query", panel["title"]))?;
                let query = query.replace("$class", ".*").replace("$__rate_interval", "1m");
                ensure!(!query.contains('$'), "a variable without a value: {query}");
                queries.push(query);
            }
        }
        ensure!(queries.len() >= panels.len() && panels.len() > 10, "only {queries:?}");
        Ok(Self(queries))
    }
}

/// Whether an expression has a sample that is a number.
fn has_data(samples: &[Value]) -> bool {
    samples.iter().any(|sample| sample["value"][1].as_str().is_some_and(|value| value != "NaN"))
}

/// Creates a class that is full, one whose load balancer is refused, and one with a listener that
/// is refused. Once Prometheus has seen the first claim, others follow, so that rates have values.
async fn trouble(cluster: &Arc<Cluster>, prometheus: Option<&Prometheus>) -> anyhow::Result<()> {
    let limits = json!({"max": 1, "listenersPerLoadBalancer": 3});
    let pricing = json!({"preset": "AwsNetworkLoadBalancer"});
    let spec = json!({"loadBalancers": limits, "portsPerNamespace": 3, "pricing": pricing});
    let full = Site::with_pod(cluster, "full", spec).await?;
    full.assigned("web-0").await?;
    Site::open(cluster, "no-rights", json!({"provider": {"service": {"namespace": NO_RIGHTS}}})).await?;
    let node_ports = json!({"provider": {"service": {"allocateLoadBalancerNodePorts": true}}});
    let crowded = Site::with_pod(cluster, "crowded", node_ports).await?;
    let one_too_many = NODE_PORTS.0..=NODE_PORTS.1 + 1;
    let ports: Vec<Value> =
        one_too_many.map(|port| json!({"name": format!("p{port}"), "targetPort": "http"})).collect();
    crowded.claim("web", json!(ports)).await?;
    crowded.verdict("web", ConditionType::Programmed, ("False", Reason::ProviderRefused)).await?;
    if let Some(prometheus) = prometheus {
        eventually("Prometheus to have scraped the controller", LIMIT, async || {
            let runs = r#"sharedlb_load_balancer_run_duration_seconds_count{class="full"}"#;
            ensure!(has_data(&prometheus.query(runs).await?), "not yet");
            Ok(Some(()))
        })
        .await?;
    }
    for name in ["web-1", "web-2"] {
        full.assigned(name).await?;
    }
    full.claim("web-3", json!([{"targetPort": "http"}])).await?;
    full.refused("web-3", Reason::QuotaExceeded, &[]).await
}

/// Requires that the controller exports every metric of the alerts and of the dashboard.
async fn exported(cluster: &Cluster, queries: &Queries, controller: &Controller) -> anyhow::Result<()> {
    let mut wanted = BTreeSet::new();
    let alerts = alerts(cluster).await?;
    for expression in alerts.iter().map(|alert| &alert.expr).chain(&queries.0) {
        let words = expression.split(|c: char| c != '_' && !c.is_ascii_alphanumeric());
        wanted.extend(words.filter(|word| word.starts_with("sharedlb_")).map(str::to_owned));
    }
    ensure!(wanted.len() > 5, "only {wanted:?}");
    eventually("all metrics to be there", LIMIT, async || {
        let page = controller.page("/metrics").await?;
        let samples = page.lines().filter(|line| !line.starts_with('#'));
        let found: BTreeSet<String> =
            samples.filter_map(|line| line.split(['{', ' ']).next()).map(str::to_owned).collect();
        ensure!(wanted.is_subset(&found), "not exported: {:?}", &wanted - &found);
        Ok(Some(()))
    })
    .await
}

/// Requires that the expressions of the alerts about capacity and quota find the class that is
/// full, and no other one.
async fn near_end(cluster: &Cluster, prometheus: &Prometheus) -> anyhow::Result<()> {
    let alerts = alerts(cluster).await?;
    for (name, labels) in [
        ("SharedLBCapacityNearEnd", json!({"class": "full", "resource": "listeners"})),
        ("SharedLBQuotaNearEnd", json!({"class": "full"})),
    ] {
        let alert = alerts.iter().find(|alert| alert.name == name).with_context(|| format!("there is {name}"))?;
        eventually(&format!("{name} to see the class that is full"), LIMIT, async || {
            let samples = prometheus.query(&alert.expr).await?;
            let found: Vec<&Value> = samples.iter().map(|sample| &sample["metric"]).collect();
            ensure!(found == [&labels], "{samples:?}");
            Ok(Some(()))
        })
        .await?;
    }
    Ok(())
}

/// Runs the commands of a runbook that need no pod that runs.
async fn run(cluster: &Cluster, commands: &str) -> anyhow::Result<()> {
    // What stands for names also occurs in the headings of columns, where any word will do.
    let commands = commands.replace("\\\n", " ").replace("NAMESPACE", "full").replace("CLASS", "full");
    let commands = commands.replace("NAME", "web-0");
    for command in commands.lines().filter(|command| !command.contains(" logs ")) {
        let mut shell = Command::new("bash");
        shell.args(["-o", "pipefail", "-c", command]).env("KUBECONFIG", cluster.kubeconfig());
        let output = shell.output().await?;
        ensure!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
