//! The settings of a class as in AWS' API, and as [`Attributes`] for comparison: those of the
//! load balancer itself, and those that all its target groups share.

use std::collections::BTreeSet;

use aws_sdk_elasticloadbalancingv2::types::{TargetGroup, TargetGroupAttribute};

use super::settings::{HealthCheck, Settings, TargetKind};
use crate::model::{Attributes, ListenerKey, Protocol};

/// The attribute of a load balancer that has a field of its own in the class.
pub(super) const CROSS_ZONE: &str = "load_balancing.cross_zone.enabled";

/// The names of settings, besides `tag …` and `attribute …`.
pub(super) const SECURITY_GROUPS: &str = "security groups";
pub(super) const HEALTH_CHECK: &str = "health check";
pub(super) const GROUPS: &str = "target group attributes";

/// The desired settings of a load balancer of the class.
pub(super) fn wanted(settings: &Settings) -> Attributes {
    let mut wanted = Attributes::from([
        (HEALTH_CHECK.to_owned(), Probe::wanted(&settings.health_check).to_string()),
        (GROUPS.to_owned(), GroupAttributes::wanted(settings, false).summary()),
    ]);
    wanted.extend(settings.tags.iter().map(|(key, value)| (format!("tag {key}"), value.clone())));
    if settings.load_balancer_arn.is_none() {
        if !settings.security_groups.is_empty() {
            wanted.insert(SECURITY_GROUPS.to_owned(), joined(settings.security_groups.iter()));
        }
        let attributes = nlb_attributes(settings).into_iter();
        wanted.extend(attributes.map(|(key, value)| (format!("attribute {key}"), value)));
    }
    wanted
}

/// The attributes of the load balancer itself.
pub(super) fn nlb_attributes(settings: &Settings) -> Attributes {
    let mut attributes = settings.attributes.clone();
    attributes.insert(CROSS_ZONE.to_owned(), settings.cross_zone.to_string());
    attributes
}

/// All of them in one text, sorted.
pub(super) fn joined<T: AsRef<str> + Ord>(all: impl Iterator<Item = T>) -> String {
    let all: BTreeSet<T> = all.collect();
    all.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(" ")
}

/// The health check of the targets of a target group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Probe {
    pub(super) protocol: String,
    pub(super) port: String,
    pub(super) path: Option<String>,
    pub(super) interval_seconds: i32,
    pub(super) timeout_seconds: i32,
    pub(super) healthy: i32,
    pub(super) unhealthy: i32,
}

impl Probe {
    /// The health check of the class, with AWS' defaults for fields that it leaves out, so
    /// that a field that is removed from the class is reset. (API reference,
    /// CreateTargetGroup; path and matcher: of HTTP and HTTPS only.)
    pub(super) fn wanted(given: &HealthCheck) -> Self {
        let protocol = given.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
        let interval_seconds = given.interval_seconds.unwrap_or(30);
        let default_timeout = if protocol == "HTTP" { 6 } else { 10 };
        let path = (protocol != "TCP").then(|| given.path.clone().unwrap_or_else(|| "/".to_owned()));
        Self {
            port: given.port.clone().unwrap_or_else(|| "traffic-port".to_owned()),
            path,
            interval_seconds,
            timeout_seconds: given.timeout_seconds.unwrap_or(default_timeout.min(interval_seconds)),
            healthy: given.healthy_threshold_count.unwrap_or(5),
            unhealthy: given.unhealthy_threshold_count.unwrap_or(2),
            protocol,
        }
    }

    /// The health check of a target group.
    pub(super) fn from_aws(group: &TargetGroup) -> Self {
        let protocol = group.health_check_protocol().map_or("TCP", |protocol| protocol.as_str()).to_owned();
        Self {
            port: group.health_check_port().unwrap_or("traffic-port").to_owned(),
            path: group.health_check_path().filter(|_| protocol != "TCP").map(str::to_owned),
            interval_seconds: group.health_check_interval_seconds().unwrap_or_default(),
            timeout_seconds: group.health_check_timeout_seconds().unwrap_or_default(),
            healthy: group.healthy_threshold_count().unwrap_or_default(),
            unhealthy: group.unhealthy_threshold_count().unwrap_or_default(),
            protocol,
        }
    }
}

impl std::fmt::Display for Probe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { protocol, port, path, interval_seconds, timeout_seconds, healthy, unhealthy } = self;
        let path = path.as_deref().unwrap_or_default();
        write!(
            f,
            "{protocol} {port}{path} every {interval_seconds} s within {timeout_seconds} s, {healthy}/{unhealthy}"
        )
    }
}

/// The attributes of a target group: those that a class can set, and stickiness, by which the
/// listener of a claim has session affinity.
pub(super) struct GroupAttributes {
    deregistration_delay_seconds: Option<u32>,
    preserve_client_ip: Option<bool>,
    proxy_protocol_v2: bool,
    kind: TargetKind,
    sticky: bool,
}

/// Stickiness in the text of [`GroupAttributes::summary`].
const STICKY: &str = "stickiness=source_ip";

impl GroupAttributes {
    /// The value of the tag for AWS' defaults, which means the same as no tag.
    pub(super) const DEFAULT: &str = "default";

    pub(super) fn wanted(settings: &Settings, sticky: bool) -> Self {
        Self {
            deregistration_delay_seconds: settings.deregistration_delay_seconds,
            preserve_client_ip: settings.preserve_client_ip,
            proxy_protocol_v2: settings.proxy_protocol_v2,
            kind: settings.target_kind,
            sticky,
        }
    }

    /// Whether stickiness is among the attributes in this text.
    pub(super) fn are_sticky(summary: &str) -> bool {
        summary.split(' ').any(|attribute| attribute == STICKY)
    }

    /// All of them in one text, of the characters that the value of a tag may have.
    pub(super) fn summary(&self) -> String {
        let given = [
            self.deregistration_delay_seconds.map(|seconds| format!("deregistration_delay={seconds}")),
            self.preserve_client_ip.map(|preserve| format!("preserve_client_ip={preserve}")),
            self.proxy_protocol_v2.then(|| "proxy_protocol_v2=true".to_owned()),
            self.sticky.then(|| STICKY.to_owned()),
        ];
        let given: Vec<String> = given.into_iter().flatten().collect();
        if given.is_empty() { Self::DEFAULT.to_owned() } else { given.join(" ") }
    }

    /// All of them as in AWS' API, for the target group of this listener, with defaults. (API
    /// reference, TargetGroupAttribute. For UDP, clients' addresses are always preserved, and
    /// any other value is an error. Stickiness of Network Load Balancers has no timeout.)
    pub(super) fn to_aws(&self, key: ListenerKey) -> Vec<TargetGroupAttribute> {
        let delay = self.deregistration_delay_seconds.unwrap_or(300).to_string();
        let preserve = self.preserve_client_ip.unwrap_or(self.kind == TargetKind::Node);
        let preserve = (key.protocol == Protocol::Tcp).then(|| ("preserve_client_ip.enabled", preserve.to_string()));
        let all = [
            Some(("deregistration_delay.timeout_seconds", delay)),
            preserve,
            Some(("proxy_protocol_v2.enabled", self.proxy_protocol_v2.to_string())),
            Some(("stickiness.enabled", self.sticky.to_string())),
            Some(("stickiness.type", "source_ip".to_owned())),
        ];
        let attribute = |(key, value): (&str, String)| TargetGroupAttribute::builder().key(key).value(value).build();
        all.into_iter().flatten().map(attribute).collect()
    }
}
