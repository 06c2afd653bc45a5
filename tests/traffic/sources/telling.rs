//! What users read.

use std::sync::Arc;

use anyhow::ensure;
use libtest_mimic::Trial;
use serde_json::json;
use sharedlb_harness::tenant::Tenant;
use sharedlb_harness::{LIMIT, Tests, World, Writes, at_most};
use sharedlb_testbed::Protocol::Tcp;
use sharedlb_testbed::eventually;

/// How many Services there are where their writes are counted.
const COUNTED: usize = 40;

/// How many of them are created at once.
const AT_ONCE: usize = 8;

pub(crate) fn trials(test: &Tests<World>) -> Vec<Trial> {
    vec![
        test.test("kubectl get and describe of a Service show its address and state", kubectl),
        test.test("writes of a source are counted", counted),
        test.test("a new Service costs five writes, until it is ready and its Event is there", writes),
    ]
}

async fn kubectl(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world.cluster, "kubectl", json!({"loadBalancers": {"max": 1}})).await?;
    tenant.pod("web-0", "web").await?;
    tenant.service("web", json!({})).await?;
    let address = tenant.served("web", &[(80, Tcp)]).await?[0].address.to_string();
    tenant.event("Service", "web", "Ready").await?;
    let run = async |arguments: &[&str]| world.cluster.kubectl_output(arguments).await;
    let got = run(&["get", "svc", "web", "-n", "kubectl"]).await?;
    ensure!(got.contains(&address) && got.contains("80/TCP"), "{got}");
    let described = run(&["describe", "svc", "web", "-n", "kubectl"]).await?;
    let told = format!("80/TCP→http at {address}");
    for line in [address.as_str(), &told, "sharedlb.dev/claim: service-web", "sharedlb.dev/controller"] {
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
    tenant.delete("web").await?;
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

async fn writes(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world.cluster, "writes", json!({"portsPerNamespace": 1000})).await?;
    let assigned = json!({"sharedlb.dev/assign-ports": "true"});
    let selector = json!({"selector": {"app": "web"}});
    tenant.pod("web-0", "web").await?;
    // The load balancer has its address before the Services that count.
    tenant.service_with("first", assigned.clone(), selector.clone()).await?;
    tenant.event("Service", "first", "Ready").await?;
    let writes = Writes::of(&world.cluster.admin(), "writes").await?;
    let names: Vec<String> = (0..COUNTED).map(|number| format!("web-{number}")).collect();
    // One that waits for long is told so, which is a write more.
    for names in names.chunks(AT_ONCE) {
        for name in names {
            tenant.service_with(name, assigned.clone(), selector.clone()).await?;
        }
        // Events are written one after another, after all else about a Service.
        for name in names {
            tenant.event("Service", name, "Ready").await?;
        }
    }
    at_most(&writes.counts(), 5 * COUNTED, COUNTED)
}
