//! Calls that are not what Google's discovery document describes.

use anyhow::ensure;
use serde_json::{Value, json};
use sharedlb_testbed::GoogleUser;

use crate::setting::{Google, REGION, address, firewall, forwarding_rule, in_region};
use crate::{Test, tests};

pub(crate) const TESTS: &[(&str, Test)] = tests![
    unknown_paths_and_parameters_are_refused,
    fields_that_the_document_does_not_have_are_refused,
    values_of_other_types_are_refused,
    fields_that_are_output_only_are_refused,
    methods_without_a_body_take_none,
    places_that_do_not_exist_are_refused,
];

/// Sends a request with a token.
async fn send(google: &Google, verb: &str, path: &str, body: &str) -> anyhow::Result<(u16, Value)> {
    let token = format!("Bearer {}", google.project.token(GoogleUser::Controller));
    google.send(verb, path, ("authorization", &token), body).await
}

async fn unknown_paths_and_parameters_are_refused(google: &Google) -> anyhow::Result<()> {
    let addresses = format!("/compute/v1/projects/test-project/regions/{REGION}/addresses");
    let (status, _) = send(google, "GET", &addresses, "").await?;
    ensure!(status == 200);
    let (status, error) = send(google, "GET", &format!("{addresses}?maxResult=1"), "").await?;
    ensure!(
        status == 400 && error["error"]["message"].as_str().is_some_and(|text| text.contains("maxResult")),
        "{error}"
    );
    let (status, error) = send(google, "GET", &format!("{addresses}?maxResults=many"), "").await?;
    ensure!(status == 400 && error["error"]["errors"][0]["reason"] == "invalid", "{error}");
    let (status, error) = send(google, "GET", "/compute/v1/projects/test-project/addresses/none", "").await?;
    ensure!(status == 404, "{error}");
    let (status, error) = send(google, "PUT", &addresses, "{}").await?;
    ensure!(status == 404, "{error}");
    let (status, error) = send(google, "GET", &format!("{addresses}/No_Name"), "").await?;
    ensure!(status == 400 && error["error"]["errors"][0]["domain"] == "global", "{error}");
    Ok(())
}

async fn fields_that_the_document_does_not_have_are_refused(google: &Google) -> anyhow::Result<()> {
    let mut body = address("lb");
    body["adressType"] = json!("EXTERNAL");
    let message = google.refused("addresses", "insert", in_region(body), 400, "badRequest").await?;
    ensure!(message.contains("Unknown name \"adressType\""), "{message}");
    let mut body = firewall("lb", "203.0.113.1");
    body["allowed"][0]["port"] = json!("80");
    google.refused("firewalls", "insert", json!({"body": body}), 400, "badRequest").await?;
    let mut body = address("lb");
    body["name"] = Value::Null;
    google.refused("addresses", "insert", in_region(body), 400, "required").await?;
    Ok(())
}

async fn values_of_other_types_are_refused(google: &Google) -> anyhow::Result<()> {
    let with = |field: &str, value: Value| {
        let mut body = firewall("lb", "203.0.113.1");
        body[field] = value;
        json!({"body": body})
    };
    for (field, value) in [
        ("priority", json!("900")),
        ("priority", json!(1.5)),
        ("priority", json!(5_000_000_000_u64)),
        ("disabled", json!("false")),
        ("allowed", json!({"IPProtocol": "tcp"})),
        ("sourceRanges", json!("0.0.0.0/0")),
        ("sourceRanges", json!([1])),
    ] {
        google.refused("firewalls", "insert", with(field, value), 400, "badRequest").await?;
    }
    let mut rule = forwarding_rule("lb", "203.0.113.1");
    rule["IPProtocol"] = json!("L3");
    google.refused("forwardingRules", "insert", in_region(rule), 400, "invalid").await?;
    let message = google.refused("firewalls", "insert", with("name", json!("Lb_1")), 400, "invalid").await?;
    ensure!(message.contains("Must be a match of regex"), "{message}");
    Ok(())
}

async fn fields_that_are_output_only_are_refused(google: &Google) -> anyhow::Result<()> {
    for (field, value) in [
        ("id", json!("1")),
        ("status", json!("RESERVED")),
        ("selfLink", json!("https://www.googleapis.com/x")),
        ("users", json!([])),
    ] {
        let mut body = address("lb");
        body[field] = value;
        google.refused("addresses", "insert", in_region(body), 400, "invalid").await?;
    }
    Ok(())
}

async fn methods_without_a_body_take_none(google: &Google) -> anyhow::Result<()> {
    google.change("addresses", "insert", in_region(address("lb"))).await?;
    let path = format!("/compute/v1/projects/test-project/regions/{REGION}/addresses/lb");
    let (status, error) = send(google, "DELETE", &path, r#"{"name": "lb"}"#).await?;
    ensure!(status == 400, "{error}");
    let (status, operation) = send(google, "DELETE", &path, "").await?;
    ensure!(status == 200 && operation["operationType"] == "delete", "{operation}");
    Ok(())
}

async fn places_that_do_not_exist_are_refused(google: &Google) -> anyhow::Result<()> {
    let elsewhere = json!({"region": "europe-west1", "body": address("lb")});
    google.refused("addresses", "insert", elsewhere, 404, "notFound").await?;
    let (status, error) = send(google, "GET", "/compute/v1/projects/other-project/global/firewalls", "").await?;
    ensure!(status == 404, "{error}");
    let mut rule = firewall("lb", "203.0.113.1");
    rule["network"] = json!("global/networks/none");
    google.refused("firewalls", "insert", json!({"body": rule}), 404, "notFound").await?;
    Ok(())
}
