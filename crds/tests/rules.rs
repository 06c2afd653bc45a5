//! Holds every case of `cases/` against the generated definitions, with an
//! evaluator of CEL in Rust: no server is needed.

#![allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]

mod cases;

use cases::{Case, Outcome};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::core::cel::Validator;
use serde_json::{Value, json};
use sharedlb_crds::{SharedLB, SharedLBClass, SharedLBClassSpec, SharedLBPort};

/// What the rules of its definition say of an object.
fn complaints(case: &Case) -> Vec<String> {
    let schema = schema_of(case.object["kind"].as_str().unwrap());
    match Validator::new().validate_with_defaults(&schema, &case.object, case.before.as_ref()) {
        Ok(()) => Vec::new(),
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    }
}

fn schema_of(kind: &str) -> Value {
    let crds = serde_json::to_value(sharedlb_crds::crds()).unwrap();
    let crds = crds.as_array().unwrap();
    let crd = crds.iter().find(|crd| crd["spec"]["names"]["kind"] == kind);
    crd.unwrap()["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

/// The messages of all rules below a schema.
fn messages(schema: &Value, found: &mut Vec<String>) {
    match schema {
        Value::Object(fields) => {
            if let Some(Value::Array(rules)) = fields.get("x-kubernetes-validations") {
                let message = |rule: &Value| rule["message"].as_str().unwrap().to_string();
                found.extend(rules.iter().map(message));
            }
            fields.values().for_each(|field| messages(field, found));
        }
        Value::Array(items) => items.iter().for_each(|item| messages(item, found)),
        _ => {}
    }
}

#[test]
fn every_case_ends_as_it_should() {
    for case in cases::all() {
        let complaints = complaints(&case);
        match case.outcome {
            Outcome::Accepted => assert!(complaints.is_empty(), "{}: {complaints:?}", case.name),
            Outcome::RefusedByRule(message) => {
                assert!(complaints.iter().any(|complaint| complaint.contains(message)), "{}: {complaints:?}", case.name)
            }
            Outcome::RefusedBySchema(_) => {}
        }
    }
}

#[test]
fn every_rule_refuses_something() {
    let mut rules = Vec::new();
    messages(&schema_of("SharedLB"), &mut rules);
    messages(&schema_of("SharedLBClass"), &mut rules);
    assert!(rules.len() > 20, "the rules were not found: {rules:?}");
    for rule in rules {
        let tried = cases::all()
            .into_iter()
            .any(|case| matches!(case.outcome, Outcome::RefusedByRule(message) if rule.contains(message)));
        assert!(tried, "no case is refused with: {rule}");
    }
}

#[test]
fn what_is_accepted_can_be_parsed() {
    for case in cases::all() {
        if !matches!(case.outcome, Outcome::Accepted) {
            continue;
        }
        let parsed = match case.object["kind"].as_str().unwrap() {
            "SharedLB" => serde_json::from_value::<SharedLB>(case.object).map(drop),
            _ => serde_json::from_value::<SharedLBClass>(case.object).map(drop),
        };
        assert!(parsed.is_ok(), "{}: {parsed:?}", case.name);
    }
}

#[test]
fn a_class_of_just_a_provider_is_complete_once_parsed() {
    let parsed: SharedLBClassSpec = serde_json::from_value(json!({ "provider": { "service": {} } })).unwrap();
    assert_eq!(parsed, SharedLBClassSpec::default());
}

#[test]
fn port_0_is_no_port_and_the_target_is_the_port_unless_it_is_given() {
    let port = |json: Value| serde_json::from_value::<SharedLBPort>(json).unwrap();
    assert_eq!(port(json!({ "port": 0, "targetPort": "redis" })).port, None);
    assert_eq!(port(json!({ "port": 80 })).target(), Some(IntOrString::Int(80)));
    assert_eq!(port(json!({ "port": 80, "targetPort": "http" })).target(), Some(IntOrString::String("http".into())));
}
