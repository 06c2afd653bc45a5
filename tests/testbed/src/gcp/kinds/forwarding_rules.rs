//! Forwarding rules of passthrough load balancers, in the region.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use serde_json::{Value, json};

use crate::gcp::path::{Kind, ObjectPath};
use crate::gcp::refusal::Refusal;
use crate::gcp::state::{Fields, State, default, elements, is_set, refuse_field, required, text};

/// Field `ports`: "You can specify a list of up to five ports".
const MOST_PORTS: usize = 5;
/// Field `sourceIpRanges`: "can only have up to 64 source IP ranges".
const MOST_SOURCE_RANGES: usize = 64;

pub(super) fn create(state: &State, path: &ObjectPath, mut body: Fields) -> Result<Fields, Refusal> {
    // Field `labels`: "These can only be added or modified by the setLabels method."
    refuse_field(&body, "labels", "Labels are set by setLabels.")?;
    refuse_field(&body, "target", "A passthrough load balancer has a backend service.")?;
    if text(&body, "ipVersion") == Some("IPV6") {
        return Err(Refusal::not_implemented("IPv6"));
    }
    default(&mut body, "loadBalancingScheme", json!("EXTERNAL"));
    default(&mut body, "IPProtocol", json!("TCP"));
    default(&mut body, "networkTier", json!("PREMIUM"));
    check_ports(&body)?;
    check_scheme(&body)?;
    set_network(state, &mut body)?;
    let service = backend_service(state, path, &body)?;
    body.insert("backendService".into(), json!(state.link(&service)));
    let address = address(state, path, &body)?;
    body.insert("IPAddress".into(), json!(address));
    check_overlap(state, &body)?;
    Ok(body)
}

/// Fields `ports`, `portRange` and `allPorts` are mutually exclusive, and one of them has to
/// be there. Field `allPorts`: "The L3_DEFAULT protocol requires allPorts be set to true."
fn check_ports(body: &Fields) -> Result<(), Refusal> {
    let all_ports = body.get("allPorts").and_then(Value::as_bool) == Some(true);
    let given = [all_ports, is_set(body, "ports"), is_set(body, "portRange")];
    let given = given.into_iter().filter(|given| *given).count();
    let protocol = required(body, "IPProtocol")?;
    if protocol == "L3_DEFAULT" && !all_ports {
        let why = "The L3_DEFAULT protocol requires allPorts be set to true.";
        return Err(Refusal::invalid("resource.allPorts", "false", why));
    }
    if given != 1 {
        let why = "Exactly one of ports, portRange and allPorts must be specified.";
        return Err(Refusal::invalid("resource.ports", "", why));
    }
    if !matches!(protocol, "TCP" | "UDP" | "L3_DEFAULT") {
        return Err(Refusal::not_implemented(&format!("the protocol {protocol}")));
    }
    let ports = elements(body, "ports");
    if ports.len() > MOST_PORTS {
        return Err(Refusal::too_large("resource.ports", MOST_PORTS, ports.len()));
    }
    for port in ports.iter().filter_map(Value::as_str).chain(text(body, "portRange")) {
        port_range(port).ok_or_else(|| Refusal::invalid("resource.ports", port, "It is no port."))?;
    }
    Ok(())
}

fn check_scheme(body: &Fields) -> Result<(), Refusal> {
    let scheme = required(body, "loadBalancingScheme")?;
    let ranges = elements(body, "sourceIpRanges");
    match scheme {
        "EXTERNAL" => {
            refuse_field(body, "allowGlobalAccess", "It is for internal load balancers only.")?;
            // Fields `network` and `subnetwork`: for internal ones, and for IPv6.
            refuse_field(body, "network", "It is for internal load balancers only.")?;
            refuse_field(body, "subnetwork", "It is for internal load balancers only.")?;
        }
        "INTERNAL" => {
            refuse_field(body, "portRange", "It is for external load balancers only.")?;
            refuse_field(body, "sourceIpRanges", "It is for external load balancers only.")?;
        }
        other => return Err(Refusal::not_implemented(&format!("the scheme {other}"))),
    }
    if ranges.len() > MOST_SOURCE_RANGES {
        return Err(Refusal::too_large("resource.sourceIpRanges", MOST_SOURCE_RANGES, ranges.len()));
    }
    for range in ranges.iter().filter_map(Value::as_str) {
        if range.parse::<IpNet>().is_err() && range.parse::<IpAddr>().is_err() {
            return Err(Refusal::invalid("resource.sourceIpRanges", range, "It is no range of addresses."));
        }
    }
    Ok(())
}

/// Field `subnetwork`: a subnetwork must be specified if the network is in custom subnet mode,
/// as that of the stand-in is.
fn set_network(state: &State, body: &mut Fields) -> Result<(), Refusal> {
    if text(body, "loadBalancingScheme") != Some("INTERNAL") {
        return Ok(());
    }
    let subnetwork = state.usable("resource.subnetwork", required(body, "subnetwork")?)?;
    if let Some(network) = text(body, "network") {
        state.usable("resource.network", network)?;
    }
    body.insert("subnetwork".into(), json!(state.link(&subnetwork)));
    body.insert("network".into(), json!(state.link(&state.network())));
    Ok(())
}

