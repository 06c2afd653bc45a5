//! The nodes that traffic enters by. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::objects::Zone;
use super::settings::Settings;
use crate::share::{TargetLimits, chosen, rank, shares};

/// The names of instances by their zone.
pub(super) type Nodes = BTreeMap<Zone, BTreeSet<String>>;

/// The scheme of the provider ids of instances.
const SCHEME: &str = "gce://";

/// The nodes that get traffic from a load balancer: as many of each zone, as far as it has them,
/// and always the same ones, so that few are exchanged when one comes or goes. Nodes of other
/// projects and regions cannot be in its groups.
pub(super) fn entry_nodes(ids: &BTreeSet<Arc<str>>, settings: &Settings) -> Nodes {
    let mut zones: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (zone, instance) in ids.iter().filter_map(|id| instance(id, settings)) {
        zones.entry(zone).or_default().push(instance);
    }
    let count = |instances: &Vec<&str>| u32::try_from(instances.len()).unwrap_or(u32::MAX);
    let counts: Vec<u32> = zones.values().map(count).collect();
    let limits = TargetLimits { of_listener: None, in_all: Some(settings.entry_nodes) };
    let of_zones = zones.into_iter().zip(shares(&counts, limits)).filter(|(_, share)| *share > 0);
    let of_zone = |((zone, instances), share): ((&str, Vec<&str>), u32)| {
        let most = usize::try_from(share).unwrap_or(usize::MAX);
        let instances = chosen(instances, most, |instance| rank([zone.as_bytes(), instance.as_bytes()]));
        (zone.into(), instances.into_iter().map(str::to_owned).collect())
    };
    of_zones.map(of_zone).collect()
}

/// The zone and the name of an instance of the load balancers' project and region.
fn instance<'a>(id: &'a str, Settings { project, region, .. }: &Settings) -> Option<(&'a str, &'a str)> {
    let mut parts = id.strip_prefix(SCHEME)?.split('/');
    let (of_project, zone, name) = (parts.next()?, parts.next()?, parts.next()?);
    let is_of_region = zone.strip_prefix(region.as_str()).is_some_and(|rest| rest.starts_with('-'));
    (of_project == project && is_of_region).then_some((zone, name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gcp::fixture::settings;

    fn nodes(ids: &[String], most: u32) -> Nodes {
        let ids = ids.iter().map(|id| Arc::from(id.as_str())).collect();
        entry_nodes(&ids, &Settings { entry_nodes: most, ..settings() })
    }

    fn ids(zone: &str, count: usize) -> Vec<String> {
        (0..count).map(|n| format!("gce://project/europe-west3-{zone}/node-{n}")).collect()
    }

    fn count(nodes: &Nodes) -> Vec<usize> {
        nodes.values().map(BTreeSet::len).collect()
    }

    #[test]
    fn each_zone_gets_an_equal_share_and_a_small_one_all_of_its_nodes() {
        let all = [ids("a", 100), ids("b", 100), ids("c", 2)].concat();
        assert_eq!(count(&nodes(&all, 250)), [100, 100, 2]);
        assert_eq!(count(&nodes(&all, 50)), [24, 24, 2]);
    }

    #[test]
    fn a_node_that_comes_exchanges_at_most_one_other() {
        let before = nodes(&ids("a", 100), 20);
        let after = nodes(&ids("a", 101), 20);
        let (before, after) = (before.values().next().unwrap(), after.values().next().unwrap());
        assert!(before.difference(after).count() <= 1, "{before:?} and {after:?}");
    }

    #[test]
    fn nodes_of_other_clouds_projects_and_regions_get_no_traffic() {
        let others = [
            "aws:///eu-central-1a/i-0123",
            "gce://other/europe-west3-a/node",
            "gce://project/europe-west4-a/node",
            "gce://project/europe-west30-a/node",
            "gce://project/europe-west3-a",
            "kind://docker/kind/node",
        ];
        assert_eq!(nodes(&others.map(str::to_owned), 250), Nodes::new());
    }
}
