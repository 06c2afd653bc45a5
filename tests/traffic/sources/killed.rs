//! The controller is killed, and what it keeps for Services ends the same.

use std::sync::Arc;

use anyhow::ensure;
use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt;
use kube::api::DeleteParams;
use libtest_mimic::Trial;
use serde_json::json;
use sharedlb_crds::{ConditionType, Reason};
use sharedlb_harness::tenant::{Tenant, condition, fronts};
use sharedlb_harness::{LIMIT, Replica, Tests};
use sharedlb_testbed::Protocol::{Tcp, Udp};
use sharedlb_testbed::{Cluster, eventually};

use crate::SHAREDLB;

pub(crate) fn trials(test: &Tests<Cluster>) -> Vec<Trial> {
    vec![
        test.test(
            "killed after each write, the controller serves a Service, follows its edits, and releases it",
            after_each_write,
        ),
        test.test("changes of Services while the controller was down are applied", while_down),
        test.test("a restart writes nothing to Services that are up to date", restart),
    ]
}

/// More writes than one change of one object takes.
const KILLS_MAX: usize = 60;

/// Kills the controller after each write, of which it never learns, until `done`. It
/// begins with nothing to be done: `cause` makes it.
pub(crate) async fn killed_after_each_write(
    replica: &mut Replica,
    cause: impl Future<Output = anyhow::Result<()>>,
    done: impl AsyncFn() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let kills = replica.kill_after(std::iter::repeat_n(1, KILLS_MAX), cause, done).await?;
    ensure!(kills < KILLS_MAX, "it was killed {kills} times, and was not done");
    ensure!(kills >= 2, "it was done after {kills} kills, so that little was tried");
    Ok(())
}

fn is_served(service: &Service, ports: usize) -> bool {
    let ready = condition(service, "Ready").is_some_and(|found| found.status == "True");
    ready && fronts(service).len() == ports
}

async fn after_each_write(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    let mut replica = Replica::alone(SHAREDLB, &cluster, &[]).await?;
    let tenant = Tenant::open(&cluster, "killed", json!({})).await?;
    tenant.pod("web-0", "web").await?;
    tenant.site.fronts(1).await?;
    let served = async |ports| Ok(is_served(&tenant.services.get("web").await?, ports));
    killed_after_each_write(&mut replica, tenant.service("web", json!({})), async || served(1).await).await?;
    tenant.only_answer(tenant.served("web", &[(80, Tcp)]).await?[0], &["web-0"]).await?;

    let more = json!({"spec": {"ports": [
        {"name": "http", "port": 81, "targetPort": "http"},
        {"name": "dns", "port": 53, "targetPort": "dns", "protocol": "UDP"},
    ]}});
    killed_after_each_write(&mut replica, tenant.change("web", more), async || served(2).await).await?;
    for front in tenant.served("web", &[(81, Tcp), (53, Udp)]).await? {
        tenant.only_answer(front, &["web-0"]).await?;
    }

    let no_longer = json!({"spec": {"type": "ClusterIP"}});
    let let_go = async || Ok(tenant.services.get("web").await?.finalizers().is_empty());
    killed_after_each_write(&mut replica, tenant.change("web", no_longer), let_go).await?;
    tenant.let_go("web").await?;

    let class = json!({"spec": {"type": "LoadBalancer", "loadBalancerClass": "sharedlb.dev/killed"}});
    tenant.change("web", class).await?;
    tenant.served("web", &[(81, Tcp), (53, Udp)]).await?;
    let delete = async {
        tenant.services.delete("web", &DeleteParams::default()).await?;
        Ok(())
    };
    let gone = async || Ok(tenant.services.get_opt("web").await?.is_none());
    killed_after_each_write(&mut replica, delete, gone).await?;
    tenant.site.gone("service-web").await?;
    clear(&tenant, replica).await
}

