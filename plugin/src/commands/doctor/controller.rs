//! The controller: whether it runs, leads, has its rights, and goes with this plugin and with the
//! API server.

use jiff::SignedDuration;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use kube::ResourceExt as _;

use super::Finding;
use crate::commands::status::LEASE;
use crate::commands::version::{VERSION, version_of};
use crate::snapshot::Snapshot;

/// The oldest version of Kubernetes that SharedLB works with (docs/install.md).
const KUBERNETES: (u32, u32) = (1, 33);

pub(super) fn findings(snapshot: &Snapshot) -> Vec<Finding> {
    let mut findings = Vec::new();
    if snapshot.deployments.is_complete && snapshot.deployments.items.is_empty() {
        let namespace = &snapshot.system_namespace;
        findings.push(Finding::problem(
            "controller",
            format!("there is no Deployment of it in namespace {namespace}"),
            "install SharedLB, or name its namespace by --system-namespace",
        ));
    }
    findings.extend(snapshot.deployments.items.iter().flat_map(deployment));
    if snapshot.leases.is_complete && !snapshot.deployments.items.is_empty() {
        findings.extend(leader(snapshot));
    }
    findings.extend(snapshot.health.lacking_rights.iter().map(|right| {
        Finding::problem(
            "controller",
            format!("it lacks the right to {right}"),
            "apply the roles of deploy/, or switch them on in the values of the chart: SECURITY.md lists them",
        )
    }));
    if let Some(version) = snapshot.health.server_version.filter(|version| *version < KUBERNETES) {
        findings.push(Finding::problem(
            "API server",
            format!(
                "it is Kubernetes {}.{}, and SharedLB needs {}.{}",
                version.0, version.1, KUBERNETES.0, KUBERNETES.1
            ),
            "upgrade the cluster",
        ));
    }
    findings
}

fn deployment(deployment: &Deployment) -> Vec<Finding> {
    let about = format!("Deployment {}", deployment.name_any());
    let mut findings = Vec::new();
    let ready = deployment.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0);
    if ready == 0 {
        let help = "look at its pods and their logs: kubectl describe pods -l app.kubernetes.io/name=sharedlb";
        findings.push(Finding::problem(&about, "no replica is ready", help));
    }
    if let Some(version) = version_of(deployment).filter(|version| *version != VERSION) {
        findings.push(Finding::warning(
            about,
            format!("the controller has version {version}, and this plugin {VERSION}"),
            "use the plugin of the controller's version: this one may misread fields",
        ));
    }
    findings
}

/// Whether a replica leads: it renews the Lease all the time.
fn leader(snapshot: &Snapshot) -> Option<Finding> {
    let lease = snapshot.leases.items.iter().find(|lease| lease.name_any() == LEASE);
    let help = "look at the logs of the controller: docs/runbooks/SharedLBNoLeader.md";
    let Some(lease) = lease else {
        return Some(Finding::problem(format!("Lease {LEASE}"), "it does not exist, so no replica has ever led", help));
    };
    let is_held = holds(lease, snapshot.now)?;
    (!is_held).then(|| Finding::problem(format!("Lease {LEASE}"), "it has expired, so no replica leads", help))
}

/// Whether the holder of a Lease renewed it in time; `None`: the Lease does not say.
fn holds(lease: &Lease, now: jiff::Timestamp) -> Option<bool> {
    let spec = lease.spec.as_ref()?;
    if spec.holder_identity.as_deref().unwrap_or_default().is_empty() {
        return Some(false);
    }
    let renewed = spec.renew_time.as_ref()?.0;
    let lasts = SignedDuration::from_secs(spec.lease_duration_seconds?.into());
    Some(renewed.checked_add(lasts).ok()? >= now)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fixtures::{object, snapshot};
    use crate::snapshot::Seen;

    fn with_controller(version: &str, ready: u32, renewed: &str) -> Snapshot {
        let deployment = object(json!({
            "metadata": {"name": "sharedlb", "labels": {"app.kubernetes.io/version": version}},
            "status": {"readyReplicas": ready},
        }));
        let lease = object(json!({
            "metadata": {"name": "sharedlb"},
            "spec": {"holderIdentity": "a", "leaseDurationSeconds": 15, "renewTime": renewed},
        }));
        let mut snapshot = snapshot([], []);
        snapshot.deployments = Seen::all([deployment]);
        snapshot.leases = Seen::all([lease]);
        snapshot
    }

    fn found(snapshot: &Snapshot) -> Vec<String> {
        findings(snapshot).into_iter().map(|finding| finding.message).collect()
    }

    #[test]
    fn a_controller_that_leads_and_has_this_version_is_well() {
        assert_eq!(found(&with_controller(VERSION, 2, "2026-01-01T00:00:50.000000Z")), [""; 0]);
    }

    #[test]
    fn a_missing_controller_is_found() {
        let mut snapshot = snapshot([], []);
        snapshot.deployments = Seen::all([]);
        assert_eq!(found(&snapshot), ["there is no Deployment of it in namespace sharedlb-system"]);
        snapshot.deployments = Seen::default();
        assert_eq!(found(&snapshot), [""; 0], "one that may not be seen may be there");
    }

    #[test]
    fn replicas_that_are_not_ready_a_lease_that_has_expired_and_another_version_are_found() {
        assert_eq!(
            found(&with_controller("0.0.1", 0, "2026-01-01T00:00:40.000000Z")),
            [
                "no replica is ready".to_owned(),
                format!("the controller has version 0.0.1, and this plugin {VERSION}"),
                "it has expired, so no replica leads".to_owned(),
            ]
        );
        let mut snapshot = with_controller(VERSION, 1, "2026-01-01T00:00:50.000000Z");
        snapshot.leases = Seen::all([]);
        assert_eq!(found(&snapshot), ["it does not exist, so no replica has ever led"]);
    }

    #[test]
    fn an_api_server_that_is_too_old_is_found() {
        let mut snapshot = with_controller(VERSION, 1, "2026-01-01T00:00:50.000000Z");
        snapshot.health.server_version = Some((1, 32));
        assert_eq!(found(&snapshot), ["it is Kubernetes 1.32, and SharedLB needs 1.33"]);
    }
}
