//! SECURITY.md lists every right that the controller has, and no other.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, ensure};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule, Role};
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use libtest_mimic::Trial;
use sharedlb_harness::{Tests, repository};
use sharedlb_testbed::Cluster;

/// The verbs, by role and resource.
type Rights = BTreeMap<(String, String), BTreeSet<String>>;

/// What the lines begin with that name a role in a namespace only.
const NAMESPACED: &str = "in the namespace";

pub(crate) fn trials(test: &Tests<Cluster>) -> Vec<Trial> {
    vec![test.test("SECURITY.md lists every right that the controller has, and no other", |cluster| async move {
        let (told, given) = (told()?, given(&cluster).await?);
        for (what, verbs) in &given {
            ensure!(told.get(what) == Some(verbs), "{what:?} may {verbs:?}, and it is told {:?}", told.get(what));
        }
        for what in told.keys() {
            ensure!(given.contains_key(what), "{what:?} is told and not given");
        }
        Ok(())
    })]
}

/// What the tables say: each comes after a line that begins with its role.
fn told() -> anyhow::Result<Rights> {
    let text = std::fs::read_to_string(repository("SECURITY.md")?)?;
    let (mut rights, mut role) = (Rights::new(), None);
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix('`') {
            let name = rest.split('`').next().context("a role has a name")?;
            role = Some(if line.contains(NAMESPACED) { format!("{name} {NAMESPACED}") } else { name.to_owned() });
        } else if line.starts_with('#') {
            role = None;
        } else if let (Some(role), Some(row)) = (&role, line.strip_prefix("| `")) {
            let mut columns = row.split('|');
            let (resources, verbs) = (columns.next().unwrap_or_default(), columns.next().unwrap_or_default());
            let verbs: BTreeSet<String> = verbs.split(',').map(|verb| verb.trim().to_owned()).collect();
            let why = columns.next().unwrap_or_default().trim();
            ensure!(!why.is_empty(), "it is not said why {role} may {verbs:?} {resources}");
            for resource in resources.split(',').map(|resource| resource.trim().trim_matches('`')) {
                rights.insert((role.clone(), resource.to_owned()), verbs.clone());
            }
        }
    }
    Ok(rights)
}

/// What the roles of `deploy/` give. What adds to Kubernetes' own roles is the
/// tenants'.
async fn given(cluster: &Cluster) -> anyhow::Result<Rights> {
    let ours = ListParams::default().labels("app.kubernetes.io/name=sharedlb");
    let mut rights = Rights::new();
    for role in Api::<ClusterRole>::all(cluster.admin()).list(&ours).await? {
        let adds = role.labels().keys().any(|label| label.starts_with("rbac.authorization.k8s.io/aggregate-to-"));
        if !adds {
            add(&mut rights, &role.name_any(), role.rules.iter().flatten());
        }
    }
    for role in Api::<Role>::all(cluster.admin()).list(&ours).await? {
        add(&mut rights, &format!("{} {NAMESPACED}", role.name_any()), role.rules.iter().flatten());
    }
    ensure!(!rights.is_empty(), "there are no roles");
    Ok(rights)
}

fn add<'a>(rights: &mut Rights, role: &str, rules: impl Iterator<Item = &'a PolicyRule>) {
    for rule in rules {
        for resource in rule.resources.iter().flatten() {
            let verbs = rights.entry((role.to_owned(), resource.clone())).or_default();
            verbs.extend(rule.verbs.iter().cloned());
        }
    }
}
