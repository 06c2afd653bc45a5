//! `drain`: the controller gives no new ports on a drained load balancer, and takes none away.

use anyhow::ensure;
use libtest_mimic::Trial;
use serde_json::json;
use sharedlb_harness::{Site, Tests, slots};

use crate::world::World;

pub(crate) fn trials(test: &Tests<World>) -> Vec<Trial> {
    vec![test.test("drain keeps new ports away from a load balancer until it is undone", |world| async move {
        let site = Site::with_pod(&world.cluster, "drain", json!({})).await?;
        let first = slots(&site.assigned("first").await?);
        let dry = world.plugin(&["drain", "drain", "0"]).await?;
        ensure!(dry.status == Some(3) && dry.stdout.contains("drain/first"), "{dry:?}");
        ensure!(site.classes.get("drain").await?.spec.load_balancers.cordoned.is_empty(), "it wrote without --apply");

        let applied = world.plugin(&["drain", "drain", "0", "--apply"]).await?;
        ensure!(applied.stdout.contains("Claims get no new ports on load balancer 0 of class drain"), "{applied:?}");
        site.class_seen().await?;
        site.load_balancer(0, "no new ports", |one| one.cordoned.then_some(())).await?;
        let second = slots(&site.assigned("second").await?);
        ensure!(second.values().all(|slot| slot.0 == 1), "{second:?}");
        ensure!(slots(&site.ready("first").await?) == first, "a port that was held has moved");
        let map = world.plugin(&["ports", "--class", "drain"]).await?;
        ensure!(map.stdout.contains("cordoned: no new ports"), "{map:?}");

        site.delete("first").await?;
        let empty = world.plugin(&["drain", "drain", "0"]).await?;
        ensure!(empty.status == Some(0), "{empty:?}");
        world.plugin(&["drain", "drain", "0", "--undo", "--apply"]).await?;
        site.class_seen().await?;
        let third = slots(&site.assigned("third").await?);
        ensure!(third.values().all(|slot| slot.0 == 0), "{third:?}");

        let user = world.user("drain", "edit").await?;
        let refused = user.plugin(&["drain", "drain", "0", "--apply"]).await?;
        ensure!(refused.status == Some(1) && refused.stderr.contains("sharedlbclasses: forbidden"), "{refused:?}");
        Ok(())
    })]
}
