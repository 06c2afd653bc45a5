//! Health checks of the region.

use std::ops::RangeInclusive;

use serde_json::{Value, json};

use crate::gcp::refusal::Refusal;
use crate::gcp::state::{Fields, default, is_set, refuse_field, required};

/// The field with the settings of each type. Field `type`: "Exactly one of the
/// protocol-specific health check fields must be specified, which must match type field."
const SETTINGS: [(&str, &str); 7] = [
    ("TCP", "tcpHealthCheck"),
    ("SSL", "sslHealthCheck"),
    ("HTTP", "httpHealthCheck"),
    ("HTTPS", "httpsHealthCheck"),
    ("HTTP2", "http2HealthCheck"),
    ("GRPC", "grpcHealthCheck"),
    ("GRPC_WITH_TLS", "grpcTlsHealthCheck"),
];

/// Seconds and counts, with their defaults, as their fields' descriptions and
/// <https://cloud.google.com/load-balancing/docs/health-check-concepts> have them.
const NUMBERS: [(&str, i64, RangeInclusive<i64>); 4] = [
    ("checkIntervalSec", 5, 1..=300),
    ("timeoutSec", 5, 1..=300),
    ("healthyThreshold", 2, 1..=10),
    ("unhealthyThreshold", 2, 1..=10),
];

pub(super) fn complete(mut body: Fields) -> Result<Fields, Refusal> {
    let check_type = required(&body, "type")?.to_owned();
    let Some((_, own)) = SETTINGS.iter().find(|(of, _)| *of == check_type) else {
        return Err(Refusal::invalid("resource.type", &check_type, "It is no type of a health check."));
    };
    for (_, field) in SETTINGS.iter().filter(|(_, field)| field != own) {
        refuse_field(&body, field, "It does not match the type.")?;
    }
    for (field, value, allowed) in NUMBERS {
        default(&mut body, field, json!(value));
        check_number(&format!("resource.{field}"), body.get(field), &allowed)?;
    }
    let number = |field: &str| body.get(field).and_then(Value::as_i64);
    if number("timeoutSec") > number("checkIntervalSec") {
        let timeout = number("timeoutSec").unwrap_or_default().to_string();
        let why = "It is invalid for timeoutSec to have greater value than checkIntervalSec.";
        return Err(Refusal::invalid("resource.timeoutSec", &timeout, why));
    }
    if !is_set(&body, own) {
        return Err(Refusal::required(&format!("resource.{own}")));
    }
    if let Some(settings) = body.get_mut(*own).and_then(Value::as_object_mut) {
        default(settings, "port", json!(80));
        check_number(&format!("resource.{own}.port"), settings.get("port"), &(1..=65535))?;
        default(settings, "proxyHeader", json!("NONE"));
        if own.starts_with("http") {
            default(settings, "requestPath", json!("/"));
        }
    }
    Ok(body)
}

fn check_number(field: &str, value: Option<&Value>, allowed: &RangeInclusive<i64>) -> Result<(), Refusal> {
    let number = value.and_then(Value::as_i64).unwrap_or_default();
    if allowed.contains(&number) {
        return Ok(());
    }
    let why =
        format!("Must be greater than or equal to {} and less than or equal to {}.", allowed.start(), allowed.end());
    Err(Refusal::invalid(field, &number.to_string(), &why))
}
