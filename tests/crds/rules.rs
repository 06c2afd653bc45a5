//! Every case of the crate `sharedlb-crds`, and what is filled in.

use anyhow::{Context, bail, ensure};
use kube::api::{ApiResource, DynamicObject, PostParams};
use kube::{Api, Client};
use libtest_mimic::Trial;
use serde_json::{Value, json};
use sharedlb_crds::{SharedLB, SharedLBClass, SharedLBClassSpec};

use sharedlb_harness::Tests;
use sharedlb_testbed::Cluster;

use crate::cases::{self, Case, Outcome};

pub(crate) fn trials(test: &Tests<Cluster>) -> Vec<Trial> {
    let cases = cases::all().into_iter().enumerate();
    let mut trials: Vec<Trial> = cases
        .map(|(number, case)| {
            test.test(&case.name.clone(), move |cluster| async move { try_case(cluster.admin(), number, case).await })
        })
        .collect();
    trials.push(test.test("all fields of a class have defaults", |cluster| async move {
        let class = json!({
            "apiVersion": "sharedlb.dev/v1alpha1",
            "kind": "SharedLBClass",
            "metadata": { "name": "small" },
            "spec": { "provider": { "service": {} } },
        });
        let spec = &create(&cluster.admin(), &class).await?.data["spec"];
        let defaults = serde_json::to_value(SharedLBClassSpec::default())?;
        ensure!(*spec == defaults, "the API server made it {spec}, the Rust types {defaults}");
        Ok(())
    }));
    trials.push(test.test("name and protocol of a port have defaults", |cluster| async move {
        let claim = json!({
            "apiVersion": "sharedlb.dev/v1alpha1",
            "kind": "SharedLB",
            "metadata": { "name": "small" },
            "spec": { "selector": { "app": "redis" }, "ports": [{ "port": 6379 }] },
        });
        let ports = &create(&cluster.admin(), &claim).await?.data["spec"]["ports"];
        ensure!(*ports == json!([{ "name": "", "port": 6379, "protocol": "TCP" }]), "{ports}");
        Ok(())
    }));
    trials
}

async fn try_case(client: Client, number: usize, case: Case) -> anyhow::Result<()> {
    let result = match case.before {
        None => create(&client, &case.object).await,
        Some(before) => change(&client, &format!("case-{number}"), before, case.object).await?,
    };
    match (case.outcome, result) {
        (Outcome::Accepted, result) => result.map(drop).context("it was refused"),
        (_, Ok(_)) => bail!("it was accepted"),
        (Outcome::RefusedByRule(message) | Outcome::RefusedBySchema(message), Err(error)) => {
            let said = error.to_string();
            ensure!(said.contains(message), "it was refused with: {said}");
            Ok(())
        }
    }
}

/// What comes of creating it. Nothing is left behind.
async fn create(client: &Client, object: &Value) -> kube::Result<DynamicObject> {
    let object = parsed(object);
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    api(client, &object).create(&dry_run, &object).await
}

/// What comes of replacing one object by another, under a name of their own.
async fn change(
    client: &Client,
    name: &str,
    before: Value,
    after: Value,
) -> anyhow::Result<kube::Result<DynamicObject>> {
    let (mut before, mut after) = (parsed(&before), parsed(&after));
    before.metadata.name = Some(name.into());
    let api = api(client, &before);
    let created = api.create(&PostParams::default(), &before).await.context("creating what is changed")?;
    after.metadata = created.metadata;
    Ok(api.replace(name, &PostParams::default(), &after).await)
}

fn parsed(object: &Value) -> DynamicObject {
    serde_json::from_value(object.clone()).expect("every case has a kind and metadata")
}

fn api(client: &Client, object: &DynamicObject) -> Api<DynamicObject> {
    match object.types.as_ref().map(|types| types.kind.as_str()) {
        Some("SharedLB") => Api::default_namespaced_with(client.clone(), &ApiResource::erase::<SharedLB>(&())),
        _ => Api::all_with(client.clone(), &ApiResource::erase::<SharedLBClass>(&())),
    }
}
