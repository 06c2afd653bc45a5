//! Quotas of the project and of its region: <https://cloud.google.com/compute/resource-usage>.

use serde_json::{Value, json};

use crate::gcp::path::{Kind, ObjectPath};
use crate::gcp::refusal::Refusal;
use crate::gcp::state::{Fields, State, text};

/// Metrics of the region, as `regions.get` names them.
const OF_REGION: [&str; 6] = [
    "STATIC_ADDRESSES",
    "INTERNAL_ADDRESSES",
    "EXTERNAL_NETWORK_LB_FORWARDING_RULES",
    "REGIONAL_EXTERNAL_NETWORK_LB_BACKEND_SERVICES",
    "REGIONAL_INTERNAL_LB_BACKEND_SERVICES",
    "NETWORK_ENDPOINT_GROUPS",
];
/// Metrics of the whole project, as `projects.get` names them.
const OF_PROJECT: [&str; 2] = ["FIREWALLS", "HEALTH_CHECKS"];

/// The limit of a metric for which the test has set none.
const LARGE: f64 = 1000.0;

/// The metric that an object counts for.
fn metric(kind: Kind, fields: &Fields) -> Option<&'static str> {
    let scheme = text(fields, "loadBalancingScheme");
    match kind {
        Kind::Address if text(fields, "addressType") == Some("INTERNAL") => Some("INTERNAL_ADDRESSES"),
        Kind::Address => Some("STATIC_ADDRESSES"),
        // Those of internal rules are quotas of the network, which no method reads.
        Kind::ForwardingRule => (scheme == Some("EXTERNAL")).then_some("EXTERNAL_NETWORK_LB_FORWARDING_RULES"),
        Kind::BackendService if scheme == Some("INTERNAL") => Some("REGIONAL_INTERNAL_LB_BACKEND_SERVICES"),
        Kind::BackendService => Some("REGIONAL_EXTERNAL_NETWORK_LB_BACKEND_SERVICES"),
        Kind::EndpointGroup => Some("NETWORK_ENDPOINT_GROUPS"),
        Kind::HealthCheck => Some("HEALTH_CHECKS"),
        Kind::Firewall => Some("FIREWALLS"),
    }
}

fn usage(state: &State, of: &str) -> usize {
    let kinds = state
        .objects
        .iter()
        .filter_map(|(path, object)| metric(Kind::of_collection(path.collection())?, &object.fields));
    kinds.filter(|metric| *metric == of).count()
}

/// Refuses an object that is one too many.
pub(in crate::gcp) fn check(state: &State, kind: Kind, fields: &Fields) -> Result<(), Refusal> {
    let Some(metric) = metric(kind, fields) else { return Ok(()) };
    let Some(&limit) = state.quotas.get(metric) else { return Ok(()) };
    if ((usage(state, metric) + 1) as f64) <= limit {
        return Ok(());
    }
    let in_region = format!("in region {}", state.layout.region);
    let extent = if OF_REGION.contains(&metric) { &in_region } else { "globally" };
    Err(Refusal::quota_exceeded(metric, limit, extent))
}

fn shown(state: &State, metrics: &[&str]) -> Value {
    let quota = |metric: &&str| {
        let limit = state.quotas.get(*metric).copied().unwrap_or(LARGE);
        json!({"metric": metric, "limit": limit, "usage": usage(state, metric) as f64})
    };
    metrics.iter().map(quota).collect()
}

/// The answer of `regions.get`.
pub(in crate::gcp) fn region(state: &State) -> Value {
    let region = ObjectPath::within("regions", &state.layout.region);
    let zone = |zone: &String| state.link(&ObjectPath::within("zones", zone));
    json!({
        "kind": "compute#region",
        "id": "1",
        "name": state.layout.region,
        "status": "UP",
        "selfLink": state.link(&region),
        "zones": state.layout.zones.iter().map(zone).collect::<Vec<_>>(),
        "quotas": shown(state, &OF_REGION),
    })
}

/// The answer of `projects.get`.
pub(in crate::gcp) fn project(state: &State) -> Value {
    json!({
        "kind": "compute#project",
        "id": "1",
        "name": state.layout.project,
        "quotas": shown(state, &OF_PROJECT),
    })
}
