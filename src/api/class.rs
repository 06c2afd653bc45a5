//! Converts a `SharedLBClass` to the controller's type.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::DynamicObject;
use kube::core::{Expression, Selector, SelectorExt as _};
use serde_json::Value;
use sharedlb_crds::{
    AllowedNamespacesFrom, CLASS_FINALIZER, DEFAULT_CLASS_ANNOTATION, Provider, SharedLBClassSpec, SharedLBClassStatus,
    TargetKind,
};
use sharedlb_providers::http_updater::{canonical_address, canonical_url};
use sharedlb_providers::{AffinitySupport, Capabilities, IpFamily};

use crate::allocation::{LackingOption, ListenerOption, Policy, PortSet};
use crate::api::addresses::{self, AddressesByIndex, LOAD_BALANCERS_MAX};
use crate::api::claim::parse_part;
use crate::kubernetes::ObjectMeta;
use crate::kubernetes::cache::Cached;

/// A class in the API.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ClassObject {
    pub meta: ObjectMeta,
    /// Whether it is marked as the default one
    pub default: bool,
    /// Its spec, or why that can't be parsed
    pub spec: Result<SharedLBClassSpec, String>,
    /// The host of its updater, also if the rest of its spec can't be parsed
    pub updater: Option<UpdaterHost>,
    /// Its status, or why that can't be parsed: then the released ports are not known
    pub status: Result<SharedLBClassStatus, String>,
}

/// Where a class of the provider `httpUpdater` has its load balancer, in a form in which two
/// spellings are equal. What cannot be parsed is `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UpdaterHost {
    pub url: Option<String>,
    pub address: Option<String>,
}

impl UpdaterHost {
    fn parse(spec: &Value) -> Option<Self> {
        let updater = spec.pointer("/provider/httpUpdater").filter(|updater| !updater.is_null())?;
        let field = |name| updater.get(name).and_then(Value::as_str);
        Some(Self { url: field("url").and_then(canonical_url), address: field("address").map(canonical_address) })
    }
}

impl Cached for ClassObject {
    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }
}

impl ClassObject {
    /// Whether its load balancers have the addresses in its spec from the provider itself.
    pub(crate) fn gives_addresses(&self) -> bool {
        self.spec.as_ref().is_ok_and(addresses::gives_addresses)
    }

    /// Converts an object.
    pub(crate) fn parse(object: &DynamicObject) -> Self {
        let annotations = object.metadata.annotations.as_ref();
        let spec = object.data.get("spec").unwrap_or(&Value::Null);
        let status = match object.data.get("status") {
            None | Some(Value::Null) => Ok(SharedLBClassStatus::default()),
            Some(status) => parse_part(status),
        };
        Self {
            meta: ObjectMeta::of(object),
            default: annotations.and_then(|all| all.get(DEFAULT_CLASS_ANNOTATION)).is_some_and(|value| value == "true"),
            spec: parse_part(spec),
            updater: UpdaterHost::parse(spec),
            status,
        }
    }

    /// Whether our finalizer is on it.
    pub(crate) fn has_finalizer(&self) -> bool {
        self.meta.finalizers.iter().any(|finalizer| finalizer == CLASS_FINALIZER)
    }
}

/// The class of claims that name none: the one that is annotated as the default, and of
/// several the newest, as with storage classes.
pub(crate) fn default_class<'a>(classes: impl Iterator<Item = &'a Arc<ClassObject>>) -> Option<&'a Arc<ClassObject>> {
    classes
        .filter(|class| class.default && !class.meta.deleting)
        .max_by(|a, b| (a.meta.created, &b.meta.key).cmp(&(b.meta.created, &a.meta.key)))
}

/// Why a class cannot be carried out by its provider, for its author.
pub(crate) fn unsupported(spec: &SharedLBClassSpec, can: &Capabilities) -> Option<String> {
    let kind = spec.provider.kind();
    match spec.targets {
        Some(TargetKind::Node) if !can.node_targets => Some(format!(
            "spec.targets: the provider {kind} cannot send traffic to node ports: leave it out, or set it to Pod"
        )),
        Some(TargetKind::Pod) if !can.pod_targets => Some(format!(
            "spec.targets: the provider {kind} cannot send traffic to pods: leave it out, or set it to Node"
        )),
        _ => None,
    }
}

