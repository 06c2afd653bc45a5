//! The tables as the kernel has them, from `nft --json list table`: pure.

use std::net::IpAddr;

use serde_json::Value;
use sharedlb_providers::IpFamily;

use super::elements::{Elements, Place, Set};

/// A table as the kernel has it.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Chains, rules, sets and maps, without elements. `nft` prints them in its own way, so they
    /// are compared with an earlier listing
    pub(super) definition: Vec<Value>,
    /// The elements of the sets and maps that we know
    pub(super) elements: Elements,
}

impl Listing {
    /// Reads the output of `nft`.
    ///
    /// # Errors
    /// If it is not JSON.
    pub(super) fn parse(family: IpFamily, output: &str) -> Result<Self, serde_json::Error> {
        let mut listing = Self::default();
        let output: Value = serde_json::from_str(output)?;
        for object in output["nftables"].as_array().into_iter().flatten() {
            listing.add(family, object.clone());
        }
        Ok(listing)
    }

    fn add(&mut self, family: IpFamily, mut object: Value) {
        let Some((kind, content)) = object.as_object_mut().and_then(|object| object.iter_mut().next()) else { return };
        // It names the version of `nft`.
        if kind == "metainfo" {
            return;
        }
        if let Some(fields) = content.as_object_mut() {
            // Handles are numbers that the kernel counts up.
            fields.remove("handle");
            let set = fields.get("name").and_then(Value::as_str).and_then(Set::named);
            let elements = fields.remove("elem");
            if let (Some(set), Some(Value::Array(elements))) = (set, elements) {
                for element in &elements {
                    let (key, data) = key_and_data(element);
                    self.elements.insert(Place { family, set }, key, data);
                }
            }
        }
        self.definition.push(object);
    }
}

/// The key and the data of an element, as texts. The element of a map is an array of both. One with
/// a comment or a timeout is an object that has the key as `val`.
fn key_and_data(element: &Value) -> (String, String) {
    match element.as_array().map(Vec::as_slice) {
        Some([key, data]) => (text(key), text(data)),
        _ => match element.get("elem") {
            Some(of) => (text(&of["val"]), of["comment"].as_str().unwrap_or_default().to_owned()),
            None => (text(element), String::new()),
        },
    }
}

/// A value as it is in our own texts. What can be in none of them is JSON, so that it differs.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.parse::<IpAddr>().map_or_else(|_| text.clone(), |address| address.to_string()),
        Value::Number(number) => number.to_string(),
        Value::Object(fields) => match fields.iter().next() {
            Some((kind, Value::Array(parts))) if kind == "concat" => {
                parts.iter().map(text).collect::<Vec<_>>().join(" . ")
            }
            Some((kind, of)) if kind == "prefix" => format!("{}/{}", text(&of["addr"]), text(&of["len"])),
            Some((kind, of)) if kind == "goto" => format!("goto {}", text(&of["target"])),
            _ => value.to_string(),
        },
        _ => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The form in which nftables 1.0.6 and 1.1.3 print elements.
    #[test]
    fn elements_read_back_as_they_were_written() {
        let output = r#"{"nftables": [
            {"metainfo": {"version": "1.0.6", "release_name": "Lester Gooch #5", "json_schema_version": 1}},
            {"table": {"family": "ip", "name": "sharedlb", "handle": 3}},
            {"set": {"family": "ip", "name": "clients", "table": "sharedlb", "handle": 9, "flags": ["interval"],
                "type": ["ipv4_addr", "inet_proto", "inet_service", "ipv4_addr"], "elem": [
                {"concat": ["10.0.0.10", "tcp", 20417, {"prefix": {"addr": "10.0.0.0", "len": 8}}]}]}},
            {"map": {"family": "ip", "name": "listeners", "table": "sharedlb", "handle": 10, "map": "verdict",
                "type": ["ipv4_addr", "inet_proto", "inet_service"], "elem": [
                [{"concat": ["10.0.0.10", "tcp", 20417]}, {"goto": {"target": "spread-1-by-client"}}]]}},
            {"map": {"family": "ip", "name": "slots-16", "table": "sharedlb", "handle": 11, "elem": [
                [{"concat": ["10.0.0.10", "udp", 53, 5]}, {"concat": ["10.244.0.1", 8080]}]]}},
            {"set": {"family": "ip", "name": "records", "table": "sharedlb", "handle": 12, "elem": [
                {"elem": {"val": {"concat": ["10.0.0.10", "tcp", 53, 0]}, "comment": "UDP team-a/dns"}}]}},
            {"set": {"family": "ip", "name": "former-backends", "table": "sharedlb", "handle": 13, "timeout": 300,
                "elem": [{"elem": {"val": {"concat": ["tcp", "10.244.0.1", 8080]}, "expires": 298}}]}},
            {"chain": {"family": "ip", "table": "sharedlb", "name": "spread", "handle": 14}}
        ]}"#;
        let listing = Listing::parse(IpFamily::V4, output).unwrap();
        let place = |set| Place { family: IpFamily::V4, set };
        let mut expected = Elements::default();
        expected.insert(place(Set::Clients), "10.0.0.10 . tcp . 20417 . 10.0.0.0/8".into(), String::new());
        expected.insert(place(Set::Listeners), "10.0.0.10 . tcp . 20417".into(), "goto spread-1-by-client".into());
        let slots = Set::named("slots-16").unwrap();
        expected.insert(place(slots), "10.0.0.10 . udp . 53 . 5".into(), "10.244.0.1 . 8080".into());
        expected.insert(place(Set::Records), "10.0.0.10 . tcp . 53 . 0".into(), "UDP team-a/dns".into());
        expected.insert(place(Set::FormerBackends), "tcp . 10.244.0.1 . 8080".into(), String::new());
        assert_eq!(listing.elements, expected);
        assert_eq!(listing.definition.len(), 7);
        assert!(listing.definition.iter().all(|object| !object.to_string().contains("handle")));
    }

    #[test]
    fn an_element_of_another_form_is_none_of_ours() {
        assert_eq!(text(&serde_json::json!({"drop": null})), r#"{"drop":null}"#);
    }
}
