//! The permissions that calls need, as the references of the methods list them below
//! <https://cloud.google.com/compute/docs/reference/rest/v1>.

use serde_json::Value;

use super::calls::Call;
use super::path::{Kind, ObjectPath};
use super::refusal::Refusal;
use super::state::{Fields, State, elements, text};

/// A permission, and the object that it is needed on.
struct Need {
    permission: String,
    on: ObjectPath,
}

/// Refuses a call for which the program under test lacks a permission.
pub(super) fn check(state: &State, may: impl Fn(&str) -> bool, call: &Call<'_>) -> Result<(), Refusal> {
    let missing = needs(state, call).into_iter().find(|need| !may(&need.permission));
    missing.map_or(Ok(()), |need| Err(Refusal::forbidden(&need.permission, &state.full_name(&need.on))))
}

fn needs(state: &State, call: &Call<'_>) -> Vec<Need> {
    let body = &call.body;
    let target = state.objects.get(&call.target()).map(|object| &object.fields);
    let has_internal = |fields: &Fields| {
        ["addressType", "loadBalancingScheme"].iter().any(|field| text(fields, field) == Some("INTERNAL"))
    };
    let is_internal = has_internal(body) || target.is_some_and(has_internal);
    let is_address = Kind::of_collection(call.target().collection()) == Some(Kind::Address);
    let right = match call.method.name.as_str() {
        "insert" if is_address && is_internal => "createInternal",
        "insert" => "create",
        "delete" if is_address && is_internal => "deleteInternal",
        "patch" | "update" => "update",
        "listNetworkEndpoints" | "wait" => "get",
        other => other,
    };
    let own = Need { permission: format!("compute.{}.{right}", call.method.resource), on: call.target() };
    let mut needs = vec![own];
    let mut uses = |permission: &str, url: &str| {
        if let Some(on) = state.reference(url) {
            needs.push(Need { permission: format!("compute.{permission}"), on });
        }
    };
    let changes = matches!(call.method.name.as_str(), "insert" | "patch" | "update");
    match Kind::of_collection(call.target().collection()) {
        Some(Kind::Firewall) if changes || call.method.name == "delete" => {
            uses("networks.updatePolicy", state.network().as_str());
        }
        Some(Kind::EndpointGroup) if call.method.name == "insert" => {
            uses("networks.use", text(body, "network").unwrap_or_default());
            uses("subnetworks.use", text(body, "subnetwork").unwrap_or_default());
        }
        Some(Kind::EndpointGroup) if call.method.name == "attachNetworkEndpoints" => {
            let zone = call.target().scope().to_owned();
            for instance in
                elements(body, "networkEndpoints").iter().filter_map(|endpoint| endpoint["instance"].as_str())
            {
                let name = instance.rsplit('/').next().unwrap_or_default();
                uses("instances.use", &format!("{zone}/instances/{name}"));
            }
        }
        Some(Kind::BackendService) if changes => {
            for check in elements(body, "healthChecks").iter().filter_map(Value::as_str) {
                uses("regionHealthChecks.useReadOnly", check);
            }
            for group in elements(body, "backends").iter().filter_map(|backend| backend["group"].as_str()) {
                uses("networkEndpointGroups.use", group);
            }
        }
        Some(Kind::Address) if is_internal && call.method.name == "insert" => {
            uses("subnetworks.use", text(body, "subnetwork").unwrap_or_default());
        }
        Some(Kind::ForwardingRule) if call.method.name == "insert" => {
            uses("regionBackendServices.use", text(body, "backendService").unwrap_or_default());
            let given = text(body, "IPAddress").unwrap_or_default();
            let mut addresses = state.of_kind(Kind::Address);
            let reserved = addresses.find(|(path, fields)| {
                text(fields, "address") == Some(given) || state.reference(given).as_ref() == Some(*path)
            });
            if let Some((address, _)) = reserved {
                uses(if is_internal { "addresses.useInternal" } else { "addresses.use" }, address.as_str());
            }
            uses("subnetworks.use", text(body, "subnetwork").unwrap_or_default());
        }
        _ => {}
    }
    needs
}
