//! Targets that are nodes: instances, at the node ports of the claims' Services.

use std::sync::Arc;

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::{Node, Service};
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use libtest_mimic::Trial;
use serde_json::json;
use sharedlb_harness::Tests;

use crate::setting::{FLAGS, Setting, World};

pub(crate) fn trials(test: &Tests<World>) -> Vec<Trial> {
    vec![
        test.test("with targets: Node, instances are registered at the node port, and follow the nodes", nodes),
        test.test("a claim reports that no node is an instance", no_instance),
    ]
}

async fn nodes(world: Arc<World>) -> anyhow::Result<()> {
    let mut setting = Setting::without_class(&world, "nodes").await?;
    let instances = setting.region.instances(3).await?;
    let nodes = Api::<Node>::all(world.cluster.admin());
    for (number, instance) in instances.iter().enumerate() {
        let id = format!("aws:///{}a/{instance}", setting.region.name);
        ready_node(&nodes, &format!("ec2-{number}"), number, Some(&id)).await?;
    }
    setting.create_class(json!({"targets": "Node"}), setting.provider()).await?;
    setting.pod().await?;
    world.controller(&setting.region, &FLAGS).await?;
    setting.create_burst(0..1).await?;
    setting.all_ready(1).await?;
    let node_port = node_port(&setting).await?;
    let targets = |instances: &[String]| -> Vec<String> {
        instances.iter().map(|instance| format!("{instance}:{node_port}")).collect()
    };
    let seen = setting.as_promised_with(&targets(&instances)).await?;
    ensure!(seen.balancers[0].listeners[0].group.kind == "instance", "{seen:?}");

    setting.region.forget().await?;
    nodes.delete("ec2-0", &DeleteParams::default()).await?;
    setting.as_promised_with(&targets(&instances[1..])).await?;
    let calls = setting.actions().await?;
    ensure!(calls == ["DeregisterTargets"], "{calls:?}");
    for name in ["ec2-1", "ec2-2"] {
        nodes.delete(name, &DeleteParams::default()).await?;
    }
    setting.clear().await
}

async fn no_instance(world: Arc<World>) -> anyhow::Result<()> {
    let nodes = Api::<Node>::all(world.cluster.admin());
    ready_node(&nodes, "bare-metal", 0, None).await?;
    let mut setting = Setting::without_class(&world, "no-instance").await?;
    setting.create_class(json!({"targets": "Node"}), setting.provider()).await?;
    setting.pod().await?;
    world.controller(&setting.region, &FLAGS).await?;
    setting.create_burst(0..1).await?;
    setting.without_backends("web-0", &["no node of the cluster is a machine", "spec.providerID"]).await?;
    nodes.delete("bare-metal", &DeleteParams::default()).await?;
    setting.clear().await
}

/// Makes a node that may take traffic, with the nth address.
async fn ready_node(nodes: &Api<Node>, name: &str, nth: usize, provider_id: Option<&str>) -> anyhow::Result<()> {
    let node: Node = serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"providerID": provider_id}}))?;
    nodes.create(&PostParams::default(), &node).await?;
    let address = json!({"type": "InternalIP", "address": format!("10.99.8.{}", nth + 10)});
    let status = json!({"status": {"addresses": [address], "conditions": [{"type": "Ready", "status": "True"}]}});
    nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await?;
    Ok(())
}

/// The node port of the one Service of our own in the namespace.
async fn node_port(setting: &Setting) -> anyhow::Result<i32> {
    let services = Api::<Service>::namespaced(setting.cluster.admin(), &setting.namespace);
    let services = services.list(&ListParams::default()).await?.items;
    let ports = services.into_iter().filter_map(|service| service.spec?.ports).flatten();
    ports.filter_map(|port| port.node_port).next().context("no Service has a node port")
}
