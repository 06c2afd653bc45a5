//! Objects that are being deleted and stay.

use jiff::SignedDuration;
use kube::{Resource, ResourceExt as _};
use sharedlb_crds::{CLAIM_FINALIZER, CLASS_FINALIZER};
use sharedlb_kubernetes::ObjectKey;

use super::Finding;
use crate::occupancy::class_of;
use crate::rights::is_claim;
use crate::snapshot::Snapshot;

/// How long a deletion usually takes at most: the release of a port is one write, and a class
/// waits for its load balancers.
const USUAL: SignedDuration = SignedDuration::from_mins(5);

pub(super) fn findings(snapshot: &Snapshot) -> Vec<Finding> {
    let mut findings = Vec::new();
    for claim in &snapshot.claims {
        let help = "see whether the controller runs and leads: it alone records the release of the ports";
        findings.extend(stuck(claim, CLAIM_FINALIZER, help, snapshot));
    }
    for class in &snapshot.classes {
        let claims = snapshot.claims.items.iter().filter(|claim| class_of(claim) == Some(&class.name_any())).count();
        let help = match claims {
            0 => "see whether the controller runs, and whether the provider deletes the load balancers".to_owned(),
            claims => format!("it waits for {claims} claims: delete them, or move them to another class"),
        };
        findings.extend(stuck(class, CLASS_FINALIZER, &help, snapshot));
    }
    for service in snapshot.services.items.iter().filter(|service| is_claim(service)) {
        let help = "see whether the controller runs with the source of Services";
        findings.extend(stuck(service, CLAIM_FINALIZER, help, snapshot));
    }
    findings
}

/// An object that has been deleted for longer than usual. `help` is for our finalizer.
fn stuck<K: Resource<DynamicType = ()>>(object: &K, ours: &str, help: &str, snapshot: &Snapshot) -> Option<Finding> {
    let deleted = object.meta().deletion_timestamp.as_ref()?.0;
    if snapshot.now.duration_since(deleted) < USUAL {
        return None;
    }
    let others: Vec<&str> = object.finalizers().iter().map(String::as_str).filter(|one| *one != ours).collect();
    let help = if object.finalizers().iter().any(|one| one == ours) {
        help.to_owned()
    } else {
        format!("it is kept by the owner of {}", others.join(", "))
    };
    let message = format!("it is being deleted since {deleted}, and kept by {}", object.finalizers().join(", "));
    Some(Finding::problem(format!("{} {}", K::kind(&()), ObjectKey::of(object)), message, help))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fixtures::{claim, class, object, snapshot};

    fn deleted<K: Resource<DynamicType = ()>>(mut object: K, at: &str, finalizer: &str) -> K {
        object.meta_mut().deletion_timestamp = Some(crate::fixtures::object(json!(at)));
        object.meta_mut().finalizers = Some(vec![finalizer.to_owned()]);
        object
    }

    #[test]
    fn a_claim_that_is_deleted_and_stays_is_found_after_a_while() {
        let claim = |at| deleted(claim("team-a", "redis", "default", 0, 6379), at, CLAIM_FINALIZER);
        assert_eq!(findings(&snapshot([claim("2026-01-01T00:00:30Z")], [])), []);
        let found = findings(&snapshot([claim("2025-12-31T23:55:00Z")], []));
        assert_eq!(found[0].about, "SharedLB team-a/redis");
        assert!(found[0].help.contains("see whether the controller runs"), "{found:?}");
    }

    #[test]
    fn a_finalizer_of_others_is_left_to_them() {
        let claim = deleted(claim("team-a", "redis", "default", 0, 6379), "2025-12-31T23:00:00Z", "team.dev/theirs");
        assert_eq!(findings(&snapshot([claim], []))[0].help, "it is kept by the owner of team.dev/theirs");
    }

    #[test]
    fn a_class_that_is_deleted_names_how_many_claims_it_waits_for() {
        let class = deleted(class("default", 0, &[]), "2025-12-31T23:00:00Z", CLASS_FINALIZER);
        let found = findings(&snapshot([claim("team-a", "redis", "default", 0, 6379)], [class]));
        assert_eq!(found[0].help, "it waits for 1 claims: delete them, or move them to another class");
    }

    #[test]
    fn a_service_that_shares_a_load_balancer_is_found_too() {
        let service = json!({"metadata": {"namespace": "a", "name": "web"}, "spec": {"loadBalancerClass": "sharedlb.dev/default"}});
        let mut snapshot = snapshot([], []);
        let service = deleted(object(service), "2025-12-31T23:00:00Z", CLAIM_FINALIZER);
        snapshot.services = crate::snapshot::Seen::all([service]);
        assert_eq!(findings(&snapshot)[0].about, "Service a/web");
    }
}
