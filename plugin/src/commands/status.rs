//! `status`: the classes, and the claims that are not ready.

use clap::Args;
use kube::ResourceExt as _;
use serde::Serialize;
use sharedlb_crds::{ConditionType, SharedLB, SharedLBClass};
use sharedlb_kubernetes::{ObjectKey, conditions};

use crate::occupancy::{class_of, is_default, is_ready};
use crate::output::{Cell, Column, Document, Outcome, Report, Table, Tone};
use crate::snapshot::Snapshot;

/// The Lease of the leader, as the controller names it unless its flags say otherwise.
pub(crate) const LEASE: &str = "sharedlb";

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Only this class and its claims.
    #[arg(long, value_name = "NAME")]
    class: Option<String>,
}

/// The state of SharedLB in the cluster.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Status {
    /// The replica that acts, if the Lease can be seen
    leader: Option<String>,
    classes: Vec<ClassState>,
    /// How many claims can be seen
    claims: usize,
    /// The claims that are not ready
    not_ready: Vec<ClaimState>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ClassState {
    name: String,
    provider: &'static str,
    is_default: bool,
    /// Load balancers and listeners, as the class has them
    summary: Option<String>,
    addresses: Vec<String>,
    /// How many of its claims can be seen
    claims: usize,
    ready: Condition,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ClaimState {
    claim: String,
    class: Option<String>,
    ports: Option<String>,
    ready: Condition,
}

/// The condition `Ready` of an object.
#[derive(Debug, Serialize)]
struct Condition {
    status: String,
    reason: String,
    message: String,
}

impl Status {
    /// What the snapshot shows. With a namespace, only claims of this one.
    pub(crate) fn of(snapshot: &Snapshot, args: &StatusArgs, namespace: Option<&str>) -> Self {
        let is_asked = |class: Option<&str>| args.class.as_deref().is_none_or(|asked| class == Some(asked));
        let claims: Vec<&SharedLB> = snapshot
            .claims
            .items
            .iter()
            .filter(|claim| is_asked(class_of(claim)))
            .filter(|claim| namespace.is_none_or(|namespace| claim.namespace().as_deref() == Some(namespace)))
            .collect();
        let classes = snapshot.classes.items.iter().filter(|class| is_asked(Some(&class.name_any())));
        let lease = snapshot.leases.items.iter().find(|lease| lease.name_any() == LEASE);
        Self {
            leader: lease.and_then(|lease| lease.spec.as_ref()?.holder_identity.clone()),
            classes: classes.map(|class| ClassState::of(class, &claims)).collect(),
            claims: claims.len(),
            not_ready: claims
                .iter()
                .filter(|claim| !is_ready(claim.status.as_ref()))
                .map(|claim| ClaimState::of(claim))
                .collect(),
        }
    }
}

impl ClassState {
    fn of(class: &SharedLBClass, claims: &[&SharedLB]) -> Self {
        let name = class.name_any();
        let status = class.status.clone().unwrap_or_default();
        let load_balancers = status.load_balancers.iter();
        Self {
            provider: class.spec.provider.kind(),
            is_default: is_default(class),
            addresses: load_balancers.flat_map(|one| one.all_addresses()).map(str::to_owned).collect(),
            claims: claims.iter().filter(|claim| class_of(claim) == Some(&name)).count(),
            ready: Condition::ready(&status.conditions),
            summary: status.summary,
            name,
        }
    }
}

impl ClaimState {
    fn of(claim: &SharedLB) -> Self {
        let status = claim.status.clone().unwrap_or_default();
        Self {
            claim: ObjectKey::of(claim).to_string(),
            class: class_of(claim).map(str::to_owned),
            ports: status.summary,
            ready: Condition::ready(&status.conditions),
        }
    }
}

impl Condition {
    fn ready(all: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition]) -> Self {
        match conditions::find(all, ConditionType::Ready) {
            Some(found) => {
                Self { status: found.status.clone(), reason: found.reason.clone(), message: found.message.clone() }
            }
            None => Self {
                status: "Unknown".to_owned(),
                reason: "NoStatus".to_owned(),
                message: "the controller has not written a status: does it run?".to_owned(),
            },
        }
    }

    fn is_true(&self) -> bool {
        self.status == "True"
    }

    fn cell(&self) -> Cell {
        Cell::new(&self.status, if self.is_true() { Tone::Good } else { Tone::Bad })
    }
}

