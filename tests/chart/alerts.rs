//! The alerts of the chart with the real promtool, and their runbooks.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, ensure};
use libtest_mimic::Trial;
use serde::Deserialize;
use serde_json::Value;
use sharedlb_harness::{Tests, repository};
use sharedlb_testbed::Cluster;
use tokio::process::Command;

use crate::release::{self, NAME};

/// The unit tests of the alerts, for promtool.
const CASES: &str = "tests/chart/alerts.yaml";

const RUNBOOKS: &str = "docs/runbooks";

pub(crate) fn trials(test: &Tests<Cluster>) -> Vec<Trial> {
    vec![
        test.test("each alert fires when it must and not otherwise, with its text", |cluster| async move {
            unit_tests(&cluster).await
        }),
        test.test("each alert has a runbook, and each runbook an alert", |cluster| async move {
            has_runbooks(&alerts(&cluster).await?)
        }),
    ]
}

/// An alert of the chart.
#[derive(Deserialize)]
pub(crate) struct Alert {
    #[serde(rename = "alert")]
    pub(crate) name: String,
    /// Its expression, in PromQL
    pub(crate) expr: String,
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Rules {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    rules: Vec<Alert>,
}

/// The alerts that the chart installs.
pub(crate) async fn alerts(cluster: &Cluster) -> anyhow::Result<Vec<Alert>> {
    let rules: Rules = serde_json::from_value(rules(cluster).await?)?;
    Ok(rules.groups.into_iter().flat_map(|group| group.rules).collect())
}

/// The rules that the chart installs, as in a rule file of Prometheus.
async fn rules(cluster: &Cluster) -> anyhow::Result<Value> {
    let chart = release::chart()?;
    let only = ["--set", "prometheus.prometheusRule.enabled=true", "--show-only", "templates/prometheusrule.yaml"];
    let manifest = cluster.helm(&[&["template", NAME, &chart][..], &only].concat()).await?;
    let mut object: Value = serde_saphyr::from_str(&manifest)?;
    Ok(object["spec"].take())
}

/// The part of promtool's test file that says which alerts are tested.
#[derive(Deserialize)]
struct Cases {
    tests: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    alert_rule_test: Vec<Expectation>,
}

#[derive(Deserialize)]
struct Expectation {
    alertname: String,
    exp_alerts: Vec<Value>,
}

async fn unit_tests(cluster: &Cluster) -> anyhow::Result<()> {
    let cases = std::fs::read_to_string(repository(CASES)?)?;
    let parsed: Cases = serde_saphyr::from_str(&cases)?;
    let expectations: Vec<Expectation> = parsed.tests.into_iter().flat_map(|case| case.alert_rule_test).collect();
    let all: BTreeSet<String> = alerts(cluster).await?.into_iter().map(|alert| alert.name).collect();
    for (fires, what) in [(true, "fires"), (false, "does not fire")] {
        let tested = expectations.iter().filter(|expected| expected.exp_alerts.is_empty() != fires);
        let tested: BTreeSet<String> = tested.map(|expected| expected.alertname.clone()).collect();
        ensure!(tested == all, "no case in which it {what}: {:?}", &all - &tested);
    }

    let Some(promtool) = cluster.promtool() else {
        eprintln!("skipped: Prometheus could not be unpacked on this machine");
        return Ok(());
    };
    let folder = tempfile::tempdir()?;
    // Any JSON is YAML.
    std::fs::write(folder.path().join("rules.yaml"), rules(cluster).await?.to_string())?;
    std::fs::write(folder.path().join("alerts.yaml"), cases)?;
    for command in [["check", "rules", "rules.yaml"], ["test", "rules", "alerts.yaml"]] {
        let output = Command::new(&promtool).args(command).current_dir(folder.path()).output().await?;
        let printed = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "promtool {}: {printed}", command.join(" "));
    }
    Ok(())
}

fn has_runbooks(alerts: &[Alert]) -> anyhow::Result<()> {
    let mut pages = runbooks()?;
    for Alert { name, annotations, .. } in alerts {
        let page = pages.remove(name).with_context(|| format!("{RUNBOOKS}/{name}.md does not exist"))?;
        let url = annotations.get("runbook_url").with_context(|| format!("{name} has no runbook_url"))?;
        let path = format!("{RUNBOOKS}/{name}.md");
        ensure!(url.ends_with(&format!("/{path}")), "{name} has the runbook {url}");
        ensure!(page.starts_with(&format!("# {name}\n")), "{path} is about another alert");
        for section in ["What it means", "How to look", "What to do", "What it is not"] {
            ensure!(page.contains(&format!("\n## {section}\n")), "{path} does not say {section:?}");
        }
        ensure!(!blocks(&page, "promql").is_empty(), "{path} has no query");
        ensure!(!blocks(&page, "sh").is_empty(), "{path} has no command");
    }
    ensure!(pages.is_empty(), "there are no alerts {:?}", pages.keys());
    Ok(())
}

/// The text of each runbook, by its alert.
pub(crate) fn runbooks() -> anyhow::Result<BTreeMap<String, String>> {
    let mut pages = BTreeMap::new();
    for file in std::fs::read_dir(repository(RUNBOOKS)?)? {
        let path = file?.path();
        let name = path.file_stem().and_then(|name| name.to_str()).context("UTF-8")?;
        pages.insert(name.to_owned(), std::fs::read_to_string(&path)?);
    }
    Ok(pages)
}

/// The code blocks of a Markdown page in this language.
pub(crate) fn blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let begin = format!("\n```{language}\n");
    let blocks = page.split(begin.as_str()).skip(1);
    blocks.filter_map(|block| Some(block.split_once("\n```")?.0)).collect()
}