/// The limits of the class and its provider. `addresses` are those of its load balancers, and
/// `namespaces` are all namespaces, with their labels.
pub(crate) fn policy<'a>(
    spec: &SharedLBClassSpec,
    can: &Capabilities,
    addresses: AddressesByIndex,
    namespaces: impl Iterator<Item = (&'a Arc<str>, &'a BTreeMap<String, String>)>,
) -> Policy {
    let set = |ranges: &[sharedlb_crds::PortRange]| {
        PortSet::of_ranges(&ranges.iter().map(|range| range.min..=range.max).collect::<Vec<_>>())
    };
    let max = spec.load_balancers.max.min(LOAD_BALANCERS_MAX);
    Policy {
        dynamic: set(&spec.ports.dynamic),
        requestable: set(&spec.ports.requestable),
        reserved: can.reserved.iter().copied().collect(),
        cordoned: spec.load_balancers.cordoned.clone(),
        // Where addresses are given, each load balancer needs one.
        max: addresses::load_balancers(spec).map_or(max, |given| max.min(given)),
        addresses,
        listeners: spec
            .load_balancers
            .listeners_per_load_balancer
            .unwrap_or(can.default_listeners)
            .min(can.max_listeners),
        max_listeners: can.max_listeners,
        targets: can.default_targets,
        ports_per_namespace: spec.ports_per_namespace,
        namespaces: allowed_namespaces(spec, namespaces),
        protocols: can.protocols.clone(),
        tcp_and_udp_share_a_number: can.tcp_and_udp_share_a_number,
        listeners_for_tcp_udp: can.listeners_for_tcp_udp,
        lacking: lacking(spec, can),
    }
}

/// The options that listeners of the class cannot have.
pub(crate) fn lacking(spec: &SharedLBClassSpec, can: &Capabilities) -> Vec<LackingOption> {
    let source_ranges = (!can.source_ranges).then_some(LackingOption {
        option: ListenerOption::SourceRanges,
        instead: match spec.provider {
            Provider::Aws(_) => {
                "remove them, and ask the admin for a class whose security groups (spec.provider.aws.securityGroups) admit these clients only"
            }
            Provider::HttpUpdater(_) => {
                "remove them, and ask the admin to admit these clients only at the host; or use a class of the provider vip"
            },
            Provider::Service(_) | Provider::Vip(_) | Provider::Gcp(_) => {
                "remove them, or use a class of the provider vip"
            },
        },
    });
    let families: Vec<IpFamily> = can.address_families.iter().copied().collect();
    let other_families = match families[..] {
        [family] if can.source_ranges => Some(LackingOption {
            option: ListenerOption::SourceRangesBeside(family),
            instead: match family {
                IpFamily::V4 => "add the IPv4 ranges of its clients, or use a class with IPv6 addresses",
                IpFamily::V6 => "add the IPv6 ranges of its clients, or use a class with IPv4 addresses",
            },
        }),
        _ => None,
    };
    let session_affinity = (can.session_affinity == AffinitySupport::None).then_some(LackingOption {
        option: ListenerOption::SessionAffinity,
        instead: match spec.provider {
            Provider::Aws(_) => "set it to None, or ask the admin for a class with spec.targets Pod",
            Provider::Service(_) | Provider::Vip(_) | Provider::Gcp(_) | Provider::HttpUpdater(_) => {
                "set it to None, or use a class of the provider vip"
            }
        },
    });
    source_ranges.into_iter().chain(other_families).chain(session_affinity).collect()
}

fn allowed_namespaces<'a>(
    spec: &SharedLBClassSpec,
    namespaces: impl Iterator<Item = (&'a Arc<str>, &'a BTreeMap<String, String>)>,
) -> Option<BTreeSet<Arc<str>>> {
    if spec.allowed_namespaces.from == AllowedNamespacesFrom::All {
        return None;
    }
    let selector = selector(&spec.allowed_namespaces.selector.clone().unwrap_or_default());
    Some(namespaces.filter(|(_, labels)| selector.matches(labels)).map(|(name, _)| name.clone()).collect())
}

