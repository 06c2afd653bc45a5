//! The node ports of the cluster are used up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use libtest_mimic::Trial;
use serde_json::json;
use sharedlb_crds::{ConditionType, Reason};
use sharedlb_harness::{Site, Tests, condition, port_names};
use sharedlb_testbed::Cluster;

use crate::setting::Setting;

/// Node ports by default: 30000 to 32767.
const NODE_PORTS: usize = 2768;

/// What is freed is used well before the longest backoff (60 s) is over.
const SOON: Duration = Duration::from_secs(10);

pub(crate) fn trials(test: &Tests<Cluster>) -> Vec<Trial> {
    vec![test.test("without a free node port, a claim waits alone, and gets the next one that is released", used_up)]
}

async fn used_up(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    let setting = Setting::start(&cluster, "used-up").await?;
    let class = json!({"provider": {"service": {"allocateLoadBalancerNodePorts": true}}});
    setting.site.change_class(json!({ "spec": class })).await?;
    let site = &setting.site;
    site.assigned("first").await?;
    site.assigned("second").await?;
    let fillers = fill_up(site).await?;

    for name in ["third", "fourth"] {
        site.claim(name, json!([{"targetPort": "http"}])).await?;
        site.verdict(name, ConditionType::Programmed, ("False", Reason::ProviderRefused)).await?;
        let claim = site.claims.get(name).await?;
        let told = condition(&claim, ConditionType::Programmed).map(|found| found.message.clone()).unwrap_or_default();
        for words in ["node port", "--service-node-port-range", "allocateLoadBalancerNodePorts: false"] {
            ensure!(told.contains(words), "{told}");
        }
    }
    // Their backoff has grown, and neither has anything been closed for them.
    let ports = port_names(&site.fronts(1).await?[0]);
    ensure!(ports.len() == 2, "{ports:?}");
    for (goes, comes) in [("first", "third"), ("second", "fourth")] {
        let begun = Instant::now();
        site.delete(goes).await?;
        site.ready(comes).await?;
        ensure!(begun.elapsed() < SOON, "it took {:?}", begun.elapsed());
    }
    for filler in fillers {
        services_of(site).delete(&filler, &DeleteParams::default()).await?;
    }
    setting.clear().await
}

/// Uses all free node ports up by Services of the tenant, and returns their names.
async fn fill_up(site: &Site) -> anyhow::Result<Vec<String>> {
    let services = services_of(site);
    let mut names = Vec::new();
    let mut size = NODE_PORTS / 4;
    while size > 0 {
        let name = format!("filler-{}", names.len());
        let ports: Vec<_> = (1..=size).map(|port| json!({"name": format!("p{port}"), "port": port})).collect();
        let service: Service = serde_json::from_value(json!({
            "metadata": {"name": name}, "spec": {"type": "NodePort", "ports": ports},
        }))?;
        match services.create(&PostParams::default(), &service).await {
            Ok(_) => names.push(name),
            Err(kube::Error::Api(status)) if status.message.contains("range is full") => size /= 2,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(names)
}

/// The Services of the tenant.
fn services_of(site: &Site) -> Api<Service> {
    Api::namespaced(site.cluster.admin(), &site.namespace)
}
