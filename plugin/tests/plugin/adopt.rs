//! `adopt`: nothing is written without `--apply`, and with it, the claims get the ports that the
//! plan says.

use anyhow::ensure;
use k8s_openapi::api::core::v1::Service;
use kube::api::{ListParams, PostParams};
use kube::{Api, ResourceExt as _};
use libtest_mimic::Trial;
use serde_json::{Value, json};
use sharedlb_crds::SharedLB;
use sharedlb_harness::{Site, Tests, slots};

use crate::world::World;

pub(crate) fn trials(test: &Tests<World>) -> Vec<Trial> {
    vec![
        test.test("adopt plans claims, and creates them only with --apply", |world| async move {
            let site = Site::with_pod(&world.cluster, "adopt", json!({})).await?;
            let ports = json!([{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]);
            create(&site, "web", json!({"selector": {"app": "web"}, "ports": ports})).await?;
            create(&site, "second", json!({"selector": {"app": "web"}, "ports": [{"port": 80}]})).await?;
            create(&site, "manual", json!({"ports": [{"port": 81}]})).await?;
            let plan = ["adopt", "-n", "adopt", "--class", "adopt"];
            let shown = world.plugin(&plan).await?;
            ensure!(shown.status == Some(0), "{shown:?}");
            let headline = "2 of 3 Services of type LoadBalancer can share load balancers of class adopt. Load balancers \
                            saved: 1 (the class needs 1 more)";
            for words in [headline, "it has no selector", "Nothing was changed."] {
                ensure!(shown.stdout.contains(words), "no {words:?} in {shown:?}");
            }
            ensure!(site.claims.list(&ListParams::default()).await?.items.is_empty(), "it wrote without --apply");

            let manifests = world.plugin(&[&plan[..], &["--manifests"]].concat()).await?;
            world.cluster.kubectl_run(&["apply", "--dry-run=server", "-f", "-"], &manifests.stdout).await?;
            ensure!(manifests.stdout.matches("kind: SharedLB").count() == 2, "{manifests:?}");

            let applied = world.report(&[&plan[..], &["--apply"]].concat()).await?;
            let created = applied["services"].as_array().into_iter().flatten().filter(|one| one["created"] == "created");
            ensure!(created.count() == 2, "{applied}");
            let held: Vec<(u32, u16)> = slots(&site.ready("web").await?).into_values().map(|slot| (slot.0, slot.2)).collect();
            let second = slots(&site.ready("second").await?).into_values().map(|slot| (slot.0, slot.2));
            let mut all: Vec<(u32, u16)> = held.into_iter().chain(second).collect();
            all.sort_unstable();
            let numbers: Vec<u16> = all.iter().map(|slot| slot.1).collect();
            ensure!(numbers == [53, 80, 80] || numbers == [80, 53, 80], "{all:?}");
            ensure!(all.iter().map(|slot| slot.0).max() == Some(1), "two load balancers, as planned: {all:?}");
            let again = world.plugin(&plan).await?;
            ensure!(again.status == Some(3) && again.stdout.contains("SharedLB web has its pods already"), "{again:?}");
            Ok(())
        }),
        test.test("an editor of a namespace adopts its Services, and a viewer is told that it may not", |world| async move {
            let site = Site::with_pod(&world.cluster, "adopters", json!({})).await?;
            create(&site, "web", json!({"selector": {"app": "web"}, "ports": [{"port": 80}]})).await?;
            let viewer = world.user("adopters", "view").await?;
            let refused = viewer.plugin(&["adopt", "--class", "adopters", "--apply"]).await?;
            ensure!(refused.status == Some(3) && refused.stdout.contains("claim not created"), "{refused:?}");
            let editor = world.user("adopters", "edit").await?;
            let applied = editor.plugin(&["adopt", "web", "--class", "adopters", "--assign-ports", "--apply"]).await?;
            ensure!(applied.status == Some(0) && applied.stdout.contains("claim created"), "{applied:?}");
            let claim: SharedLB = site.ready("web").await?;
            ensure!(claim.spec.ports[0].port.is_none(), "{:?} of {}", claim.spec, claim.name_any());
            Ok(())
        }),
    ]
}

/// Creates a Service of type LoadBalancer that another controller would serve.
async fn create(site: &Site, name: &str, mut spec: Value) -> anyhow::Result<()> {
    spec["type"] = json!("LoadBalancer");
    spec["loadBalancerClass"] = json!("example.com/other");
    spec["allocateLoadBalancerNodePorts"] = json!(false);
    let service: Service = serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec}))?;
    Api::namespaced(site.cluster.admin(), &site.namespace).create(&PostParams::default(), &service).await?;
    Ok(())
}
