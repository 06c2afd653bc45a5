//! The CustomResourceDefinitions, generated from the types.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Number, Value};

use crate::{SharedLB, SharedLBClass};

/// The first lines of every generated file.
const HEADER: &str = "\
# Generated from the Rust types of the crate sharedlb-crds. To change it, change
# those, and then run: cargo run -- crds --write crds
";

/// The definitions of every kind, as they are installed in a cluster.
pub fn crds() -> Vec<CustomResourceDefinition> {
    [SharedLB::crd(), SharedLBClass::crd()]
        .into_iter()
        .map(|crd| serde_json::from_value(cleaned(&crd)).expect("a cleaned definition is valid"))
        .collect()
}

/// The same as files, each with its name. The output is deterministic.
pub fn yaml() -> Vec<(String, String)> {
    [SharedLB::crd(), SharedLBClass::crd()]
        .into_iter()
        .map(|crd| {
            let body = serde_saphyr::to_string(&cleaned(&crd)).expect("any JSON can be YAML");
            (format!("{}.yaml", crd.spec.names.plural), format!("{HEADER}{body}"))
        })
        .collect()
}

/// The definition as it would be written by hand.
fn cleaned(crd: &CustomResourceDefinition) -> Value {
    let mut value = serde_json::to_value(crd).expect("a definition is plain data");
    clean(&mut value);
    value
}

/// Removes parts of a derived schema that Kubernetes does not need: `nullable`, since absent
/// fields are left out (and CEL's `has` is true for a null); formats that the API server
/// does not know and warns about; and the fractions of limits.
fn clean(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|key, value| match (key.as_str(), value) {
                ("nullable", Value::Bool(_)) => false,
                ("format", Value::String(format)) => {
                    matches!(format.as_str(), "int32" | "int64" | "date-time")
                }
                _ => true,
            });
            fields.values_mut().for_each(clean);
        }
        Value::Array(items) => items.iter_mut().for_each(clean),
        Value::Number(number) => {
            if let Some(whole) = number.as_f64().filter(|n| n.fract() == 0.0) {
                *number = Number::from(whole as i64);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_committed_files_are_the_generated_ones() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
        for (name, generated) in yaml() {
            let path = folder.join(&name);
            let committed = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(committed == generated, "crds/{name} is not what the types give; run: make generate");
        }
    }

    #[test]
    fn nothing_else_in_the_folder_looks_like_a_manifest() {
        let generated: Vec<String> = yaml().into_iter().map(|(name, _)| name).collect();
        for entry in std::fs::read_dir(env!("CARGO_MANIFEST_DIR")).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let manifest = [".yaml", ".yml", ".json"].iter().any(|end| name.ends_with(end));
            assert!(!manifest || generated.contains(&name), "kubectl apply -f crds/ would read {name}");
        }
    }

    #[test]
    fn a_file_reads_back_as_the_definition_it_was_made_of() {
        for ((_, yaml), crd) in yaml().iter().zip(crds()) {
            let read: CustomResourceDefinition = serde_saphyr::from_str(yaml).unwrap();
            assert_eq!(read, crd);
        }
    }

    #[test]
    fn a_definition_has_no_null_and_no_format_that_the_api_server_warns_about() {
        for (_, yaml) in yaml() {
            assert!(!yaml.contains("nullable"));
            assert!(!yaml.contains("format: uint"));
            assert!(!yaml.contains("format: ip"));
            assert!(!yaml.contains(".0\n"));
        }
    }
}
