//! kube-proxy and what stands in its place: whether it keeps away from the addresses in the status
//! of tenants' Services. SECURITY.md ("What captures traffic") has the versions and their sources.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt as _;
use serde::Deserialize;

use super::{Finding, Severity, image_version};
use crate::rights::is_claim;
use crate::snapshot::Snapshot;

/// The first version of kube-proxy with `ipMode` by default.
const KUBE_PROXY: [u32; 3] = [1, 30, 0];
/// The first version of Cilium that honours `ipMode`.
const CILIUM: [u32; 3] = [1, 17, 0];
/// A version of Cilium that does not, though it is newer.
const CILIUM_BROKEN: [u32; 3] = [1, 18, 0];
/// The first version of Antrea that honours `ipMode`.
const ANTREA: [u32; 3] = [2, 0, 0];

const SERVICES_OFF: &str =
    "upgrade it, or run the controller with --source-services=false and let tenants write claims";

/// The part of kube-proxy's configuration that is looked at.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ProxyConfiguration {
    mode: Option<String>,
    feature_gates: Option<std::collections::BTreeMap<String, bool>>,
}

pub(super) fn findings(snapshot: &Snapshot) -> Vec<Finding> {
    // Only the status of a Service can be captured, and not that of a claim.
    let severity = if snapshot.services.items.iter().any(is_claim) { Severity::Problem } else { Severity::Warning };
    let mut findings: Vec<Finding> = snapshot.health.daemon_sets.items.iter().filter_map(daemon_set).collect();
    findings.extend(snapshot.health.proxy_configuration.iter().flat_map(configuration));
    for finding in &mut findings {
        finding.severity = finding.severity.max(severity);
    }
    findings
}

/// A DaemonSet whose version ignores `ipMode`.
fn daemon_set(set: &DaemonSet) -> Option<Finding> {
    let pod = set.spec.as_ref()?.template.spec.as_ref()?;
    let image = pod.containers.first()?.image.as_deref()?;
    let version = image_version(image);
    let ignores = match set.name_any().as_str() {
        "kube-proxy" => version? < KUBE_PROXY,
        "cilium" => version? < CILIUM || version? == CILIUM_BROKEN,
        "antrea-agent" => version? < ANTREA,
        _ => return None,
    };
    ignores.then(|| {
        Finding::problem(
            about(set),
            format!("{image} ignores ipMode, so a tenant's Service captures ports of the shared address inside of the cluster"),
            SERVICES_OFF,
        )
    })
}

fn about(set: &DaemonSet) -> String {
    format!("DaemonSet {}/{}", set.namespace().unwrap_or_default(), set.name_any())
}

fn configuration(map: &ConfigMap) -> Vec<Finding> {
    let about = "ConfigMap kube-system/kube-proxy";
    let text = map.data.as_ref().and_then(|data| data.get("config.conf"));
    let Some(text) = text else { return Vec::new() };
    let configuration: ProxyConfiguration = match serde_saphyr::from_str(text) {
        Ok(configuration) => configuration,
        Err(error) => {
            return vec![Finding::warning(about, format!("config.conf cannot be read: {error}"), "correct it")];
        }
    };
    let mut findings = Vec::new();
    let gate = configuration.feature_gates.and_then(|gates| gates.get("LoadBalancerIPMode").copied());
    if gate == Some(false) {
        findings.push(Finding::problem(
            about,
            "the feature gate LoadBalancerIPMode is off, so a tenant's Service captures ports of the shared address",
            "switch it on",
        ));
    }
    if configuration.mode.as_deref() == Some("ipvs") {
        findings.push(Finding::warning(
            about,
            "kube-proxy has the mode ipvs, which is deprecated: each node has the addresses of Services on kube-ipvs0",
            "use the mode nftables; with the provider vip and keepalived, set ipvs.strictARP until then",
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fixtures::{object, snapshot};
    use crate::snapshot::Seen;

    fn with(name: &str, image: &str) -> Snapshot {
        let mut snapshot = snapshot([], []);
        snapshot.health.daemon_sets = Seen::all([object(json!({
            "metadata": {"namespace": "kube-system", "name": name},
            "spec": {"selector": {}, "template": {"spec": {"containers": [{"name": "main", "image": image}]}}},
        }))]);
        snapshot
    }

    fn ignores(name: &str, image: &str) -> bool {
        !findings(&with(name, image)).is_empty()
    }

    #[test]
    fn versions_that_ignore_ip_mode_are_found() {
        assert!(ignores("kube-proxy", "registry.k8s.io/kube-proxy:v1.29.9"));
        assert!(!ignores("kube-proxy", "registry.k8s.io/kube-proxy:v1.33.0"));
        assert!(ignores("cilium", "quay.io/cilium/cilium:v1.16.5"));
        assert!(!ignores("cilium", "quay.io/cilium/cilium:v1.17.0@sha256:00"));
        assert!(ignores("cilium", "quay.io/cilium/cilium:v1.18.0"));
        assert!(!ignores("cilium", "quay.io/cilium/cilium:v1.18.1"));
        assert!(ignores("antrea-agent", "antrea/antrea-agent-ubuntu:v1.15.0"));
        assert!(!ignores("node-exporter", "node-exporter:v1.0.0"));
    }

    #[test]
    fn it_is_a_problem_only_where_services_are_claims() {
        let mut snapshot = with("cilium", "quay.io/cilium/cilium:v1.16.5");
        assert_eq!(findings(&snapshot)[0].severity, Severity::Warning);
        snapshot.services = Seen::all([object(json!({"spec": {"loadBalancerClass": "sharedlb.dev/default"}}))]);
        assert_eq!(findings(&snapshot)[0].severity, Severity::Problem);
    }

    #[test]
    fn the_mode_and_the_feature_gate_of_kube_proxy_are_read() {
        let mut snapshot = snapshot([], []);
        let with = |text: &str| object::<ConfigMap>(json!({"data": {"config.conf": text}}));
        snapshot.health.proxy_configuration =
            Some(with("kind: KubeProxyConfiguration\nmode: ipvs\nfeatureGates: {LoadBalancerIPMode: false}\n"));
        let found: Vec<String> = findings(&snapshot).into_iter().map(|finding| finding.message).collect();
        assert!(found[0].starts_with("the feature gate LoadBalancerIPMode is off"), "{found:?}");
        assert!(found[1].starts_with("kube-proxy has the mode ipvs"), "{found:?}");
        snapshot.health.proxy_configuration = Some(with("mode: \"\"\nfeatureGates: null\n"));
        assert_eq!(findings(&snapshot), []);
    }
}
