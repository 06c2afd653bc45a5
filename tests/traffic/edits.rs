//! The list of ports is edited while clients are connected: no connection fails.

use std::cell::Cell;
use std::sync::Arc;

use anyhow::ensure;
use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use libtest_mimic::Trial;
use serde_json::{Value, json};
use sharedlb_harness::front::{Front, front};
use sharedlb_harness::tenant::Tenant;
use sharedlb_harness::{LIMIT, Tests, World};
use sharedlb_testbed::{Protocol, eventually};

pub(crate) fn trials(test: &Tests<World>) -> Vec<Trial> {
    vec![
        test.test("no connection fails while the ports of a claim get names, other names and another order", renamed),
        test.test("no connection fails while TCP and UDP of one number are merged and split", merged),
        test.test("no connection fails while the ports of a Service get other names and another order", of_a_service),
    ]
}

/// Asks all the time while `edits` go on, and requires that every question is
/// answered by this pod.
async fn while_asked(
    tenant: &Tenant,
    asked: &[Front],
    pod: &str,
    edits: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let over = Cell::new(false);
    let edits = async {
        let result = edits.await;
        over.set(true);
        result
    };
    let asking = asked.iter().map(|&front| {
        let over = &over;
        async move {
            let (mut answers, mut failed) = (0, Vec::new());
            while !over.get() {
                match tenant.ask(front).await {
                    Ok(answer) if answer.name == pod => answers += 1,
                    other => failed.push(other),
                }
            }
            ensure!(answers > 0 && failed.is_empty(), "{answers} answers at {front:?}, and {failed:?}");
            Ok(())
        }
    });
    let (edited, asked) = tokio::join!(edits, futures::future::join_all(asking));
    edited?;
    asked.into_iter().collect()
}

/// Waits until the status is about the spec, all of which is served.
async fn settled(tenant: &Tenant, name: &str) -> anyhow::Result<()> {
    eventually(&format!("claim {name} as it is asked for"), LIMIT, async || {
        let claim = tenant.site.claims.get(name).await?;
        let status = claim.status.clone().unwrap_or_default();
        let names = |ports: Vec<&String>| ports.into_iter().cloned().collect::<Vec<_>>();
        let told = names(status.ports.iter().map(|port| &port.name).collect());
        ensure!(told == names(claim.spec.ports.iter().map(|port| &port.name).collect()), "the status has {told:?}");
        ensure!(status.observed_generation == claim.metadata.generation, "{status:?}");
        Ok(status.conditions.iter().all(|condition| condition.status == "True").then_some(()))
    })
    .await
}

async fn edit(tenant: &Tenant, name: &str, lists: Vec<Value>) -> anyhow::Result<()> {
    for ports in lists {
        tenant.site.change(name, json!({"spec": {"ports": ports}})).await?;
        settled(tenant, name).await?;
    }
    Ok(())
}

async fn renamed(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world.cluster, "edits-names", json!({})).await?;
    tenant.pod("web-0", "web").await?;
    let web = front(&tenant.site.assigned("web").await?, "")?;
    let port = |name: &str, target: Value| json!({"name": name, "targetPort": target});
    let lists = vec![
        json!([port("dns", json!(5353)), port("web", json!("http"))]),
        json!([port("site", json!("http")), port("dns", json!(5353))]),
        json!([port("page", json!("http")), port("names", json!(5353))]),
        json!([port("page", json!(8080)), port("names", json!(5353))]),
        json!([port("", json!(8080))]),
    ];
    while_asked(&tenant, &[web], "web-0", edit(&tenant, "web", lists)).await?;
    let after = front(&tenant.site.ready("web").await?, "")?;
    ensure!(after.port == web.port, "{web:?} {after:?}");
    Ok(())
}

async fn merged(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world.cluster, "edits-merged", json!({})).await?;
    tenant.pod("dns-0", "web").await?;
    let port = |name: &str, protocol: &str| json!({"name": name, "protocol": protocol, "targetPort": 5353});
    tenant.site.claim("dns", json!([port("dns", "TCP")])).await?;
    let dns = front(&tenant.site.ready("dns").await?, "dns")?;
    while_asked(&tenant, &[dns], "dns-0", edit(&tenant, "dns", vec![json!([port("dns", "TCP_UDP")])])).await?;
    tenant.answers(dns.by(Protocol::Udp), "dns-0").await?;
    let lists = vec![
        json!([port("u", "UDP"), port("t", "TCP")]),
        json!([port("t", "TCP"), port("u", "UDP")]),
        json!([port("both", "TCP_UDP")]),
    ];
    while_asked(&tenant, &[dns, dns.by(Protocol::Udp)], "dns-0", edit(&tenant, "dns", lists)).await?;
    while_asked(&tenant, &[dns], "dns-0", edit(&tenant, "dns", vec![json!([port("dns", "TCP")])])).await?;
    tenant.closed(dns.by(Protocol::Udp)).await
}

async fn of_a_service(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world.cluster, "edits-service", json!({})).await?;
    tenant.pod("web-0", "web").await?;
    let services: Api<Service> = Api::namespaced(tenant.site.cluster.admin(), &tenant.site.namespace);
    let spec = json!({
        "type": "LoadBalancer", "loadBalancerClass": "sharedlb.dev/edits-service", "selector": {"app": "web"},
        "allocateLoadBalancerNodePorts": false, "ports": [{"port": 80, "targetPort": "http"}],
    });
    let service = json!({
        "metadata": {"name": "web", "annotations": {"sharedlb.dev/assign-ports": "true"}}, "spec": spec,
    });
    services.create(&PostParams::default(), &serde_json::from_value(service)?).await?;
    let claim = "service-web";
    eventually("the claim of the Service", LIMIT, async || Ok(tenant.site.claims.get_opt(claim).await?.map(drop)))
        .await?;
    let before = tenant.site.ready(claim).await?;
    let web = front(&before, &before.spec.ports[0].name)?;
    let port = |name: &str, number: u16, target: Value| json!({"name": name, "port": number, "targetPort": target});
    let edits = async {
        for ports in [
            json!([port("dns", 53, json!(5353)), port("web", 80, json!("http"))]),
            json!([port("page", 80, json!("http")), port("dns", 53, json!(5353))]),
            json!([port("page", 80, json!(8080))]),
        ] {
            let count = ports.as_array().map(Vec::len);
            let change = Patch::Merge(json!({"spec": {"ports": ports}}));
            services.patch("web", &PatchParams::default(), &change).await?;
            eventually("the claim to follow", LIMIT, async || {
                Ok((Some(tenant.site.claims.get(claim).await?.spec.ports.len()) == count).then_some(()))
            })
            .await?;
            settled(&tenant, claim).await?;
        }
        Ok(())
    };
    while_asked(&tenant, &[web], "web-0", edits).await?;
    let after = tenant.site.ready(claim).await?;
    ensure!(front(&after, &after.spec.ports[0].name)?.port == web.port, "{:?}", after.status);
    Ok(())
}
