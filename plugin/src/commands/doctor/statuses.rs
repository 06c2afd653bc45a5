//! Statuses of Services that another client changes too.

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::events::v1::Event;
use kube::ResourceExt as _;
use sharedlb_crds::{FIELD_MANAGER, MANAGED_BY, MANAGED_BY_LABEL, SERVICE_CLASS_PREFIX};
use sharedlb_kubernetes::ObjectKey;

use super::Finding;
use crate::rights::is_claim;
use crate::snapshot::Snapshot;

/// What the `loadBalancerClass` of the Services of the providers `vip` and `gcp` contains.
const OWN_CLASSES: &str = ".sharedlb.dev/";

const HELP: &str = "keep that client away from Services whose loadBalancerClass is SharedLB's";

pub(super) fn findings(snapshot: &Snapshot) -> Vec<Finding> {
    let services = snapshot.services.items.iter().filter(|service| is_claim(service) || is_own(service));
    let fought = snapshot.health.fights.items.iter().map(fight);
    services.filter_map(other_writer).chain(fought).collect()
}

/// Whether the controller writes the status of this Service, which is its own.
fn is_own(service: &Service) -> bool {
    let class = service.spec.as_ref().and_then(|spec| spec.load_balancer_class.as_deref());
    let is_managed = service.labels().get(MANAGED_BY_LABEL).is_some_and(|value| value == MANAGED_BY);
    is_managed && class.is_some_and(|class| class.contains(OWN_CLASSES) && !class.starts_with(SERVICE_CLASS_PREFIX))
}

/// Another client that has written the addresses in the status.
fn other_writer(service: &Service) -> Option<Finding> {
    let of_status = service.managed_fields().iter().filter(|entry| entry.subresource.as_deref() == Some("status"));
    let of_addresses = of_status.filter(|entry| {
        let fields = entry.fields_v1.as_ref().map(|fields| &fields.0);
        fields.is_some_and(|fields| fields["f:status"]["f:loadBalancer"].is_object())
    });
    let managers: Vec<&str> =
        of_addresses.filter_map(|entry| entry.manager.as_deref()).filter(|manager| *manager != FIELD_MANAGER).collect();
    (!managers.is_empty()).then(|| {
        let who = managers.join(", ");
        Finding::warning(
            format!("Service {}", ObjectKey::of(service)),
            format!("the addresses in its status were written by {who} too"),
            HELP,
        )
    })
}

/// An Event by which the controller reports a fight.
fn fight(event: &Event) -> Finding {
    let object = event.regarding.clone().unwrap_or_default();
    let (namespace, name) = (object.namespace.unwrap_or_default(), object.name.unwrap_or_default());
    Finding::problem(format!("Service {namespace}/{name}"), event.note.clone().unwrap_or_default(), HELP)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::fixtures::{object, snapshot};
    use crate::snapshot::Seen;

    fn found(manager: &str, fields: Value) -> Vec<String> {
        let mut snapshot = snapshot([], []);
        snapshot.services = Seen::all([object(json!({
            "metadata": {"namespace": "a", "name": "web", "managedFields": [
                {"manager": manager, "operation": "Update", "subresource": "status", "fieldsV1": fields},
            ]},
            "spec": {"loadBalancerClass": "sharedlb.dev/default"},
        }))]);
        findings(&snapshot).into_iter().map(|finding| finding.message).collect()
    }

    #[test]
    fn another_writer_of_the_addresses_is_named() {
        let addresses = json!({"f:status": {"f:loadBalancer": {"f:ingress": {}}}});
        assert_eq!(found("ccm", addresses.clone()), ["the addresses in its status were written by ccm too"]);
        assert_eq!(found("sharedlb", addresses), [""; 0]);
        assert_eq!(found("ccm", json!({"f:status": {"f:conditions": {}}})), [""; 0], "it wrote a condition");
    }

    #[test]
    fn a_fight_that_the_controller_has_reported_is_found() {
        let mut snapshot = snapshot([], []);
        snapshot.health.fights = Seen::all([object(json!({
            "reason": "StatusFought", "note": "the client \"ccm\" has changed the addresses",
            "regarding": {"kind": "Service", "namespace": "sharedlb-system", "name": "slb-vip-0"},
        }))]);
        let found = findings(&snapshot);
        assert_eq!(found[0].about, "Service sharedlb-system/slb-vip-0");
        assert!(found[0].message.contains("ccm"), "{found:?}");
    }
}
