//! What a newcomer does: the manifests of the README, with a class of the README
//! or of `deploy/examples`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::DeleteParams;
use libtest_mimic::Trial;
use serde_json::json;
use sharedlb_crds::{ConditionType, Reason};
use sharedlb_harness::front::Front;
use sharedlb_harness::tenant::Tenant;
use sharedlb_harness::{LIMIT, Replica, Tests};
use sharedlb_testbed::Protocol::Tcp;
use sharedlb_testbed::{Cluster, PodPort, PodSpec, eventually};

use crate::SHAREDLB;

/// The namespace of the README's manifests, and the class of both files.
const NAMESPACE: &str = "team-red";
const CLASS: &str = "default";

/// The claims of `deploy/examples`.
const EXAMPLES: [&str; 4] = ["redis", "postgres", "dns", "mqtt"];

pub(crate) fn trials(test: &Tests<Cluster>) -> Vec<Trial> {
    vec![test.test("the README's claim, Service and ConfigMap work with its class, and with the example", newcomer)]
}

/// The manifests of the README, by kind.
fn readme() -> anyhow::Result<BTreeMap<String, String>> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md"))?;
    let blocks = text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let kind = |block: &str| Some(block.lines().find_map(|line| line.strip_prefix("kind: "))?.to_owned());
    Ok(blocks.filter_map(|block| Some((kind(block)?, block.to_owned()))).collect())
}

async fn newcomer(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    let mut replica = Replica::alone(SHAREDLB, &cluster, &[]).await?;
    let readme = readme()?;
    let manifest = |kind: &str| readme.get(kind).with_context(|| format!("the README has no {kind}"));
    let example = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/examples/class.yaml"))?;
    let tenant = Tenant::in_class(&cluster, NAMESPACE, CLASS).await?;
    tenant.pod("web-0", "web").await?;
    let redis = PodSpec::new(NAMESPACE, "redis-0").label("app", "redis").port(PodPort::tcp("redis", 6379));
    cluster.pod(redis).await?;
    // Any Service: the ConfigMap names it.
    let plain = json!({
        "type": "ClusterIP", "loadBalancerClass": null, "allocateLoadBalancerNodePorts": null,
        "ports": [{"name": "redis", "port": 6379}],
    });
    tenant.service("redis", plain).await?;
    for class in [&example, manifest("SharedLBClass")?] {
        cluster.apply(class).await?;
        for kind in ["SharedLB", "Service", "ConfigMap"] {
            cluster.apply(manifest(kind)?).await?;
        }
        tenant.only_answer(tenant.served("web", &[(80, Tcp)]).await?[0], &["web-0"]).await?;
        let claim = tenant.site.ready("redis").await?.status.context("a status")?;
        let address = claim.address.context("an address")?;
        let port = claim.ports.first().context("a port")?.port.get();
        tenant.only_answer(Front::tcp(address.parse()?, port), &["redis-0"]).await?;
        bound(&tenant).await?;
        // The rest of the examples, of which not all pods are there.
        let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/examples/claims.yaml");
        cluster.kubectl_output(&["apply", "-n", NAMESPACE, "-f", examples]).await?;
        for claim in EXAMPLES {
            tenant.site.verdict(claim, ConditionType::Programmed, ("True", Reason::Programmed)).await?;
        }
        Api::<ConfigMap>::namespaced(cluster.admin(), NAMESPACE).delete("redis", &DeleteParams::default()).await?;
        tenant.site.gone("configmap-redis").await?;
        tenant.delete("web").await?;
        for claim in EXAMPLES {
            tenant.site.delete(claim).await?;
        }
        tenant.site.delete_class().await?;
        tenant.site.class_gone().await?;
    }
    replica.kill().await
}

/// Waits until the ConfigMap of the README is bound, and asks there.
async fn bound(tenant: &Tenant) -> anyhow::Result<()> {
    let maps = Api::<ConfigMap>::namespaced(tenant.site.cluster.admin(), NAMESPACE);
    let (address, port): (IpAddr, u16) = eventually("ConfigMap redis to be bound", LIMIT, async || {
        let data = maps.get("redis").await?.data.unwrap_or_default();
        let get = |key: &str| data.get(key).with_context(|| format!("no {key} in {data:?}"));
        Ok(Some((get("bind-ip")?.parse()?, get("bind-port")?.parse()?)))
    })
    .await?;
    ensure!(port >= 20000, "it has port {port}");
    tenant.only_answer(Front::tcp(address, port), &["redis-0"]).await
}
