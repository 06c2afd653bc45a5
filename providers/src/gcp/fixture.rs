//! A class for tests.

use super::settings::{Affinity, Firewall, HealthCheck, Managed, NetworkTier, Reference, Scheme, Settings};

/// The settings of an external load balancer.
pub(super) fn settings() -> Settings {
    Settings {
        project: "project".into(),
        region: "europe-west3".into(),
        network: Reference::parse("network", "project"),
        subnetwork: Reference::parse("subnetwork", "project"),
        scheme: Scheme::External,
        network_tier: NetworkTier::Premium,
        address_names: Vec::new(),
        labels: [("team".to_owned(), "edge".to_owned())].into(),
        global_access: false,
        session_affinity: Affinity::None,
        entry_nodes: 250,
        firewall: Firewall {
            manage: Managed::Ports,
            source_ranges: vec!["0.0.0.0/0".parse().expect("a range")],
            target_tags: vec!["nodes".into()],
            target_service_accounts: Vec::new(),
            priority: 900,
            deny_rest: true,
        },
        health_check: HealthCheck {
            port: 10_256,
            path: "/healthz".into(),
            interval_seconds: 8,
            unhealthy_threshold: 3,
        },
        secret_name: None,
        cluster_id: "cluster".into(),
        class: "default".into(),
    }
}
