//! The desired objects of a load balancer. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use super::nodes::Nodes;
use super::objects::{
    Address, Backend, BackendService, Firewall, ForwardingRule, Group, HealthCheck, HttpHealthCheck, Names, Object,
    Ports, Rule, Zone,
};
use super::ports;
use super::settings::{Managed, Scheme, Settings};
use crate::model::FrontPort;

/// From where Google checks the health of nodes. (Load balancing documentation, "Probe IP ranges and
/// firewall rules": those of external and internal passthrough Network Load Balancers.)
const PROBES: [&str; 4] = ["35.191.0.0/16", "130.211.0.0/22", "209.85.152.0/22", "209.85.204.0/22"];

/// How long a check of a node waits for an answer, in seconds.
const CHECK_TIMEOUT_SECONDS: u32 = 1;

/// The desired objects.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Wanted {
    /// `None`: it is an existing one
    pub(super) address: Option<Address>,
    pub(super) health_check: HealthCheck,
    pub(super) groups: BTreeMap<Zone, Group>,
    pub(super) nodes: Nodes,
    pub(super) backend_service: BackendService,
    /// `None`: its address is not known yet
    pub(super) forwarding_rule: Option<ForwardingRule>,
    /// None, while the address is not known yet
    pub(super) firewalls: BTreeMap<Rule, Firewall>,
    /// Labels of the address and the forwarding rule
    pub(super) labels: BTreeMap<String, String>,
}

/// The desired objects of a load balancer with these nodes and this address, whose listeners have
/// these ports.
pub(super) fn wanted(names: Names<'_>, nodes: Nodes, ip: Option<Ipv4Addr>, ports: &BTreeSet<FrontPort>) -> Wanted {
    let Settings { scheme, session_affinity, labels, .. } = names.settings;
    let groups: BTreeMap<_, _> = nodes.keys().map(|zone| (zone.clone(), group(names, zone))).collect();
    let backend = |zone: &Zone| Backend {
        group: names.path(&Object::Group(zone.clone())),
        balancing_mode: Some("CONNECTION".to_owned()),
    };
    Wanted {
        address: names.address.is_none().then(|| address(names)),
        health_check: health_check(names),
        backend_service: BackendService {
            name: names.of(&Object::BackendService),
            description: Some(names.description()),
            // What a forwarding rule of every protocol needs.
            protocol: "UNSPECIFIED".to_owned(),
            load_balancing_scheme: scheme.as_str().to_owned(),
            session_affinity: session_affinity.as_str().to_owned(),
            health_checks: vec![names.path(&Object::HealthCheck)],
            backends: groups.keys().map(backend).collect(),
            fingerprint: None,
        },
        groups,
        nodes,
        forwarding_rule: ip.map(|ip| forwarding_rule(names, ip)),
        firewalls: ip.map(|ip| firewalls(names, ip, ports)).unwrap_or_default(),
        labels: labels.clone(),
    }
}

fn address(names: Names<'_>) -> Address {
    let Settings { scheme, network_tier, .. } = names.settings;
    let external = *scheme == Scheme::External;
    Address {
        name: names.of(&Object::Address),
        description: Some(names.description()),
        address_type: Some(scheme.as_str().to_owned()),
        network_tier: external.then(|| network_tier.as_str().to_owned()),
        subnetwork: (!external).then(|| names.subnetwork()),
        ..Address::default()
    }
}

fn health_check(names: Names<'_>) -> HealthCheck {
    let check = &names.settings.health_check;
    HealthCheck {
        name: names.of(&Object::HealthCheck),
        description: Some(names.description()),
        kind: "HTTP".to_owned(),
        http_health_check: Some(HttpHealthCheck { port: check.port, request_path: check.path.clone() }),
        check_interval_sec: check.interval_seconds,
        timeout_sec: CHECK_TIMEOUT_SECONDS,
        healthy_threshold: 1,
        unhealthy_threshold: check.unhealthy_threshold,
    }
}

fn group(names: Names<'_>, zone: &Zone) -> Group {
    Group {
        name: names.of(&Object::Group(zone.clone())),
        description: Some(names.description()),
        network_endpoint_type: "GCE_VM_IP".to_owned(),
        network: Some(names.network()),
        subnetwork: Some(names.subnetwork()),
    }
}

fn forwarding_rule(names: Names<'_>, ip: Ipv4Addr) -> ForwardingRule {
    let Settings { scheme, network_tier, global_access, .. } = names.settings;
    let external = *scheme == Scheme::External;
    ForwardingRule {
        name: names.of(&Object::ForwardingRule),
        description: Some(names.description()),
        load_balancing_scheme: scheme.as_str().to_owned(),
        ip_address: ip.to_string(),
        // Every protocol, and so every port: its ports could not be changed later.
        ip_protocol: "L3_DEFAULT".to_owned(),
        all_ports: true,
        backend_service: names.path(&Object::BackendService),
        network_tier: external.then(|| network_tier.as_str().to_owned()),
        network: (!external).then(|| names.network()),
        subnetwork: (!external).then(|| names.subnetwork()),
        allow_global_access: (!external).then_some(*global_access),
        ..ForwardingRule::default()
    }
}

fn firewalls(names: Names<'_>, ip: Ipv4Addr, listening: &BTreeSet<FrontPort>) -> BTreeMap<Rule, Firewall> {
    let Settings { firewall, health_check, .. } = names.settings;
    let allowed = match &firewall.manage {
        Managed::None => return BTreeMap::new(),
        Managed::Ports => ports::allowed(listening),
        Managed::Range(ranges) => ports::allowed_ranges(ranges),
    };
    let rule = |rule: Rule, priority: u16| Firewall {
        name: names.of(&Object::Firewall(rule)),
        description: Some(names.description()),
        network: names.network(),
        direction: "INGRESS".to_owned(),
        priority: priority.into(),
        target_tags: firewall.target_tags.clone(),
        target_service_accounts: firewall.target_service_accounts.clone(),
        ..Firewall::default()
    };
    let destination = || vec![format!("{ip}/32")];
    let mut rules = BTreeMap::new();
    // A rule without ports would allow all of them.
    if !allowed.is_empty() {
        let allow = Firewall {
            source_ranges: firewall.source_ranges.iter().map(ToString::to_string).collect(),
            destination_ranges: destination(),
            allowed: Some(allowed),
            ..rule(Rule::Allow, firewall.priority)
        };
        rules.insert(Rule::Allow, allow);
    }
    if firewall.deny_rest {
        let everything = vec![Ports { ip_protocol: "all".to_owned(), ports: None }];
        let deny = Firewall {
            source_ranges: vec!["0.0.0.0/0".to_owned()],
            destination_ranges: destination(),
            denied: Some(everything),
            ..rule(Rule::Deny, firewall.priority + 1)
        };
        rules.insert(Rule::Deny, deny);
    }
    // Checks are sent to the addresses of nodes.
    let checks = Ports { ip_protocol: "tcp".to_owned(), ports: Some(vec![health_check.port.to_string()]) };
    let health = Firewall {
        source_ranges: PROBES.map(str::to_owned).into(),
        allowed: Some(vec![checks]),
        ..rule(Rule::Health, firewall.priority)
    };
    rules.insert(Rule::Health, health);
    rules
}
