//! The data path of Google's load balancers: packets of clients get to the node if a forwarding
//! rule and the firewall rules of the stand-in let them.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use serde_json::Value;
use sharedlb_testbed::GcpProject;

/// Programs the network by what the project has now. The addresses are those of a node's route
/// to the clients, on which nothing else arrives.
pub(crate) fn program(project: &GcpProject) -> anyhow::Result<()> {
    let script = script(&project.objects("forwardingRules"), &project.objects("firewalls"));
    let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().context("running nft")?;
    nft.stdin.take().context("it has no standard input")?.write_all(script.as_bytes())?;
    ensure!(nft.wait()?.success(), "nft refuses\n{script}");
    Ok(())
}

/// Before connection tracking, since the address is changed after it.
fn script(rules: &BTreeMap<String, Value>, firewalls: &BTreeMap<String, Value>) -> String {
    let mut script = String::from("table ip google\ndelete table ip google\ntable ip google {\n chain ingress {\n");
    script += "  type filter hook prerouting priority raw; policy accept;\n";
    script += "  iifname != \"clients\" accept\n";
    let mut firewalls: Vec<&Value> = firewalls.values().filter(|rule| rule["disabled"] != true).collect();
    // https://cloud.google.com/firewall/docs/firewalls#priority_order_for_firewall_rules: the
    // lowest number first, and of equal ones those that deny.
    firewalls.sort_by_key(|rule| (rule["priority"].as_i64(), rule["denied"].is_null()));
    for address in rules.values().filter_map(|rule| rule["IPAddress"].as_str()) {
        for firewall in &firewalls {
            script += &of_firewall(address, firewall);
        }
        // Incoming traffic that no rule allows is denied.
        script += &format!("  ip daddr {address} drop\n");
    }
    // An address without a forwarding rule leads nowhere.
    script + "  ip daddr 203.0.113.0/24 drop\n }\n}\n"
}

fn of_firewall(address: &str, firewall: &Value) -> String {
    let texts = |list: &Value| -> Vec<String> {
        let elements = list.as_array().into_iter().flatten();
        elements.filter_map(|element| element.as_str().map(str::to_owned)).collect()
    };
    let destinations = texts(&firewall["destinationRanges"]);
    if !destinations.is_empty() && !destinations.contains(&format!("{address}/32")) {
        return String::new();
    }
    let sources = texts(&firewall["sourceRanges"]).join(", ");
    let (entries, verdict) = match &firewall["allowed"] {
        Value::Array(entries) => (entries.clone(), "accept"),
        _ => (firewall["denied"].as_array().cloned().unwrap_or_default(), "drop"),
    };
    let of_entry = |entry: &Value| {
        let ports = texts(&entry["ports"]).join(", ");
        let protocol = entry["IPProtocol"].as_str().unwrap_or_default();
        let ports = match (protocol, ports.is_empty()) {
            ("all", _) => String::new(),
            (protocol, true) => format!("meta l4proto {protocol} "),
            (protocol, false) => format!("{protocol} dport {{ {ports} }} "),
        };
        format!("  ip saddr {{ {sources} }} ip daddr {address} {ports}{verdict}\n")
    };
    entries.iter().map(of_entry).collect()
}
