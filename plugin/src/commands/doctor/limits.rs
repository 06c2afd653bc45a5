//! Limits that come near: listeners and targets of classes, and quotas of namespaces.

use std::collections::BTreeMap;

use kube::ResourceExt as _;
use sharedlb_crds::{LoadBalancerStatus, SharedLBClass};

use super::Finding;
use super::classes::about;
use crate::snapshot::Snapshot;

/// The share of a limit that is near to it, in percent: that of the alerts SharedLBCapacityNearEnd
/// and SharedLBQuotaNearEnd.
const NEAR: u64 = 85;

pub(super) fn findings(snapshot: &Snapshot) -> Vec<Finding> {
    let mut findings = Vec::new();
    for class in &snapshot.classes {
        findings.extend(listeners(class));
        findings.extend(targets(class));
        findings.extend(quotas(class, snapshot));
    }
    findings
}

fn is_near(used: u64, limit: u64) -> bool {
    used * 100 > limit * NEAR
}

fn load_balancers(class: &SharedLBClass) -> impl Iterator<Item = &LoadBalancerStatus> {
    class.status.iter().flat_map(|status| &status.load_balancers)
}

/// The listeners of a class, with those on the load balancers that it may still get. Cordoned ones
/// do not count: no claim gets new ports there.
fn listeners(class: &SharedLBClass) -> Option<Finding> {
    let foreign = |one: &LoadBalancerStatus| u64::try_from(one.foreign_ports.len()).unwrap_or(u64::MAX);
    let cordoned = &class.spec.load_balancers.cordoned;
    let open = || load_balancers(class).filter(|one| !cordoned.contains(&one.index));
    let used: u64 = open().map(|one| u64::from(one.listeners).saturating_add(foreign(one))).sum();
    let capacities: Vec<u64> = open().filter_map(|one| Some(one.capacity.as_ref()?.listeners.into())).collect();
    // One that is created yet has the capacity of the others.
    let of_one = capacities.iter().max()?;
    let max = (0..class.spec.load_balancers.max).filter(|index| !cordoned.contains(index)).count();
    let further = u64::try_from(max).ok()?.saturating_sub(u64::try_from(capacities.len()).ok()?);
    let limit = capacities.iter().sum::<u64>() + further * of_one;
    is_near(used, limit).then(|| {
        Finding::warning(
            about(class),
            format!("{used} of {limit} listeners are used"),
            "raise loadBalancers.max, or move claims to another class",
        )
    })
}

/// The targets of each load balancer that has a limit.
fn targets(class: &SharedLBClass) -> Vec<Finding> {
    let near = |one: &LoadBalancerStatus| {
        let (used, limit) = (one.targets?, one.capacity.as_ref()?.targets?);
        is_near(used.into(), limit.into()).then(|| {
            Finding::warning(
                about(class),
                format!("load balancer {} has {used} of {limit} targets", one.index),
                "run fewer pods behind its claims, or create some of them again: they go to another load balancer",
            )
        })
    };
    load_balancers(class).filter_map(near).collect()
}

/// The namespaces that hold most of their quota.
fn quotas(class: &SharedLBClass, snapshot: &Snapshot) -> Vec<Finding> {
    let mut held: BTreeMap<String, u64> = BTreeMap::new();
    for claim in &snapshot.claims {
        let Some(status) = &claim.status else { continue };
        if status.class_name.as_deref() == Some(&class.name_any()) {
            let ports = u64::try_from(status.ports.len()).unwrap_or(u64::MAX);
            *held.entry(claim.namespace().unwrap_or_default()).or_default() += ports;
        }
    }
    let limit = u64::from(class.spec.ports_per_namespace);
    let near = held.into_iter().filter(|(_, ports)| is_near(*ports, limit));
    near.map(|(namespace, ports)| {
        Finding::warning(
            format!("Namespace {namespace}"),
            format!("its claims hold {ports} of {limit} ports of class {}", class.name_any()),
            "delete claims, or raise portsPerNamespace",
        )
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{claim, class, snapshot};
    use sharedlb_crds::Capacity;

    fn found(class: SharedLBClass) -> Vec<String> {
        let claims = [claim("team-a", "redis", "default", 0, 6379)];
        findings(&snapshot(claims, [class])).into_iter().map(|finding| finding.message).collect()
    }

    fn with(change: impl FnOnce(&mut SharedLBClass, &mut LoadBalancerStatus)) -> SharedLBClass {
        let mut class = class("default", 0, &["22/TCP"]);
        let mut status = class.status.take().expect("it has a status");
        change(&mut class, &mut status.load_balancers[0]);
        class.status = Some(status);
        class
    }

    #[test]
    fn listeners_count_on_load_balancers_that_may_still_be_created() {
        let filled = |max| {
            with(|class, one| {
                class.spec.load_balancers.max = max;
                one.listeners = 42;
            })
        };
        assert_eq!(found(filled(1)), ["43 of 50 listeners are used"], "with the foreign one");
        assert_eq!(found(filled(2)), [""; 0]);
    }

    #[test]
    fn targets_count_on_each_load_balancer() {
        let near = with(|_, one| {
            one.targets = Some(430);
            one.capacity = Some(Capacity { listeners: 50, targets: Some(500) });
        });
        assert_eq!(found(near), ["load balancer 0 has 430 of 500 targets"]);
    }

    #[test]
    fn a_namespace_near_its_quota_is_named() {
        let near = with(|class, _| class.spec.ports_per_namespace = 1);
        assert_eq!(found(near), ["its claims hold 1 of 1 ports of class default"]);
    }
}
