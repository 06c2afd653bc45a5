//! The calls that create load balancers, as golden files.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::Aws;
use super::fuzz::cloud::{Call, Cloud, Paging};
use super::settings::tests::settings;
use super::settings::{IpAddressType, Scheme, Settings, TargetKind};
use crate::golden;
use crate::model::IpFamily;

/// The settings of a class.
#[derive(Serialize, Deserialize, Default)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Class {
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    internet_facing: bool,
    /// Dual-stack, with the IPv6 addresses of pods as targets
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    ipv6: bool,
    /// With nodes as targets
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    nodes: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    security_groups: Vec<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    proxy_protocol_v2: bool,
}

impl Class {
    fn settings(&self) -> Settings {
        let (ip_address_type, target_ip_family) =
            if self.ipv6 { (IpAddressType::Dualstack, IpFamily::V6) } else { (IpAddressType::Ipv4, IpFamily::V4) };
        Settings {
            scheme: if self.internet_facing { Scheme::InternetFacing } else { Scheme::Internal },
            ip_address_type,
            target_ip_family,
            target_kind: if self.nodes { TargetKind::Node } else { TargetKind::Pod },
            security_groups: self.security_groups.clone(),
            proxy_protocol_v2: self.proxy_protocol_v2,
            ..settings()
        }
    }
}

/// A call that changes something.
fn written(call: &Call) -> Option<Value> {
    if call.action.starts_with("Describe") {
        return None;
    }
    let mut parameters = Value::Object(Map::new());
    for (path, value) in call.parameters.iter().filter(|(path, _)| path != "Version") {
        let steps = path.split('.').filter(|step| *step != "member");
        let place = steps.fold(&mut parameters, |place, step| match step.parse::<usize>() {
            // Members are counted from 1.
            Ok(number) => {
                if !place.is_array() {
                    *place = json!([]);
                }
                let items = place.as_array_mut().expect("it is a list");
                items.resize(items.len().max(number), Value::Null);
                &mut items[number - 1]
            }
            Err(_) => &mut place[step],
        });
        *place = json!(value);
    }
    if let Some(parameters) = parameters.as_object_mut() {
        parameters.values_mut().for_each(join_pairs);
    }
    Some(json!({ call.action.as_str(): parameters }))
}

/// Converts AWS' list of keys and values to a map.
fn join_pairs(parameter: &mut Value) {
    let pair = |item: &Value| {
        let fields = item.as_object().filter(|fields| fields.len() == 2)?;
        Some((fields.get("Key")?.as_str()?.to_owned(), fields.get("Value")?.clone()))
    };
    let pairs: Option<Map<String, Value>> = parameter.as_array().and_then(|items| items.iter().map(pair).collect());
    if let Some(pairs) = pairs {
        *parameter = pairs.into();
    }
}

#[tokio::test(start_paused = true)]
async fn calls_are_as_in_the_golden_files() {
    golden::check("aws", |class: &Class| {
        let cloud = Cloud::new(json!({}), Paging::Whole, Vec::new());
        let aws = Aws::new(class.settings(), &cloud.clients());
        let mut seen = 0;
        let written = move || {
            let calls = cloud.calls();
            let new = calls.iter().skip(seen).filter_map(written).collect();
            seen = calls.len();
            new
        };
        (aws, written)
    })
    .await;
}
