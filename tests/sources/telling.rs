//! What users read.

use std::sync::Arc;

use anyhow::ensure;
use libtest_mimic::Trial;
use serde_json::json;
use sharedlb_testbed::Protocol::Tcp;
use sharedlb_testbed::eventually;

use crate::harness::{LIMIT, Tests, World};
use crate::tenant::Tenant;

pub(crate) fn trials(test: &Tests<World>) -> Vec<Trial> {
    vec![
        test.test("kubectl get and describe of a Service say where it is and what became of it", kubectl),
        test.test("what a source writes is counted", counted),
    ]
}

async fn kubectl(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world.cluster, "kubectl", json!({"loadBalancers": {"max": 1}})).await?;
    tenant.pod("web-0", "web").await?;
    tenant.service("web", json!({})).await?;
    let address = tenant.served("web", &[(80, Tcp)]).await?[0].0.to_string();
    tenant.event("Service", "web", "Ready").await?;
    let run = async |arguments: &[&str]| world.cluster.kubectl_output(arguments).await;
    let got = run(&["get", "svc", "web", "-n", "kubectl"]).await?;
    ensure!(got.contains(&address) && got.contains("80/TCP"), "{got}");
    let described = run(&["describe", "svc", "web", "-n", "kubectl"]).await?;
    let lines =
        ["sharedlb.dev/claim: service-web", "80/TCP on load balancer 0 of class kubectl", "sharedlb.dev/controller"];
    for line in [address.as_str()].into_iter().chain(lines) {
        ensure!(described.contains(line), "no {line:?} in\n{described}");
    }
    let claims = run(&["get", "slb", "-A", "-l", "sharedlb.dev/source=service"]).await?;
    ensure!(claims.lines().any(|line| line.contains("service-web") && line.contains("80/TCP→http")), "{claims}");
    Ok(())
}

async fn counted(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world.cluster, "counted", json!({})).await?;
    tenant.pod("web-0", "web").await?;
    tenant.service("web", json!({})).await?;
    tenant.served("web", &[(80, Tcp)]).await?;
    // What is written can be seen before it is counted.
    for (kind, operation) in [("Service", "finalizer"), ("Service", "status"), ("SharedLB", "create")] {
        let labels = [("kind", kind), ("operation", operation), ("result", "ok")];
        eventually(&format!("{operation} of a {kind} to be counted"), LIMIT, async || {
            let counted = world.controller.metrics().await?.sum("sharedlb_api_writes_total", &labels);
            Ok((counted >= 1.0).then_some(()))
        })
        .await?;
    }
    Ok(())
}
