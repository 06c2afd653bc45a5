//! Addresses that are reserved in the region.

use std::net::IpAddr;

use serde_json::json;

use crate::gcp::path::Kind;
use crate::gcp::refusal::Refusal;
use crate::gcp::state::{Fields, State, default, is_set, refuse_field, required, text};

pub(super) fn create(state: &State, mut body: Fields) -> Result<Fields, Refusal> {
    // Field `labels`: "These can only be added or modified by the setLabels method."
    refuse_field(&body, "labels", "Labels are set by setLabels.")?;
    if text(&body, "ipVersion") == Some("IPV6") {
        return Err(Refusal::not_implemented("IPv6"));
    }
    default(&mut body, "addressType", json!("EXTERNAL"));
    // Field `networkTier`: "If this field is not specified, it is assumed to be PREMIUM."
    default(&mut body, "networkTier", json!("PREMIUM"));
    let tier = required(&body, "networkTier")?;
    if !matches!(tier, "PREMIUM" | "STANDARD") {
        return Err(Refusal::invalid("resource.networkTier", tier, "It is not allowed."));
    }
    if text(&body, "addressType") == Some("INTERNAL") { internal(state, body) } else { external(state, body) }
}

/// Fields `subnetwork`, `network` and `purpose`: for internal addresses only.
fn external(state: &State, mut body: Fields) -> Result<Fields, Refusal> {
    for field in ["subnetwork", "network", "purpose"] {
        refuse_field(&body, field, "It is for internal addresses only.")?;
    }
    let address = match text(&body, "address") {
        None => free(state, &state.layout.external)?,
        // Only an address that a forwarding rule has already can be asked for:
        // https://cloud.google.com/compute/docs/ip-addresses/configure-static-external-ip-address#promote
        Some(address) => {
            let has_it = |(_, rule): (_, &Fields)| text(rule, "IPAddress") == Some(address);
            let is_reserved = |(_, other): (_, &Fields)| text(other, "address") == Some(address);
            if !state.of_kind(Kind::ForwardingRule).any(has_it) || state.of_kind(Kind::Address).any(is_reserved) {
                let why = "The specified external IP address was not found in the region.";
                return Err(Refusal::invalid("resource.address", address, why));
            }
            address.to_owned()
        }
    };
    body.insert("address".into(), json!(address));
    Ok(body)
}

/// Field `networkTier`: "Internal IP addresses are always Premium Tier". Field `address`: if
/// it is specified, it is in the range of the subnetwork.
fn internal(state: &State, mut body: Fields) -> Result<Fields, Refusal> {
    if text(&body, "networkTier") != Some("PREMIUM") {
        let tier = text(&body, "networkTier").unwrap_or_default();
        return Err(Refusal::invalid("resource.networkTier", tier, "Internal addresses are of the premium tier."));
    }
    refuse_field(&body, "network", "It is for the purpose VPC_PEERING only.")?;
    let subnetwork = state.usable("resource.subnetwork", required(&body, "subnetwork")?)?;
    body.insert("subnetwork".into(), json!(state.link(&subnetwork)));
    default(&mut body, "purpose", json!("GCE_ENDPOINT"));
    let purpose = required(&body, "purpose")?;
    if !matches!(purpose, "GCE_ENDPOINT" | "SHARED_LOADBALANCER_VIP") {
        return Err(Refusal::invalid("resource.purpose", purpose, "It is not a purpose of a regional address."));
    }
    if !is_set(&body, "address") {
        body.insert("address".into(), json!(free(state, &state.layout.internal)?));
        return Ok(body);
    }
    let given = required(&body, "address")?;
    let is_in_range = |address: &IpAddr| state.layout.internal.contains(address);
    let address = given.parse::<IpAddr>().ok().filter(is_in_range);
    let address = address.ok_or_else(|| {
        Refusal::invalid("resource.address", given, "Specified IP address is not within the subnetwork's range.")
    })?;
    if state.is_taken(address) {
        let why = "Specified IP address is already in use.";
        return Err(Refusal::invalid("resource.address", given, why));
    }
    Ok(body)
}

fn free(state: &State, pool: &[IpAddr]) -> Result<String, Refusal> {
    let address = state.free_address(pool).map(|address| address.to_string());
    address.ok_or_else(|| Refusal::invalid("resource.address", "", "The pool of the stand-in has no address left."))
}
