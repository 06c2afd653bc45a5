//! The names and tags of our objects at AWS.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU16;

use aws_sdk_elasticloadbalancingv2::types::{Tag, TargetDescription};

use super::settings::{Settings, TargetKind};
use crate::model::{Backend, IpFamily, LbName, ListenerKey, Owner, Protocol, fnv1a, port_number};

/// The cluster's id: without it an object is foreign.
pub(super) const CLUSTER: &str = "sharedlb.dev/cluster";
/// The class.
const CLASS: &str = "sharedlb.dev/class";
/// Our name of the load balancer, also of an adopted one.
const LOAD_BALANCER: &str = "sharedlb.dev/load-balancer";
/// The owner of a listener and its target group. It takes three tags, since the value of a tag
/// has at most 256 characters (ELB user guide, "Tag restrictions"), and a name in Kubernetes
/// can have 253.
const NAMESPACE: &str = "sharedlb.dev/namespace";
const CLAIM: &str = "sharedlb.dev/claim";
const PORT: &str = "sharedlb.dev/port";
/// On a listener: the attributes that were set on its target group. Reading them from AWS
/// would take a call for each target group.
pub(super) const GROUP_ATTRIBUTES: &str = "sharedlb.dev/target-group-attributes";

/// Tags by their keys.
pub(super) type Tags = BTreeMap<String, String>;

/// The tags of all objects of a load balancer. Ours have precedence over the admin's.
pub(super) fn tags(settings: &Settings, name: &LbName) -> Tags {
    let ours = [(CLUSTER, &*settings.cluster_id), (CLASS, &*settings.class), (LOAD_BALANCER, name.as_str())];
    let mut tags = settings.tags.clone();
    tags.extend(ours.map(|(key, value)| (key.to_owned(), value.to_owned())));
    tags
}

/// The tags of a listener and its target group.
pub(super) fn tags_of_port(settings: &Settings, name: &LbName, owner: &Owner) -> Tags {
    let mut tags = tags(settings, name);
    let owner = [(NAMESPACE, &owner.namespace), (CLAIM, &owner.claim), (PORT, &owner.port)];
    tags.extend(owner.map(|(key, value)| (key.to_owned(), value.to_string())));
    tags
}

/// The owner in these tags, if there is one.
pub(super) fn owner(tags: &Tags) -> Option<Owner> {
    let value = |key: &str| tags.get(key).map(|value| value.as_str().into());
    let owner = Owner { namespace: value(NAMESPACE)?, claim: value(CLAIM)?, port: value(PORT)? };
    (!owner.namespace.is_empty() && !owner.claim.is_empty()).then_some(owner)
}

/// Whether both name the same claim, with any of its ports, or neither names one.
pub(super) fn are_of_same_claim(a: &Tags, b: &Tags) -> bool {
    match (owner(a), owner(b)) {
        (Some(a), Some(b)) => a.is_same_claim(&b),
        (a, b) => a == b,
    }
}

/// Whether these are the tags of an object that we created for this load balancer.
pub(super) fn are_ours(tags: &Tags, settings: &Settings, name: &LbName) -> bool {
    tags.get(CLUSTER) == Some(&settings.cluster_id) && tags.get(LOAD_BALANCER).is_some_and(|of| of == name.as_str())
}

/// Converts tags to AWS' type.
pub(super) fn to_aws(tags: &Tags) -> Vec<Tag> {
    tags.iter().map(|(key, value)| Tag::builder().key(key).value(value).build()).collect()
}

/// Converts tags from AWS' type.
pub(super) fn from_aws(tags: Option<Vec<Tag>>) -> Tags {
    let tags = tags.unwrap_or_default().into_iter();
    tags.filter_map(|tag| Some((tag.key?, tag.value.unwrap_or_default()))).collect()
}

/// The first part of the name of every target group of a load balancer.
pub(super) fn group_prefix(name: &LbName) -> String {
    // 40 bits tell the load balancers of an account apart.
    format!("slb-{:010x}-", fnv1a([name.as_str().as_bytes()]) >> 24)
}

/// The name of the target group behind a listener, as in
/// `slb-1a2b3c4d5e-20417-tcp-1a2b3c`: the load balancer, the front port, and a hash of the
/// immutable fields of a target group, so that one of another kind has another name. (At most
/// 32 characters: `Name` of CreateTargetGroup.)
pub(super) fn group_name(settings: &Settings, name: &LbName, key: ListenerKey) -> String {
    let protocol = match key.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::TcpUdp => "both",
    };
    let family = address_family(settings);
    let fixed = [settings.vpc_id.as_str(), settings.target_kind.as_str(), family.as_aws()];
    let fixed = fnv1a(fixed.map(str::as_bytes)) >> 40;
    format!("{}{}-{protocol}-{fixed:06x}", group_prefix(name), key.port)
}

/// The family of targets. Instances are reached by IPv4.
pub(super) fn address_family(settings: &Settings) -> IpFamily {
    match settings.target_kind {
        TargetKind::Pod => settings.target_ip_family,
        TargetKind::Node => IpFamily::V4,
    }
}

/// The families of the backends that can be targets; none: any, as for instances.
pub(super) fn target_families(settings: &Settings) -> BTreeSet<IpFamily> {
    match settings.target_kind {
        TargetKind::Pod => [settings.target_ip_family].into(),
        TargetKind::Node => BTreeSet::new(),
    }
}

/// A target of a target group: AWS tells them apart by id and port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Target {
    /// The address of a pod, or the id of an instance
    pub(super) id: String,
    pub(super) port: NonZeroU16,
}

