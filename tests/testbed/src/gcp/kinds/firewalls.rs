//! Firewall rules of the network.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Value, json};

use crate::gcp::refusal::Refusal;
use crate::gcp::state::{Fields, State, default, elements, is_set, refuse_field, required, text};

/// The most elements of each list: <https://cloud.google.com/firewall/docs/quotas>, limits per
/// firewall rule.
const MOST: [(&str, usize); 6] = [
    ("sourceRanges", 5000),
    ("destinationRanges", 5000),
    ("sourceTags", 30),
    ("targetTags", 70),
    ("sourceServiceAccounts", 10),
    ("targetServiceAccounts", 10),
];

/// Field `priority`: "an integer between 0 and 65535, both inclusive".
const PRIORITIES: std::ops::RangeInclusive<i64> = 0..=65535;

pub(super) fn complete(state: &State, mut body: Fields) -> Result<Fields, Refusal> {
    // Field `network`: without it, the default network.
    default(&mut body, "network", json!("global/networks/default"));
    let network = state.usable("resource.network", required(&body, "network")?)?;
    body.insert("network".into(), json!(state.link(&network)));
    default(&mut body, "priority", json!(1000));
    default(&mut body, "direction", json!("INGRESS"));
    let priority = body.get("priority").and_then(Value::as_i64).unwrap_or_default();
    if !PRIORITIES.contains(&priority) {
        let why = "Must be greater than or equal to 0 and less than or equal to 65535.";
        return Err(Refusal::invalid("resource.priority", &priority.to_string(), why));
    }
    for (field, most) in MOST {
        let actual = elements(&body, field).len();
        if actual > most {
            return Err(Refusal::too_large(&format!("resource.{field}"), most, actual));
        }
    }
    check_sides(&mut body)?;
    for field in ["sourceRanges", "destinationRanges"] {
        check_ranges(&body, field)?;
    }
    if is_set(&body, "allowed") == is_set(&body, "denied") {
        let why = "Exactly one of allowed and denied must be specified.";
        return Err(Refusal::invalid("resource.allowed", "", why));
    }
    for field in ["allowed", "denied"] {
        for (index, rule) in elements(&body, field).iter().enumerate() {
            check_rule(rule.as_object(), &format!("resource.{field}[{index}]"))?;
        }
    }
    Ok(body)
}

/// Which fields go with which direction, and with which others.
fn check_sides(body: &mut Fields) -> Result<(), Refusal> {
    let sources = ["sourceRanges", "sourceTags", "sourceServiceAccounts"];
    if text(body, "direction") == Some("EGRESS") {
        // Field `direction`: no sources for EGRESS.
        return sources.iter().try_for_each(|field| refuse_field(body, field, "The direction is EGRESS."));
    }
    if !sources.iter().any(|field| is_set(body, field)) {
        body.insert("sourceRanges".into(), json!(["0.0.0.0/0"]));
    }
    // Field `targetServiceAccounts`: not at the same time as `targetTags` or `sourceTags`.
    if is_set(body, "targetServiceAccounts") {
        refuse_field(body, "targetTags", "Service accounts and tags cannot be used together.")?;
        refuse_field(body, "sourceTags", "Service accounts and tags cannot be used together.")?;
    }
    Ok(())
}

/// Ranges in CIDR notation, without bits of hosts, of one IP family:
/// <https://cloud.google.com/firewall/docs/firewalls#sources_for_the_rule>.
fn check_ranges(body: &Fields, field: &str) -> Result<(), Refusal> {
    let at = format!("resource.{field}");
    let mut families = Vec::new();
    for range in elements(body, field).iter().filter_map(Value::as_str) {
        let parsed = range.parse::<IpNet>().ok().or_else(|| range.parse::<IpAddr>().ok().map(IpNet::from));
        let net = parsed.filter(|net| net.trunc() == *net);
        let net = net.ok_or_else(|| Refusal::invalid(&at, range, "Must be a CIDR range."))?;
        families.push(net.addr().is_ipv4());
    }
    if families.windows(2).any(|pair| pair[0] != pair[1]) {
        return Err(Refusal::invalid(&at, "", "IPv4 and IPv6 ranges cannot be in one rule."));
    }
    Ok(())
}

/// Fields of `allowed[]`: the protocol is a name or a number, ports go with those that have
/// some, and each of them is a number or a range.
fn check_rule(rule: Option<&Fields>, at: &str) -> Result<(), Refusal> {
    let Some(rule) = rule else { return Err(Refusal::required(at)) };
    let field = format!("{at}.IPProtocol");
    let protocol = text(rule, "IPProtocol").ok_or_else(|| Refusal::required(&field))?;
    let known = ["tcp", "udp", "icmp", "esp", "ah", "ipip", "sctp", "all"];
    if !known.contains(&protocol) && protocol.parse::<u8>().is_err() {
        return Err(Refusal::invalid(&field, protocol, "It is no protocol."));
    }
    let ports = elements(rule, "ports");
    if !ports.is_empty() && !matches!(protocol, "tcp" | "udp" | "sctp" | "6" | "17" | "132") {
        return Err(Refusal::invalid(&format!("{at}.ports"), "", "The protocol has no ports."));
    }
    for port in ports.iter().filter_map(Value::as_str) {
        let (first, last) = port.split_once('-').unwrap_or((port, port));
        let range = first.parse::<u16>().ok().zip(last.parse::<u16>().ok());
        if range.is_none_or(|(first, last)| first > last) {
            let why = "Must be a port number or a range of them.";
            return Err(Refusal::invalid(&format!("{at}.ports"), port, why));
        }
    }
    Ok(())
}

/// <https://cloud.google.com/firewall/docs/using-firewalls#updating-firewall-rules>: network and
/// direction of a rule stay.
pub(super) fn check_change(before: &Fields, wanted: &Fields) -> Result<(), Refusal> {
    let ends_alike = |a: Option<&str>, b: Option<&str>| match (a, b) {
        (Some(a), Some(b)) => a.rsplit('/').next() == b.rsplit('/').next(),
        (_, wanted) => wanted.is_none(),
    };
    for field in ["network", "direction"] {
        if !ends_alike(text(before, field), text(wanted, field)) {
            return refuse_field(wanted, field, "It cannot be changed.");
        }
    }
    Ok(())
}