/// The backend service is of the rule's scheme and region, and of a protocol that fits:
/// <https://cloud.google.com/load-balancing/docs/network/networklb-backend-service#forwarding-rule-protocols>.
fn backend_service(state: &State, path: &ObjectPath, body: &Fields) -> Result<ObjectPath, Refusal> {
    let url = required(body, "backendService")?;
    let field = "resource.backendService";
    let service = state.usable(field, url)?;
    if Kind::of_collection(service.collection()) != Some(Kind::BackendService) || service.scope() != path.scope() {
        return Err(Refusal::invalid(field, url, "It is no backend service of the region."));
    }
    let fields = &state.object(&service)?.fields;
    if text(fields, "loadBalancingScheme") != text(body, "loadBalancingScheme") {
        return Err(Refusal::invalid(field, url, "The load balancing schemes are different."));
    }
    let fits = match (text(fields, "protocol"), text(body, "IPProtocol")) {
        (Some("UNSPECIFIED"), Some(_)) => true,
        (Some(of_service), Some(of_rule)) => of_service == of_rule,
        _ => false,
    };
    if !fits {
        let why = "Protocol of the backend service does not match the protocol of the forwarding rule.";
        return Err(Refusal::invalid(field, url, why));
    }
    Ok(service)
}

/// Field `IPAddress`: a number, or the URL or name of a reserved address; without it, an
/// ephemeral one. Field `networkTier`: it is that of the address.
fn address(state: &State, path: &ObjectPath, body: &Fields) -> Result<String, Refusal> {
    let is_internal = text(body, "loadBalancingScheme") == Some("INTERNAL");
    let pool = if is_internal { &state.layout.internal } else { &state.layout.external };
    let Some(given) = text(body, "IPAddress") else {
        let free = state.free_address(pool).map(|address| address.to_string());
        return free.ok_or_else(|| Refusal::invalid("resource.IPAddress", "", "The pool has no address left."));
    };
    let reserved = match given.parse::<IpAddr>() {
        Ok(_) => state.of_kind(Kind::Address).find(|(_, fields)| text(fields, "address") == Some(given)),
        Err(_) => {
            let url =
                if given.contains('/') { given.to_owned() } else { format!("{}/addresses/{given}", path.scope()) };
            let address = state.usable("resource.IPAddress", &url)?;
            state.of_kind(Kind::Address).find(|(path, _)| **path == address)
        }
    };
    let Some((reserved_path, fields)) = reserved else {
        // An internal address need not be reserved.
        let is_free = given.parse::<IpAddr>().is_ok_and(|address| pool.contains(&address) && !state.is_taken(address));
        if is_internal && is_free {
            return Ok(given.to_owned());
        }
        let why = "Specified IP address is not reserved in the region.";
        return Err(Refusal::invalid("resource.IPAddress", given, why));
    };
    state.check_is_ready(reserved_path)?;
    if text(fields, "networkTier") != text(body, "networkTier") && !is_internal {
        let tier = text(body, "networkTier").unwrap_or_default();
        return Err(Refusal::invalid("resource.networkTier", tier, "It is not the network tier of the address."));
    }
    let wanted = if is_internal { "INTERNAL" } else { "EXTERNAL" };
    if text(fields, "addressType") != Some(wanted) {
        return Err(Refusal::invalid("resource.IPAddress", given, "The address is of another type."));
    }
    Ok(text(fields, "address").unwrap_or_default().to_owned())
}

/// Fields `ports` and `portRange`: two rules cannot have the same address and protocol if
/// their ports overlap.
fn check_overlap(state: &State, body: &Fields) -> Result<(), Refusal> {
    let same = |other: &Fields, field: &str| text(other, field) == text(body, field);
    let overlaps = |other: &Fields| {
        let (theirs, ours) = (port_ranges(other), port_ranges(body));
        theirs.iter().any(|a| ours.iter().any(|b| a.start() <= b.end() && b.start() <= a.end()))
    };
    let mut others = state.of_kind(Kind::ForwardingRule);
    let other = others.find(|(_, other)| same(other, "IPAddress") && same(other, "IPProtocol") && overlaps(other));
    let Some((other, _)) = other else { return Ok(()) };
    // The two messages that ingress-gce distinguishes (pkg/l4/forwardingrules).
    if body.get("allPorts").and_then(Value::as_bool) == Some(true) {
        let address = text(body, "IPAddress").unwrap_or_default();
        let why = "Specified IP address is in-use and would result in a conflict.";
        return Err(Refusal::invalid("resource.IPAddress", address, why));
    }
    let why = format!("Forwarding rule's port range is conflicting with forwarding rule '{}'.", state.full_name(other));
    Err(Refusal::invalid("resource.portRange", text(body, "portRange").unwrap_or_default(), &why))
}

fn port_ranges(rule: &Fields) -> Vec<RangeInclusive<u16>> {
    if rule.get("allPorts").and_then(Value::as_bool) == Some(true) {
        return vec![0..=u16::MAX];
    }
    let ports = elements(rule, "ports").iter().filter_map(Value::as_str).chain(text(rule, "portRange"));
    ports.filter_map(port_range).collect()
}

fn port_range(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let range = first.parse().ok()?..=last.parse().ok()?;
    (range.start() <= range.end()).then_some(range)
}

/// Method `forwardingRules.patch`: "Currently, you can only patch the network_tier field."
/// ingress-gce (pkg/l4/forwardingrules/equal.go) patches `allowGlobalAccess` too. Field
/// `fingerprint`: with it, a change that is based on an old state is refused.
pub(super) fn check_change(before: &Fields, body: &Fields) -> Result<(), Refusal> {
    let fingerprint = text(body, "fingerprint");
    if fingerprint.is_some() && fingerprint != text(before, "fingerprint") {
        return Err(Refusal::condition_not_met("Invalid fingerprint."));
    }
    let allowed = ["networkTier", "allowGlobalAccess", "fingerprint", "name"];
    let unchanged = |(field, value): &(&String, &Value)| before.get(*field) == Some(*value);
    let changed = body.iter().filter(|change| !unchanged(change));
    let mut refused = changed.map(|(field, _)| field.as_str()).filter(|field| !allowed.contains(field));
    refused.next().map_or(Ok(()), |field| refuse_field(body, field, "The field cannot be patched."))
}
