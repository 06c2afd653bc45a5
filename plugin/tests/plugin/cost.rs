//! `cost`: what a class costs, and the parts of namespaces.

use anyhow::ensure;
use libtest_mimic::Trial;
use serde_json::json;
use sharedlb_harness::{Site, Tests};

use crate::world::World;

pub(crate) fn trials(test: &Tests<World>) -> Vec<Trial> {
    vec![test.test("cost shows what sharing saves, and the parts of namespaces", |world| async move {
        let pricing = json!({"currency": "EUR", "loadBalancerPerHour": "0.1"});
        let limits = json!({"min": 1, "max": 1});
        let spec = json!({"pricing": pricing, "loadBalancers": limits});
        let site = Site::with_pod(&world.cluster, "cost", spec).await?;
        let other = site.other_namespace("cost-other").await?;
        site.assigned("web-0").await?;
        site.assigned("web-1").await?;
        other.assigned("web-0").await?;
        let report = world.report(&["cost", "--class", "cost"]).await?;
        let class = &report["classes"][0];
        ensure!(class["loadBalancers"] == 1 && class["claims"] == 3, "{report}");
        ensure!(class["perMonth"] == "73.00" && class["unsharedPerMonth"] == "219.00", "{report}");
        let parts: Vec<_> = report["namespaces"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|part| (part["namespace"].as_str().unwrap_or_default(), part["perMonth"].as_str().unwrap_or_default()))
            .collect();
        ensure!(parts == [("cost", "48.67"), ("cost-other", "24.33")], "{report}");
        let shown = world.plugin(&["cost", "--class", "cost"]).await?;
        ensure!(shown.status == Some(0) && shown.stdout.contains("146.00 EUR"), "{shown:?}");

        let viewer = world.user("cost", "view").await?;
        let unseen = viewer.plugin(&["cost"]).await?;
        ensure!(unseen.status == Some(4) && unseen.stdout == "no class can be seen\n", "{unseen:?}");
        Ok(())
    })]
}
