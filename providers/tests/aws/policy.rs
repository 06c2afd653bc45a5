//! The policy that the manifests come with allows what the provider does, and no
//! more.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, ensure};
use serde_json::Value;

/// Its actions are those that the sources call, and each change is conditioned on
/// our tag.
pub(crate) fn allows_what_is_called_and_no_more() -> anyhow::Result<()> {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let policy = std::fs::read_to_string(crate_folder.join("../deploy/aws/policy.json"))?;
    let policy: Value = serde_json::from_str(&policy)?;
    let mut allowed = BTreeSet::new();
    for statement in policy["Statement"].as_array().context("it has statements")? {
        let actions = match &statement["Action"] {
            Value::String(action) => vec![action.as_str()],
            actions => actions.as_array().into_iter().flatten().filter_map(Value::as_str).collect(),
        };
        for action in actions.iter().filter_map(|action| action.strip_prefix("elasticloadbalancing:")) {
            let tag = statement["Condition"].to_string().contains("/sharedlb.dev/cluster\":\"CLUSTER_ID\"");
            ensure!(tag || action.starts_with("Describe"), "{action} is allowed without our tag");
            allowed.insert(action.to_owned());
        }
    }
    let mut called = BTreeSet::new();
    for file in std::fs::read_dir(crate_folder.join("src/aws"))? {
        let path = file?.path();
        if path.is_dir() {
            // Tests.
            continue;
        }
        let source = std::fs::read_to_string(path)?;
        let calls = source.split("region.call(").skip(1).filter_map(|rest| rest.split('"').nth(1));
        called.extend(calls.map(str::to_owned));
    }
    ensure!(called.len() > 20, "the calls are found in the sources: {called:?}");
    // AddTags is also what the creating calls need.
    ensure!(allowed == called, "allowed: {allowed:?}, called: {called:?}");
    Ok(())
}
