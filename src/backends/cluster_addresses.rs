//! The addresses that the cluster itself uses: those of nodes and of their pods, and those that
//! Kubernetes gives Services as ClusterIPs. A class must not give them to its load balancers.

use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::runtime::watcher::Event;
use sharedlb_crds::{AddressRange, SharedLBClassSpec};
use sharedlb_providers::IpFamily;

use super::{BackendChanges, Backends, Inner};
use crate::api::addresses::{first_common, gives_addresses, is_listed};
use crate::kubernetes::ObjectMeta;
use crate::kubernetes::cache::Cached;

/// The parts of a ServiceCIDR that classes depend on.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ServiceCidrObject {
    meta: ObjectMeta,
    /// The ranges of ClusterIPs
    cidrs: Box<[IpNet]>,
}

impl ServiceCidrObject {
    /// Converts an object.
    pub(crate) fn parse(object: &ServiceCIDR) -> Self {
        let cidrs = object.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten());
        Self { meta: ObjectMeta::of(object), cidrs: cidrs.filter_map(|cidr| cidr.parse().ok()).collect() }
    }
}

impl Cached for ServiceCidrObject {
    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }
}

impl Backends {
    /// Has the addresses of the cluster watched from now on: nodes and ServiceCIDRs.
    pub(crate) fn need_cluster_addresses(&self) {
        self.need_nodes();
        self.service_cidrs_needed.notify_one();
    }

    /// Waits until ServiceCIDRs have to be watched.
    pub(crate) async fn service_cidrs_needed(&self) {
        self.service_cidrs_needed.notified().await;
    }

    /// Takes in an event of the watch of ServiceCIDRs.
    pub(crate) fn apply_service_cidr_event(&self, event: Event<ServiceCidrObject>) -> BackendChanges {
        let is_listed = matches!(event, Event::InitDone);
        let changes = self.write().service_cidrs.apply_event(event);
        BackendChanges { cluster_addresses: is_listed || !changes.is_empty(), ..BackendChanges::default() }
    }

    /// Whether nodes and ServiceCIDRs, respectively, have been listed.
    pub(crate) fn cluster_addresses_filled(&self) -> (bool, bool) {
        let inner = self.read();
        (inner.nodes.is_filled(), inner.service_cidrs.is_filled())
    }

    /// Why load balancers cannot have the addresses in the spec of their class, for its author:
    /// the cluster itself uses one of them, or does not serve its IP family.
    pub(crate) fn cluster_address_conflict(&self, spec: &SharedLBClassSpec) -> Option<String> {
        if !gives_addresses(spec) {
            // Another controller assigns them, and may have reasons of its own.
            return None;
        }
        let inner = self.read();
        let ranges = &spec.addresses;
        inner
            .node_conflict(ranges)
            .or_else(|| inner.pod_cidr_conflict(ranges))
            .or_else(|| inner.service_cidr_conflict(ranges))
            .or_else(|| inner.unserved_family(ranges))
    }
}

impl Inner {
    /// The ranges of ClusterIPs.
    fn cidrs(&self) -> impl Iterator<Item = &IpNet> {
        self.service_cidrs.objects().values().flat_map(|object| &object.cidrs)
    }

    fn node_conflict(&self, ranges: &[AddressRange]) -> Option<String> {
        let nodes = self.nodes.objects().iter();
        let all = nodes.flat_map(|(key, node)| node.all_addresses().iter().map(move |address| (address, &key.name)));
        let (address, node) = all.filter(|(address, _)| is_listed(ranges, **address)).min()?;
        Some(format!(
            "spec.addresses: {address} is an address of node {node}, so a port of a claim would take over the same port of the node, such as that of SSH or of the API server: remove it from the list"
        ))
    }

    fn pod_cidr_conflict(&self, ranges: &[AddressRange]) -> Option<String> {
        let nodes = self.nodes.objects().iter();
        let all = nodes.flat_map(|(key, node)| node.pod_cidrs().iter().map(move |cidr| (cidr, &key.name)));
        let common = all.filter_map(|(cidr, node)| Some((first_in(cidr, ranges)?, cidr, node)));
        let (address, cidr, node) = common.min()?;
        Some(format!(
            "spec.addresses: {address} is in {cidr}, the range of the pods of node {node} (spec.podCIDRs), so a pod may have the same address: remove it from the list"
        ))
    }