/// Converts a label selector of the API to one that can be evaluated. An expression with an
/// unknown operator matches nothing.
fn selector(selector: &LabelSelector) -> Selector {
    Selector::try_from(selector.clone()).unwrap_or_else(|_| Expression::In(String::new(), BTreeSet::new()).into())
}

/// Whether the class adopts an existing load balancer.
pub(crate) fn adopts(spec: &SharedLBClassSpec) -> bool {
    match &spec.provider {
        Provider::Aws(aws) => aws.load_balancer_arn.is_some(),
        Provider::Service(_) | Provider::Vip(_) | Provider::Gcp(_) | Provider::HttpUpdater(_) => false,
    }
}

/// Whether both specs have the same provider and settings of it, but for the addresses of
/// load balancers.
pub(crate) fn same_provider(a: &SharedLBClassSpec, b: &SharedLBClassSpec) -> bool {
    let same_ports = match &a.provider {
        // A firewall rule may allow all of these ports.
        Provider::Gcp(_) => a.ports.dynamic == b.ports.dynamic,
        // Some of them may be parked.
        Provider::Service(service) => service.parked_transports().is_empty() || a.ports == b.ports,
        _ => true,
    };
    // The kind of an AWS target group is the provider's business.
    a.provider == b.provider && a.targets == b.targets && same_ports
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn class(name: &str, created: &str, default: bool) -> Arc<ClassObject> {
        let annotations = if default { json!({DEFAULT_CLASS_ANNOTATION: "true"}) } else { json!({}) };
        let object = json!({
            "apiVersion": "sharedlb.dev/v1alpha1", "kind": "SharedLBClass",
            "metadata": {"name": name, "uid": name, "creationTimestamp": created, "annotations": annotations},
            "spec": {"provider": {"service": {}}},
        });
        Arc::new(ClassObject::parse(&serde_json::from_value(object).unwrap()))
    }

    #[test]
    fn of_several_default_classes_the_newest_is_meant() {
        let classes = [
            class("old", "2026-01-01T00:00:00Z", true),
            class("new", "2026-02-01T00:00:00Z", true),
            class("newest", "2026-03-01T00:00:00Z", false),
        ];
        assert_eq!(&*default_class(classes.iter()).unwrap().meta.key.name, "new");
        assert!(default_class(classes[2..].iter()).is_none());
    }

    #[test]
    fn a_class_with_addresses_of_one_family_lacks_source_ranges_of_the_other_alone() {
        let spec: SharedLBClassSpec = serde_json::from_value(json!({"provider": {"vip": {}}})).unwrap();
        let options = |families: &[IpFamily]| -> Vec<ListenerOption> {
            let mut can = Capabilities::new(1);
            (can.source_ranges, can.session_affinity) = (true, AffinitySupport::Timeout);
            can.address_families = families.iter().copied().collect();
            lacking(&spec, &can).into_iter().map(|lacking| lacking.option).collect()
        };
        assert_eq!(options(&[IpFamily::V4]), [ListenerOption::SourceRangesBeside(IpFamily::V4)]);
        assert_eq!(options(&[IpFamily::V4, IpFamily::V6]), []);
        assert_eq!(options(&[]), [], "the families are not known");
    }

    #[test]
    fn a_selector_of_namespaces_chooses_by_their_labels() {
        let chosen = json!({"from": "Selector", "selector": {"matchLabels": {"tier": "data"}}});
        let spec = SharedLBClassSpec {
            allowed_namespaces: serde_json::from_value(chosen).unwrap(),
            ..SharedLBClassSpec::default()
        };
        let namespaces: BTreeMap<Arc<str>, BTreeMap<String, String>> = BTreeMap::from([
            ("yes".into(), BTreeMap::from([("tier".to_owned(), "data".to_owned())])),
            ("no".into(), BTreeMap::new()),
        ]);
        assert_eq!(allowed_namespaces(&spec, namespaces.iter()), Some(BTreeSet::from(["yes".into()])));
        assert_eq!(allowed_namespaces(&SharedLBClassSpec::default(), namespaces.iter()), None);
    }
}
