//! What an ordinary user gets, who may see one namespace: what is there, and what is missing.

use anyhow::ensure;
use libtest_mimic::Trial;
use serde_json::json;
use sharedlb_crds::Reason;
use sharedlb_harness::{Site, Tests};

use crate::world::World;

pub(crate) fn trials(test: &Tests<World>) -> Vec<Trial> {
    vec![
        test.test("a viewer of one namespace sees its claims, and which role would show more", |world| async move {
            let site = Site::with_pod(&world.cluster, "viewer", json!({})).await?;
            site.assigned("web").await?;
            let user = world.user("viewer", "view").await?;
            let status = user.plugin(&["status"]).await?;
            ensure!(status.status == Some(0) && status.stdout.contains("Claims: 1, 0 not ready"), "{status:?}");
            let ask = "could not see sharedlbclasses: forbidden; ask an administrator for the ClusterRole sharedlb-view, \
                       bound in the whole cluster";
            ensure!(status.stderr.contains(ask), "{status:?}");
            let report = user.plugin(&["ports", "-o", "json"]).await?;
            let report: serde_json::Value = serde_json::from_str(&report.stdout)?;
            ensure!(report["loadBalancers"][0]["ports"][0]["takenBy"]["claim"] == "viewer/web", "{report}");
            let unseen = report["unseen"].as_array().map(Vec::len);
            ensure!(unseen == Some(2), "classes, and claims of other namespaces: {report}");
            Ok(())
        }),
        test.test("a port that a viewer sees nothing on may be taken all the same", |world| async move {
            let site = Site::with_pod(&world.cluster, "partial", json!({})).await?;
            site.assigned("web").await?;
            let user = world.user("partial", "view").await?;
            let answer = user.plugin(&["who-has", "1"]).await?;
            ensure!(answer.status == Some(4), "{answer:?}");
            ensure!(answer.stdout == "nothing that can be seen has it\n", "{answer:?}");
            Ok(())
        }),
        test.test("a viewer gets a claim explained by its conditions and Events", |world| async move {
            let site = Site::with_pod(&world.cluster, "explained", json!({"allowedNamespaces": {"from": "Selector", "selector": {"matchLabels": {"no": "one"}}}})).await?;
            site.claim("web", json!([{"targetPort": "http"}])).await?;
            site.refused("web", Reason::NotPermitted, &[]).await?;
            let user = world.user("explained", "view").await?;
            let found = user.plugin(&["explain", "web"]).await?;
            ensure!(found.status == Some(3), "{found:?}");
            for words in ["does not serve namespace explained", "What helps (team, admin): Choose another class", "EVENT"] {
                ensure!(found.stdout.contains(words), "no {words:?} in {found:?}");
            }
            Ok(())
        }),
    ]
}
