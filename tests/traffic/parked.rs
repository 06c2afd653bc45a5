//! Ports that a load balancer has from the start, while no claim has them.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::ensure;
use libtest_mimic::Trial;
use serde_json::json;
use sharedlb_harness::front::front;
use sharedlb_harness::tenant::Tenant;
use sharedlb_harness::{LIMIT, Tests, World};
use sharedlb_testbed::eventually;

/// What is parked of the ports 25000 to 25019.
const PARKED: [i32; 6] = [25000, 25001, 25002, 25003, 25004, 25019];

pub(crate) fn trials(test: &Tests<World>) -> Vec<Trial> {
    vec![test.test("a parked port answers nobody, and a claim can have it", parked)]
}

async fn parked(world: Arc<World>) -> anyhow::Result<()> {
    let range = json!([{"min": 25000, "max": 25019}]);
    let class = json!({
        "provider": {"service": {"parkedPorts": "TCP"}},
        "ports": {"dynamic": range, "requestable": range},
    });
    let tenant = Tenant::open(&world.cluster, "parked", class).await?;
    tenant.pod("web-0", "web").await?;
    has_ports(&tenant, &PARKED).await?;
    tenant.site.claim("web", json!([{"port": 25010, "targetPort": 8080}])).await?;
    let web = front(&tenant.site.ready("web").await?, "")?;
    tenant.answers(web, "web-0").await?;
    for parked in [25000, 25019] {
        tenant.silent(web.at(parked)).await?;
    }

    let spec = json!({"selector": {"app": "web"}, "ports": [{"port": 25019, "targetPort": 8080}]});
    tenant.site.claim_with("highest", spec).await?;
    tenant.site.ready("highest").await?;
    tenant.answers(web.at(25019), "web-0").await?;
    has_ports(&tenant, &[25000, 25001, 25002, 25003, 25004, 25010, 25019]).await?;
    tenant.site.delete("highest").await?;
    tenant.closed(web.at(25019)).await?;
    tenant.silent(web.at(25019)).await?;
    has_ports(&tenant, &[25000, 25001, 25002, 25003, 25004, 25010, 25019]).await?;
    tenant.answers(web, "web-0").await.map(drop)
}

/// Waits until the Service of the class has these ports and no others.
async fn has_ports(tenant: &Tenant, numbers: &[i32]) -> anyhow::Result<()> {
    eventually(&format!("the load balancer to have the ports {numbers:?}"), LIMIT, async || {
        let services = tenant.site.front_services().await?;
        let ports = services.iter().filter_map(|service| service.spec.as_ref()?.ports.as_ref()).flatten();
        let found: BTreeSet<i32> = ports.map(|port| port.port).collect();
        ensure!(found.iter().eq(numbers), "it has {found:?}");
        Ok(Some(()))
    })
    .await
}
