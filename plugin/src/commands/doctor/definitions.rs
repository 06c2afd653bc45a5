//! The CustomResourceDefinitions: whether they have every field of this version.

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use kube::ResourceExt as _;

use super::Finding;
use crate::snapshot::Snapshot;

/// How many fields a finding names.
const NAMED: usize = 4;

pub(super) fn findings(snapshot: &Snapshot) -> Vec<Finding> {
    let installed = &snapshot.health.definitions.items;
    let lacking = |ours: &CustomResourceDefinition| {
        let theirs = installed.iter().find(|theirs| theirs.name_any() == ours.name_any())?;
        let mut lacking = Vec::new();
        compare("", schema(ours)?, schema(theirs)?, &mut lacking);
        (!lacking.is_empty()).then(|| finding(&ours.name_any(), &lacking))
    };
    sharedlb_crds::crds().iter().filter_map(lacking).collect()
}

fn finding(name: &str, lacking: &[String]) -> Finding {
    let named = lacking.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    let others = lacking.len().saturating_sub(NAMED);
    let others = if others == 0 { String::new() } else { format!(", and {others} more") };
    Finding::problem(
        format!("CustomResourceDefinition {name}"),
        format!("it lacks fields of version {}: {named}{others}", crate::commands::version::VERSION),
        "apply the CRDs of the controller's version: the API server drops what they do not have",
    )
}

/// The schema of the one version of a definition.
fn schema(definition: &CustomResourceDefinition) -> Option<&JSONSchemaProps> {
    definition.spec.versions.first()?.schema.as_ref()?.open_api_v3_schema.as_ref()
}

/// Collects the paths of the fields that are in our schema and not in theirs.
fn compare(path: &str, ours: &JSONSchemaProps, theirs: &JSONSchemaProps, lacking: &mut Vec<String>) {
    let none = BTreeMap::new();
    let known = theirs.properties.as_ref().unwrap_or(&none);
    for (name, schema) in ours.properties.iter().flatten() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        match known.get(name) {
            Some(theirs) => compare(&path, schema, theirs, lacking),
            None => lacking.push(path),
        }
    }
    if let (Some(JSONSchemaPropsOrArray::Schema(ours)), Some(JSONSchemaPropsOrArray::Schema(theirs))) =
        (&ours.items, &theirs.items)
    {
        compare(&format!("{path}[]"), ours, theirs, lacking);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::snapshot;
    use crate::snapshot::Seen;

    fn found(definitions: Vec<CustomResourceDefinition>) -> Vec<String> {
        let mut snapshot = snapshot([], []);
        snapshot.health.definitions = Seen::all(definitions);
        findings(&snapshot).into_iter().map(|finding| finding.message).collect()
    }

    #[test]
    fn the_definitions_of_this_version_are_well() {
        assert_eq!(found(sharedlb_crds::crds()), [""; 0]);
    }

    #[test]
    fn fields_that_a_definition_lacks_are_named() {
        let mut definitions = sharedlb_crds::crds();
        let schema =
            definitions[0].spec.versions[0].schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut());
        let status = schema.and_then(|schema| schema.properties.as_mut()?.get_mut("status"));
        let ports = status.and_then(|status| status.properties.as_mut()?.get_mut("ports"));
        let Some(Some(JSONSchemaPropsOrArray::Schema(port))) = ports.map(|ports| ports.items.as_mut()) else {
            panic!("status.ports is a list of objects");
        };
        port.properties.as_mut().and_then(|fields| fields.remove("opened")).expect("it has the field");
        assert_eq!(
            found(definitions),
            [format!("it lacks fields of version {}: status.ports[].opened", env!("CARGO_PKG_VERSION"))]
        );
    }
}