async fn while_down(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    let mut replica = Replica::alone(SHAREDLB, &cluster, &[]).await?;
    let tenant = Tenant::open(&cluster, "while-down", json!({})).await?;
    let names = ["deleted", "changed", "edited", "by-force"];
    for (name, port) in names.into_iter().zip(8001..) {
        tenant.pod(&format!("{name}-0"), name).await?;
        let ports = json!([{"name": "http", "port": port, "targetPort": "http"}]);
        tenant.service(name, json!({"ports": ports})).await?;
        tenant.served(name, &[(port, Tcp)]).await?;
    }
    replica.kill().await?;
    tenant.services.delete("deleted", &DeleteParams::default()).await?;
    ensure!(tenant.services.get_opt("deleted").await?.is_some(), "nothing keeps it until its port is given back");
    tenant.change("changed", json!({"spec": {"type": "ClusterIP"}})).await?;
    let ports = json!([{"name": "http", "port": 8100, "targetPort": "http"}]);
    tenant.change("edited", json!({"spec": {"ports": ports}})).await?;
    // Its finalizer is removed by force, and another of that name is created.
    tenant.change("by-force", json!({"metadata": {"finalizers": null}})).await?;
    tenant.delete("by-force").await?;
    tenant.service("by-force", json!({"ports": [{"name": "http", "port": 8101, "targetPort": "http"}]})).await?;
    replica.start()?;
    tenant.site.gone("service-deleted").await?;
    eventually("the deleted Service to be gone", LIMIT, async || {
        Ok(tenant.services.get_opt("deleted").await?.is_none().then_some(()))
    })
    .await?;
    tenant.let_go("changed").await?;
    for (name, port) in [("edited", 8100), ("by-force", 8101)] {
        let front = tenant.served(name, &[(port, Tcp)]).await?[0];
        tenant.only_answer(front, &[&format!("{name}-0")]).await?;
        for old in [8003, 8004] {
            tenant.closed(front.at(old)).await?;
        }
        tenant.delete(name).await?;
    }
    clear(&tenant, replica).await
}

async fn restart(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    let mut replica = Replica::alone(SHAREDLB, &cluster, &[]).await?;
    let tenant = Tenant::open(&cluster, "restart", json!({})).await?;
    tenant.pod("web-0", "web").await?;
    tenant.service("web", json!({"externalTrafficPolicy": "Local"})).await?;
    tenant.served("web", &[(80, Tcp)]).await?;
    tenant.service("refused", json!({"loadBalancerSourceRanges": ["192.0.2.0/24"]})).await?;
    tenant.event("Service", "refused", "Unsupported").await?;
    tenant.reports("refused", "Allocated", "Unsupported").await?;
    tenant.event("Service", "web", "ExternalTrafficPolicy").await?;
    tenant.event("Service", "web", "Ready").await?;
    // A ConfigMap has no status for it.
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "wrong", "namespace": "restart", "labels": {"app": "loadbalancer"}},
    });
    cluster.apply(&map.to_string()).await?;
    tenant.event("ConfigMap", "wrong", "MissingKey").await?;
    // The class' status is written last.
    tenant.site.class_verdict(ConditionType::Ready, ("True", Reason::Ready)).await?;
    tenant.site.load_balancer(0, "its listener", |found| (found.listeners == 1).then_some(())).await?;
    let ended = replica.terminate().await?;
    ensure!(ended.success(), "it ended with {ended}");
    let writes = replica.proxy.faults.writes();
    replica.start()?;
    replica.controller_mut()?.until_ready().await?;
    let controller = replica.controller()?;
    eventually("the load balancer to have been looked at", LIMIT, async || {
        let metrics = controller.metrics().await?;
        Ok((metrics.sum("sharedlb_load_balancer_run_duration_seconds_count", &[]) >= 1.0).then_some(()))
    })
    .await?;
    let writes = replica.proxy.faults.writes() - writes;
    ensure!(writes == 0, "it made {writes} writes");
    for name in ["web", "refused"] {
        tenant.delete(name).await?;
    }
    clear(&tenant, replica).await
}

/// Removes the class, and ends the controller, so that the next test finds
/// nothing of this one.
async fn clear(tenant: &Tenant, mut replica: Replica) -> anyhow::Result<()> {
    tenant.site.delete_class().await?;
    tenant.site.class_gone().await?;
    replica.kill().await
}