impl Report for Status {
    fn render(&self) -> Document {
        let mut document = Document::default();
        if let Some(leader) = &self.leader {
            document.line(format!("Leader: {leader}"));
        }
        let not_ready = self.not_ready.len();
        let tone = if not_ready == 0 { Tone::Good } else { Tone::Bad };
        document.line(Cell::new(format!("Claims: {}, {not_ready} not ready", self.claims), tone));
        document.table(self.classes());
        document.table(self.claims());
        document
    }

    fn outcome(&self) -> Outcome {
        let classes_are_ready = self.classes.iter().all(|class| class.ready.is_true());
        if classes_are_ready && self.not_ready.is_empty() { Outcome::Fine } else { Outcome::Finding }
    }
}

impl Status {
    fn classes(&self) -> Table {
        use Column::{Usual, Wide};
        let mut table = Table::new([
            Usual("CLASS"),
            Usual("PROVIDER"),
            Usual("DEFAULT"),
            Usual("LOADBALANCERS"),
            Wide("ADDRESSES"),
            Usual("CLAIMS"),
            Usual("READY"),
            Usual("MESSAGE"),
        ]);
        for class in &self.classes {
            let message = Some(&class.ready.message).filter(|_| !class.ready.is_true());
            table.row([
                class.name.as_str().into(),
                class.provider.into(),
                Cell::or_dash(class.is_default.then_some("true")),
                Cell::or_dash(class.summary.as_deref()),
                Cell::or_dash(Some(class.addresses.join(",")).filter(|addresses| !addresses.is_empty())),
                class.claims.to_string().into(),
                class.ready.cell(),
                Cell::or_dash(message),
            ]);
        }
        table
    }

    fn claims(&self) -> Table {
        use Column::{Usual, Wide};
        let mut table = Table::new([
            Usual("CLAIM"),
            Usual("CLASS"),
            Wide("PORTS"),
            Usual("READY"),
            Usual("REASON"),
            Usual("MESSAGE"),
        ]);
        for claim in &self.not_ready {
            table.row([
                claim.claim.as_str().into(),
                Cell::or_dash(claim.class.as_deref()),
                Cell::or_dash(claim.ports.as_deref()),
                claim.ready.cell(),
                claim.ready.reason.as_str().into(),
                claim.ready.message.as_str().into(),
            ]);
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{claim, class, snapshot};
    use crate::output::Columns;

    fn status(claims: Vec<SharedLB>, namespace: Option<&str>) -> Status {
        let args = StatusArgs { class: None };
        Status::of(&snapshot(claims, [class("default", 0, &[])]), &args, namespace)
    }

    fn without_status(name: &str) -> SharedLB {
        SharedLB { status: None, ..claim("team-b", name, "default", 0, 1) }
    }

    #[test]
    fn only_claims_that_are_not_ready_are_listed() {
        let status = status(vec![claim("team-a", "redis", "default", 0, 6379), without_status("new")], None);
        let text = anstream::adapter::strip_str(&status.render().to_text(Columns::Usual)).to_string();
        assert!(text.starts_with("Claims: 2, 1 not ready\n"), "{text}");
        assert!(text.contains("team-b/new"), "{text}");
        assert!(!text.contains("redis"), "{text}");
        assert_eq!(status.outcome(), Outcome::Finding);
    }

    #[test]
    fn a_namespace_leaves_out_the_claims_of_others() {
        let status = status(vec![claim("team-a", "redis", "default", 0, 6379), without_status("new")], Some("team-a"));
        assert_eq!((status.claims, status.outcome()), (1, Outcome::Fine));
    }
}