    fn service_cidr_conflict(&self, ranges: &[AddressRange]) -> Option<String> {
        let common = |cidr: &IpNet| Some((first_in(cidr, ranges)?, *cidr));
        let (address, cidr) = self.cidrs().filter_map(common).min()?;
        Some(format!(
            "spec.addresses: {address} is in {cidr}, the range of the ClusterIPs of Services (kubectl get servicecidrs), so any Service may have the same address, and take traffic of claims: remove it from the list"
        ))
    }

    /// Services have only the IP families of their ClusterIPs, and so have load balancers that
    /// are Services.
    fn unserved_family(&self, ranges: &[AddressRange]) -> Option<String> {
        let is_served = |family| self.cidrs().any(|cidr| IpFamily::of(cidr.addr()) == family);
        let unserved = |range: &AddressRange| Some(IpFamily::of(range.min)).filter(|family| !is_served(*family));
        // Where no range is known, nothing can be said.
        self.cidrs().next()?;
        let (range, family) = ranges.iter().find_map(|range| Some((range, unserved(range)?)))?;
        Some(format!(
            "spec.addresses: {} is an {family} address, and Services of this cluster have none of {family} (kubectl get servicecidrs), so no node would serve it: remove the {family} addresses",
            range.min
        ))
    }
}

/// The first address of these ranges that is in a CIDR.
fn first_in(cidr: &IpNet, ranges: &[AddressRange]) -> Option<IpAddr> {
    first_common(&[AddressRange { min: cidr.network(), max: cidr.broadcast() }], ranges)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Node;
    use serde_json::{Value, json};

    use super::*;
    use crate::backends::nodes::NodeObject;

    /// Why a class of this provider cannot have the addresses from `min` to `max`.
    fn conflict(backends: &Backends, provider: &str, min: &str, max: &str) -> Option<String> {
        let spec = json!({"provider": {provider: {}}, "addresses": [{"min": min, "max": max}]});
        backends.cluster_address_conflict(&serde_json::from_value(spec).unwrap())
    }

    fn node(version: u64, status: Value) -> NodeObject {
        node_of(version, json!({"status": status}))
    }

    fn node_of(version: u64, mut object: Value) -> NodeObject {
        object["metadata"] = json!({"name": "node-1", "uid": "u", "resourceVersion": version.to_string()});
        let node: Node = serde_json::from_value(object).unwrap();
        NodeObject::parse(&node)
    }

    fn service_cidr(cidrs: &[&str]) -> ServiceCidrObject {
        service_cidr_at(1, cidrs)
    }

    fn service_cidr_at(version: u64, cidrs: &[&str]) -> ServiceCidrObject {
        let metadata = json!({"name": "kubernetes", "uid": "u", "resourceVersion": version.to_string()});
        let object = json!({"metadata": metadata, "spec": {"cidrs": cidrs}});
        ServiceCidrObject::parse(&serde_json::from_value(object).unwrap())
    }

    #[test]
    fn an_address_of_a_node_is_refused_to_a_class_whatever_its_type() {
        let backends = Backends::default();
        let status = json!({"addresses": [
            {"type": "Hostname", "address": "node-1"},
            {"type": "InternalIP", "address": "192.0.2.11"},
            {"type": "InternalIP", "address": "2001:db8::11"},
            {"type": "ExternalIP", "address": "203.0.113.11"},
        ]});
        assert!(backends.apply_node_event(Event::Apply(node(1, status.clone()))).cluster_addresses);
        for (min, max, address) in [
            ("192.0.2.11", "192.0.2.11", "192.0.2.11"),
            ("203.0.113.8", "203.0.113.15", "203.0.113.11"),
            ("2001:db8::", "2001:db8::ffff", "2001:db8::11"),
        ] {
            let why = conflict(&backends, "vip", min, max).unwrap();
            assert!(why.contains(&format!("{address} is an address of node node-1")), "{why}");
        }
        assert_eq!(conflict(&backends, "vip", "203.0.113.12", "203.0.113.15"), None);
        assert_eq!(conflict(&backends, "service", "203.0.113.11", "203.0.113.11"), None);

        // The kubelet writes the status of its node again and again.
        let mut renewed = status.clone();
        renewed["conditions"] = json!([{"type": "Ready", "status": "False"}]);
        assert!(!backends.apply_node_event(Event::Apply(node(2, renewed))).cluster_addresses);
        assert!(backends.apply_node_event(Event::Apply(node(3, json!({})))).cluster_addresses);
        assert_eq!(conflict(&backends, "vip", "192.0.2.11", "192.0.2.11"), None);
    }

    #[test]
    fn an_address_in_the_range_of_the_pods_of_a_node_is_refused_to_a_class() {
        let backends = Backends::default();
        assert!(backends.apply_node_event(Event::Apply(node(1, json!({})))).cluster_addresses);
        assert_eq!(conflict(&backends, "vip", "10.244.0.7", "10.244.0.7"), None);
        let spec = json!({"spec": {"podCIDR": "10.244.0.0/24", "podCIDRs": ["10.244.0.0/24", "fd00:244::/64"]}});
        assert!(backends.apply_node_event(Event::Apply(node_of(2, spec))).cluster_addresses);
        for (min, max, words) in [
            ("10.243.255.250", "10.244.0.5", "10.244.0.0 is in 10.244.0.0/24"),
            ("fd00:244::7", "fd00:244::7", "fd00:244::7 is in fd00:244::/64"),
        ] {
            let why = conflict(&backends, "vip", min, max).unwrap();
            assert!(why.contains(words) && why.contains("pods of node node-1"), "{why}");
        }
        assert_eq!(conflict(&backends, "vip", "10.244.1.0", "10.244.1.5"), None);
    }

    #[test]
    fn the_addresses_of_services_are_refused_to_a_class_whether_a_service_has_them_or_not() {
        let backends = Backends::default();
        let object = service_cidr(&["10.0.0.0/16", "fd00:10::/108"]);
        assert!(backends.apply_service_cidr_event(Event::Apply(object.clone())).cluster_addresses);
        for (min, max, words) in [
            ("10.0.0.1", "10.0.0.1", "10.0.0.1 is in 10.0.0.0/16"),
            ("9.255.255.250", "10.0.0.5", "10.0.0.0 is in 10.0.0.0/16"),
            ("10.0.255.255", "10.1.0.5", "10.0.255.255 is in 10.0.0.0/16"),
            ("fd00:10::7", "fd00:10::7", "fd00:10::7 is in fd00:10::/108"),
        ] {
            let why = conflict(&backends, "vip", min, max).unwrap();
            assert!(why.contains(words), "{why}");
        }
        assert_eq!(conflict(&backends, "vip", "10.1.0.0", "10.1.0.5"), None);
        assert_eq!(conflict(&backends, "service", "10.0.0.1", "10.0.0.1"), None);
        assert!(backends.apply_service_cidr_event(Event::Delete(object)).cluster_addresses);
        assert_eq!(conflict(&backends, "vip", "10.0.0.1", "10.0.0.1"), None);
    }

    #[test]
    fn an_address_of_an_ip_family_that_services_do_not_have_is_refused() {
        let backends = Backends::default();
        let dual_stack = ["203.0.113.8", "2001:db8::8"];
        let conflicts = |backends: &Backends| dual_stack.map(|address| conflict(backends, "vip", address, address));
        assert_eq!(conflicts(&backends), [None, None], "no range is known");
        backends.apply_service_cidr_event(Event::Apply(service_cidr(&["fd00:10::/108"])));
        let [Some(why), None] = conflicts(&backends) else { panic!("{:?}", conflicts(&backends)) };
        assert!(why.contains("203.0.113.8 is an IPv4 address"), "{why}");
        let both = service_cidr_at(2, &["fd00:10::/108", "10.0.0.0/16"]);
        backends.apply_service_cidr_event(Event::Apply(both));
        assert_eq!(conflicts(&backends), [None, None]);
    }

    #[test]
    fn an_empty_list_is_a_change_since_all_addresses_are_known_then() {
        let backends = Backends::default();
        assert_eq!(backends.cluster_addresses_filled(), (false, false));
        assert!(!backends.apply_node_event(Event::Init).cluster_addresses);
        assert!(backends.apply_node_event(Event::InitDone).cluster_addresses);
        assert!(backends.apply_service_cidr_event(Event::InitDone).cluster_addresses);
        assert_eq!(backends.cluster_addresses_filled(), (true, true));
    }
}
