//! The status subresource, and what `kubectl get` shows of it.

use anyhow::{Context, ensure};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use libtest_mimic::Trial;
use serde_json::{Value, json};
use sharedlb_crds::{SharedLB, SharedLBClass};

use sharedlb_harness::{LIMIT, Tests};
use sharedlb_testbed::{Cluster, eventually};

pub(crate) fn trials(test: &Tests<Cluster>) -> Vec<Trial> {
    vec![
        test.test("a claim cannot be created with a status", |cluster| async move {
            let claim: SharedLB = serde_json::from_value(claim("with-status"))?;
            let created = claims(cluster.admin()).create(&PostParams::default(), &claim).await?;
            ensure!(created.status.is_none(), "{:?}", created.status);
            Ok(())
        }),
        test.test("a claim's status keeps every field and touches no spec", |cluster| async move {
            let created = with_status(claims(cluster.admin()), claim("full-status")).await?;
            let claim: SharedLB = serde_json::from_value(claim("full-status"))?;
            ensure!(created.status == claim.status, "{:?}", created.status);
            ensure!(created.metadata.generation == Some(1), "{:?}", created.metadata);
            Ok(())
        }),
        test.test("a class's status keeps every field and touches no spec", |cluster| async move {
            let classes: Api<SharedLBClass> = Api::all(cluster.admin());
            let created = with_status(classes, class("full-status")).await?;
            let class: SharedLBClass = serde_json::from_value(class("full-status"))?;
            ensure!(created.status == class.status, "{:?}", created.status);
            ensure!(created.metadata.generation == Some(1), "{:?}", created.metadata);
            Ok(())
        }),
        test.test("kubectl get slb shows class, address, ports and readiness", |cluster| async move {
            with_status(claims(cluster.admin()), claim("columns")).await?;
            let shown = cluster.kubectl_output(&["get", "slb", "columns"]).await?;
            let expected =
                ["NAME CLASS ADDRESS PORTS READY AGE", "columns default nlb-1.example.com 20417/TCP→redis True"];
            same_table(&shown, expected)?;
            let shown = cluster.kubectl_output(&["get", "slb", "columns", "-o", "wide"]).await?;
            let expected = [
                "NAME CLASS ADDRESS PORTS READY REASON AGE",
                "columns default nlb-1.example.com 20417/TCP→redis True Ready",
            ];
            same_table(&shown, expected)
        }),
        test.test("kubectl get slbc shows provider, default, load balancers and readiness", |cluster| async move {
            let classes: Api<SharedLBClass> = Api::all(cluster.admin());
            with_status(classes, class("columns")).await?;
            let shown = cluster.kubectl_output(&["get", "slbc", "columns"]).await?;
            let expected =
                ["NAME PROVIDER DEFAULT LOADBALANCERS READY AGE", "columns service true 2 of 10, 87 listeners True"];
            same_table(&shown, expected)
        }),
        test.test("kubectl explain describes the fields", |cluster| async move {
            // The API server tells it some time after the definition counts.
            eventually("kubectl to explain a field", LIMIT, async || {
                let shown = cluster.kubectl_output(&["explain", "slb.spec.ports.port"]).await?;
                ensure!(shown.contains("If left out or 0"), "{shown}");
                Ok(Some(()))
            })
            .await
        }),
    ]
}

fn claims(client: Client) -> Api<SharedLB> {
    Api::default_namespaced(client)
}

/// Creates an object, and then writes its status as the controller does.
async fn with_status<K>(api: Api<K>, object: Value) -> anyhow::Result<K>
where
    K: Clone + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned,
{
    let name = object["metadata"]["name"].as_str().context("it has a name")?;
    let parsed: K = serde_json::from_value(object.clone())?;
    api.create(&PostParams::default(), &parsed).await?;
    let status = json!({
        "apiVersion": object["apiVersion"],
        "kind": object["kind"],
        "status": object["status"],
    });
    let params = PatchParams::apply(sharedlb_crds::FIELD_MANAGER);
    Ok(api.patch_status(name, &params, &Patch::Apply(status)).await?)
}

/// Compares a header and a row, but for the width of the columns and the age.
fn same_table(shown: &str, expected: [&str; 2]) -> anyhow::Result<()> {
    let lines: Vec<String> = shown.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    let [header, row] = lines.as_slice() else { anyhow::bail!("not a header and a row: {shown}") };
    ensure!(header == expected[0], "the columns are: {shown}");
    ensure!(row.starts_with(expected[1]), "the row is: {shown}");
    Ok(())
}

fn condition(kind: &str) -> Value {
    json!({
        "type": kind,
        "status": "True",
        "reason": kind,
        "message": "As it should be.",
        "observedGeneration": 1,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    })
}

/// A claim whose status has every field there is.
fn claim(name: &str) -> Value {
    json!({
        "apiVersion": "sharedlb.dev/v1alpha1",
        "kind": "SharedLB",
        "metadata": { "name": name },
        "spec": { "selector": { "app": "redis" }, "ports": [{ "name": "redis", "targetPort": 6379 }] },
        "status": {
            "className": "default",
            "loadBalancerIndex": 0,
            "address": "nlb-1.example.com",
            "summary": "20417/TCP→redis",
            "loadBalancer": { "ingress": [
                { "hostname": "nlb-1.example.com", "ports": [{ "port": 20417, "protocol": "TCP" }] },
                { "ip": "10.0.0.10", "ports": [{ "port": 20417, "protocol": "UDP" }] },
            ] },
            "ports": [{ "name": "redis", "protocol": "TCP_UDP", "port": 20417 }],
            "observedGeneration": 1,
            "conditions": [condition("Allocated"), condition("Programmed"), condition("Ready")],
        },
    })
}

/// A class whose status has every field there is.
fn class(name: &str) -> Value {
    json!({
        "apiVersion": "sharedlb.dev/v1alpha1",
        "kind": "SharedLBClass",
        "metadata": { "name": name, "annotations": { sharedlb_crds::DEFAULT_CLASS_ANNOTATION: "true" } },
        "spec": { "provider": { "service": {} } },
        "status": {
            "provider": "service",
            "summary": "2 of 10, 87 listeners",
            "loadBalancers": [{
                "index": 0,
                "address": "nlb-1.example.com",
                "listeners": 37,
                "capacity": { "listeners": 50, "targets": 500 },
                "foreignPorts": ["22/TCP"],
                "released": [{
                    "port": 20418,
                    "protocol": "TCP",
                    "claim": "team-a/old",
                    "time": "2026-01-01T00:00:00Z",
                }],
                "emptySince": "2026-01-01T00:00:00Z",
                "conditions": [condition("Ready")],
            }],
            "observedGeneration": 1,
            "conditions": [condition("Accepted"), condition("Ready")],
        },
    })
}