impl Target {
    /// The target for a backend. `None`: it cannot be a target (it is of the other address
    /// family, or a node that is no instance, as with Fargate).
    pub(super) fn of(settings: &Settings, backend: &Backend) -> Option<Self> {
        let id = match settings.target_kind {
            TargetKind::Pod => {
                let fits = IpFamily::of(backend.address) == settings.target_ip_family;
                fits.then(|| backend.address.to_string())?
            }
            TargetKind::Node => {
                let (_, id) =
                    backend.provider_id.as_deref()?.rsplit_once('/').unwrap_or(("", backend.provider_id.as_deref()?));
                id.starts_with("i-").then(|| id.to_owned())?
            }
        };
        Some(Self { id, port: backend.port })
    }

    /// The backend of a target, with the fields that AWS records.
    pub(super) fn backend(&self) -> Backend {
        let port = self.port;
        let backend =
            |address, provider_id| Backend { address, port, pod: None, node: None, provider_id, transport: None };
        match self.id.parse::<IpAddr>() {
            Ok(address) => backend(address, None),
            Err(_) => backend(IpAddr::V4(Ipv4Addr::UNSPECIFIED), Some(self.id.as_str().into())),
        }
    }

    pub(super) fn from_aws(target: &TargetDescription) -> Option<Self> {
        let port = port_number(target.port()?)?;
        let id = target.id()?;
        // Addresses are compared as numbers: IPv6 ones can be written in many ways.
        let id = id.parse::<IpAddr>().map_or_else(|_| id.to_owned(), |address| address.to_string());
        Some(Self { id, port })
    }

    pub(super) fn to_aws(&self) -> TargetDescription {
        TargetDescription::builder().id(&self.id).port(self.port.get().into()).build()
    }
}

#[cfg(test)]
mod tests {
    use super::super::settings::tests::settings;
    use super::*;

    fn key(port: u16, protocol: Protocol) -> ListenerKey {
        ListenerKey { port: NonZeroU16::new(port).unwrap(), protocol }
    }

    fn backend(address: &str, provider_id: Option<&str>) -> Backend {
        let address = address.parse().unwrap();
        let provider_id = provider_id.map(Into::into);
        let (pod, node) = (Some("pod".into()), Some("node".into()));
        Backend { address, port: NonZeroU16::MIN, pod, node, provider_id, transport: None }
    }

    #[test]
    fn names_of_target_groups_are_unique_and_never_longer_than_32_characters() {
        let (pods, names) = (settings(), [0, 1].map(|index| LbName::new("default", index, "cluster", "uid")));
        let nodes = Settings { target_kind: TargetKind::Node, ..settings() };
        let v6 = Settings { target_ip_family: IpFamily::V6, ..settings() };
        let mut seen = BTreeSet::new();
        for (settings, name) in [&pods, &nodes, &v6].iter().flat_map(|s| names.iter().map(move |name| (s, name))) {
            for key in [key(65535, Protocol::Tcp), key(65535, Protocol::Udp), key(65535, Protocol::TcpUdp)] {
                let group = group_name(settings, name, key);
                assert!(group.len() <= 32 && group.starts_with(&group_prefix(name)), "{group}");
                assert!(group.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'), "{group}");
                assert!(seen.insert(group.clone()), "{group} twice");
            }
        }
    }

    #[test]
    fn our_tags_win_over_those_of_the_admin() {
        let name = LbName::new("default", 0, "cluster", "uid");
        let theirs = [(CLUSTER.to_owned(), "another".to_owned()), ("team".to_owned(), "network".to_owned())];
        let settings = Settings { tags: theirs.into(), ..settings() };
        let tags = tags(&settings, &name);
        assert_eq!((tags[CLUSTER].as_str(), tags["team"].as_str()), ("cluster", "network"));
        assert!(are_ours(&tags, &settings, &name));
        assert!(!are_ours(&tags, &settings, &LbName::new("default", 1, "cluster", "uid")));
    }

    #[test]
    fn an_owner_with_the_longest_names_reads_back_from_tags_that_aws_takes() {
        let [namespace, claim, port] = [63, 253, 63].map(|length| "x".repeat(length).into());
        let owners =
            [Owner { namespace, claim, port }, Owner { namespace: "a".into(), claim: "b".into(), port: "".into() }];
        for written in owners {
            let tags = tags_of_port(&settings(), &LbName::new("default", 0, "cluster", "uid"), &written);
            assert!(tags.values().all(|value| value.len() <= 256));
            assert_eq!(owner(&tags), Some(written));
        }
    }

    #[test]
    fn a_target_reads_back_as_the_backend_that_it_is() {
        let pods = settings();
        let target = Target::of(&pods, &backend("10.0.0.1", None)).unwrap();
        assert_eq!(Target::of(&pods, &target.backend()), Some(target.clone()));
        assert_eq!(Target::from_aws(&target.to_aws()), Some(target));

        let nodes = Settings { target_kind: TargetKind::Node, ..settings() };
        let target = Target::of(&nodes, &backend("10.0.0.1", Some("aws:///eu-central-1a/i-0123"))).unwrap();
        assert_eq!(target.id, "i-0123");
        assert_eq!(Target::of(&nodes, &target.backend()), Some(target));
    }

    #[test]
    fn what_can_be_no_target_is_none() {
        let v6 = Settings { target_ip_family: IpFamily::V6, ..settings() };
        assert_eq!(Target::of(&settings(), &backend("fd00::1", None)), None);
        assert_eq!(Target::of(&v6, &backend("10.0.0.1", None)), None);
        let nodes = Settings { target_kind: TargetKind::Node, ..settings() };
        assert_eq!(Target::of(&nodes, &backend("10.0.0.1", None)), None);
        assert_eq!(Target::of(&nodes, &backend("10.0.0.1", Some("aws:///eu-central-1a/fargate-ip-10-0-0-1"))), None);
    }
}
