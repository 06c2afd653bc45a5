//! Other ways to write ports: of a claim, or of a Service. Pure.

use serde_json::{Value, json};

use crate::api::text;
use crate::plan::Reshape;

/// What a name that was changed ends with.
const RENAMED: &str = "-x";
/// The port of the pods that answers both TCP and UDP.
const BOTH: u64 = 5353;

/// The ports of a claim, written in another way. None: they can't be.
pub(crate) fn of_claim(mut ports: Vec<Value>, how: Reshape) -> Option<Vec<Value>> {
    match how {
        Reshape::Both { nth } => {
            let port = nth_of(&mut ports, nth).filter(|port| port["targetPort"] == BOTH)?;
            let both = port["protocol"] != "TCP_UDP";
            port["protocol"] = json!(if both { "TCP_UDP" } else { "TCP" });
        }
        Reshape::Add => add(&mut ports, json!({"name": "added", "targetPort": "other"}))?,
        _ => reword(&mut ports, how)?,
    }
    Some(ports)
}

/// The ports of a Service, written in another way. None: they can't be.
pub(crate) fn of_service(mut ports: Vec<Value>, how: Reshape) -> Option<Vec<Value>> {
    match how {
        Reshape::Both { nth } => {
            let port = nth_of(&mut ports, nth).filter(|port| port["targetPort"] == BOTH)?.clone();
            let twin = |other: &Value| other["port"] == port["port"] && other["protocol"] != port["protocol"];
            if ports.iter().any(twin) {
                ports.retain(|other| !twin(other));
            } else {
                let other = if port["protocol"] == "UDP" { "TCP" } else { "UDP" };
                let name = format!("twin-{}", other.to_lowercase());
                let added = json!({"name": name, "port": port["port"], "protocol": other, "targetPort": BOTH});
                name_all(&mut ports);
                ports.push(added);
            }
        }
        Reshape::Add => {
            let number = ports.first()?["port"].as_u64()? + 5;
            add(&mut ports, json!({"name": "added", "port": number, "targetPort": "other"}))?;
        }
        _ => reword(&mut ports, how)?,
    }
    Some(ports)
}

/// Changes nothing but names, or the order.
fn reword(ports: &mut [Value], how: Reshape) -> Option<()> {
    match how {
        Reshape::Rename { nth } => {
            let port = nth_of(ports, nth)?;
            let renamed = match text(port, "/name") {
                "" => "named".to_owned(),
                name => name.strip_suffix(RENAMED).map_or_else(|| format!("{name}{RENAMED}"), ToOwned::to_owned),
            };
            port["name"] = json!(renamed);
        }
        Reshape::Unname => match ports {
            [only] if !text(only, "/name").is_empty() => only["name"] = json!(""),
            _ => return None,
        },
        _ if ports.len() > 1 => ports.reverse(),
        _ => return None,
    }
    Some(())
}

fn add(ports: &mut Vec<Value>, added: Value) -> Option<()> {
    if ports.len() != 1 {
        return None;
    }
    name_all(ports);
    ports.push(added);
    Some(())
}

/// Where there are several, each needs a name.
fn name_all(ports: &mut [Value]) {
    for port in ports.iter_mut().filter(|port| text(port, "/name").is_empty()) {
        port["name"] = json!("named");
    }
}

fn nth_of(ports: &mut [Value], nth: u64) -> Option<&mut Value> {
    let nth = nth.checked_rem(ports.len() as u64)?;
    ports.get_mut(usize::try_from(nth).ok()?)
}
