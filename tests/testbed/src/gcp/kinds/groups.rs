//! Network endpoint groups of instances, in one zone each.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::gcp::path::ObjectPath;
use crate::gcp::refusal::Refusal;
use crate::gcp::state::{Fields, State, is_set, refuse_field, required, text};

/// How many endpoints one call takes:
/// <https://cloud.google.com/load-balancing/docs/negs/setting-up-zonal-negs>.
const MOST_IN_A_CALL: usize = 500;

pub(super) fn create(state: &State, path: &ObjectPath, mut body: Fields) -> Result<Fields, Refusal> {
    check_name(path.name())?;
    if required(&body, "networkEndpointType")? != "GCE_VM_IP" {
        return Err(Refusal::not_implemented("other types than GCE_VM_IP"));
    }
    // Field `defaultPort`: not with GCE_VM_IP. Field `network`: required with it.
    refuse_field(&body, "defaultPort", "It must not be specified for the type GCE_VM_IP.")?;
    let network = state.usable("resource.network", required(&body, "network")?)?;
    body.insert("network".into(), json!(state.link(&network)));
    if let Some(url) = text(&body, "subnetwork") {
        let subnetwork = state.usable("resource.subnetwork", url)?;
        body.insert("subnetwork".into(), json!(state.link(&subnetwork)));
    }
    Ok(body)
}

/// Field `name`: RFC 1035. The document has no pattern for it.
fn check_name(name: &str) -> Result<(), Refusal> {
    let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let is_name = name.len() <= 63
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('-')
        && name.chars().all(is_allowed);
    let why = "Must be a match of regex '[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?'";
    if is_name { Ok(()) } else { Err(Refusal::invalid("resource.name", name, why)) }
}

/// The names of the instances that endpoints in a body are.
pub(in crate::gcp) fn instances(
    state: &State,
    group: &ObjectPath,
    endpoints: &[Value],
) -> Result<BTreeSet<String>, Refusal> {
    if endpoints.is_empty() {
        return Err(Refusal::required("resource.networkEndpoints"));
    }
    if endpoints.len() > MOST_IN_A_CALL {
        return Err(Refusal::too_large("resource.networkEndpoints", MOST_IN_A_CALL, endpoints.len()));
    }
    let mut instances = BTreeSet::new();
    for (index, endpoint) in endpoints.iter().enumerate() {
        let at = format!("resource.networkEndpoints[{index}]");
        let Some(endpoint) = endpoint.as_object() else { return Err(Refusal::required(&at)) };
        let instance = instance(state, group.scope(), endpoint, &at)?;
        if !instances.insert(instance.clone()) {
            return Err(Refusal::invalid(&at, &instance, "The network endpoint is listed twice."));
        }
    }
    Ok(instances)
}

/// Fields of `NetworkEndpoint`: `instance` is a name or a URL, in the group's own zone;
/// `ipAddress` need not be set, `port` must not be set, with GCE_VM_IP.
fn instance(state: &State, zone: &str, endpoint: &Fields, at: &str) -> Result<String, Refusal> {
    for field in ["port", "fqdn", "clientDestinationPort", "ipv6Address"] {
        if is_set(endpoint, field) {
            let field = format!("{at}.{field}");
            return Err(Refusal::invalid(&field, "", "It must not be specified for the type GCE_VM_IP."));
        }
    }
    let field = format!("{at}.instance");
    let Some(given) = text(endpoint, "instance") else { return Err(Refusal::required(&field)) };
    let path = if given.contains('/') {
        state.reference(given).ok_or_else(|| Refusal::invalid(&field, given, "The URL is malformed."))?
    } else {
        ObjectPath::within(&format!("{zone}/instances"), given)
    };
    if path.scope() != zone {
        return Err(Refusal::invalid(&field, given, "The instance is in another zone."));
    }
    state.object(&path)?;
    let address = address(state, zone, path.name());
    if text(endpoint, "ipAddress").is_some_and(|given| Some(given) != address) {
        let field = format!("{at}.ipAddress");
        return Err(Refusal::invalid(&field, "", "It is not the primary address of the instance."));
    }
    Ok(path.name().to_owned())
}

/// The primary address of an instance.
pub(in crate::gcp) fn address<'a>(state: &'a State, zone: &str, instance: &str) -> Option<&'a str> {
    let instance = state.objects.get(&ObjectPath::within(&format!("{zone}/instances"), instance))?;
    instance.fields.get("networkInterfaces")?.get(0)?.get("networkIP")?.as_str()
}
