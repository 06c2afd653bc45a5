//! `drain`: a load balancer on which claims get no new ports, and the claims that it still has.

use anyhow::{Context as _, bail};
use clap::Args;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt as _};
use serde::Serialize;
use serde_json::json;
use sharedlb_crds::{SharedLB, SharedLBClass};
use sharedlb_kubernetes::{ObjectKey, text};

use crate::output::{Cell, Column, Document, Outcome, Report, Table, Tone};
use crate::snapshot::Snapshot;

#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    /// The class.
    class: String,
    /// The index of the load balancer in the class.
    load_balancer: u32,
    /// Let claims get new ports there again.
    #[arg(long)]
    undo: bool,
    /// Write it to the class. Claims and their ports are not changed.
    #[arg(long)]
    pub(crate) apply: bool,
}

/// What a drain changes in the class, and what is left to do.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Drain {
    class: String,
    load_balancer: u32,
    /// Whether it shall get new ports
    undo: bool,
    /// Whether the class says so already
    is_done: bool,
    /// The claims that have ports on it, as far as they can be seen
    claims: Vec<Remaining>,
    #[serde(skip)]
    change: Option<Change>,
}

/// A claim that has ports on the load balancer.
#[derive(Debug, Serialize)]
struct Remaining {
    claim: String,
    ports: Option<String>,
}

/// What is written to the class.
#[derive(Debug, PartialEq, Eq)]
struct Change {
    cordoned: Vec<u32>,
    /// The version of the class that this is a change of
    resource_version: Option<String>,
}

impl Drain {
    /// What the snapshot shows of the load balancer.
    ///
    /// # Errors
    /// If the class or the load balancer cannot be seen.
    pub(crate) fn of(snapshot: &Snapshot, args: &DrainArgs) -> anyhow::Result<Self> {
        let DrainArgs { class: name, load_balancer: index, undo, .. } = args;
        let Some(class) = snapshot.classes.items.iter().find(|class| class.name_any() == *name) else {
            let unseen: Vec<String> = snapshot.unseen.iter().map(ToString::to_string).collect();
            bail!("there is no SharedLBClass {name} that can be seen\n{}", unseen.join("\n"));
        };
        let mut cordoned = class.spec.load_balancers.cordoned.clone();
        let exists = class.status.iter().flat_map(|status| &status.load_balancers).any(|one| one.index == *index);
        if !exists && !cordoned.contains(index) {
            bail!("class {name} has no load balancer {index}");
        }
        let is_done = cordoned.contains(index) != *undo;
        if *undo {
            cordoned.remove(index)
        } else {
            cordoned.insert(*index)
        };
        let resource_version = class.resource_version();
        let change = Change { cordoned: cordoned.into_iter().collect(), resource_version };
        Ok(Self {
            class: name.clone(),
            load_balancer: *index,
            undo: *undo,
            is_done,
            claims: snapshot.claims.items.iter().filter_map(|claim| Remaining::of(claim, name, *index)).collect(),
            change: (!is_done).then_some(change),
        })
    }

    /// Writes it to the class.
    ///
    /// # Errors
    /// If the API server refuses it: a right is missing, or the class was changed in between.
    pub(crate) async fn apply(&mut self, client: &Client) -> anyhow::Result<()> {
        let Some(change) = &self.change else { return Ok(()) };
        let patch = json!({
            "metadata": {"resourceVersion": change.resource_version},
            "spec": {"loadBalancers": {"cordoned": change.cordoned}},
        });
        let classes = Api::<SharedLBClass>::all(client.clone());
        match classes.patch(&self.class, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => self.is_done = true,
            Err(kube::Error::Api(status)) => {
                bail!("class {} is not changed: {}", self.class, text::message(&status.message))
            }
            Err(error) => return Err(error).with_context(|| format!("changing class {}", self.class)),
        }
        Ok(())
    }
}

impl Remaining {
    fn of(claim: &SharedLB, class: &str, index: u32) -> Option<Self> {
        let status = claim.status.as_ref()?;
        let is_there = status.class_name.as_deref() == Some(class) && status.load_balancer_index == Some(index);
        is_there.then(|| Self { claim: ObjectKey::of(claim).to_string(), ports: status.summary.clone() })
    }
}

impl Report for Drain {
    fn render(&self) -> Document {
        use Column::Usual;
        let Self { class, load_balancer, claims, .. } = self;
        let mut document = Document::default();
        let there = format!("load balancer {load_balancer} of class {class}");
        document.line(match (self.is_done, self.undo) {
            (true, false) => Cell::new(
                format!("Claims get no new ports on {there}; {} claims have ports there", claims.len()),
                Tone::Strong,
            ),
            (true, true) => Cell::new(format!("Claims get new ports on {there}"), Tone::Strong),
            (false, false) => {
                format!("With --apply, claims get no new ports on {there}; {} claims have ports there", claims.len())
                    .into()
            }
            (false, true) => format!("With --apply, claims get new ports on {there} again").into(),
        });
        if self.undo {
            return document;
        }
        let mut table = Table::new([Usual("CLAIM"), Usual("PORTS")]);
        for Remaining { claim, ports } in claims {
            table.row([claim.as_str().into(), Cell::or_dash(ports.as_deref())]);
        }
        document.table(table);
        if !claims.is_empty() {
            document.line(
                "They keep their ports. A claim that is deleted and created again gets ports on another load balancer.",
            );
        }
        document
    }

    fn outcome(&self) -> Outcome {
        if self.undo || self.claims.is_empty() { Outcome::Fine } else { Outcome::Finding }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{claim, class, snapshot};

    fn drain(cordoned: &[u32], index: u32, undo: bool) -> anyhow::Result<Drain> {
        let mut class = class("default", 0, &[]);
        class.spec.load_balancers.cordoned = cordoned.iter().copied().collect();
        let claims = [claim("team-a", "redis", "default", 0, 6379), claim("team-a", "web", "default", 1, 80)];
        let args = DrainArgs { class: "default".to_owned(), load_balancer: index, undo, apply: false };
        Drain::of(&snapshot(claims, [class]), &args)
    }

    fn change(drain: Drain) -> Option<Vec<u32>> {
        drain.change.map(|change| change.cordoned)
    }

    #[test]
    fn a_drain_adds_to_the_list_of_the_class_and_names_the_claims_that_are_left() {
        let found = drain(&[3], 0, false).expect("it exists");
        assert_eq!(found.claims.iter().map(|one| one.claim.as_str()).collect::<Vec<_>>(), ["team-a/redis"]);
        assert_eq!((found.outcome(), change(found)), (Outcome::Finding, Some(vec![0, 3])));
    }

    #[test]
    fn what_is_done_is_not_written_again() {
        assert_eq!(change(drain(&[0], 0, false).expect("it exists")), None);
        assert_eq!(change(drain(&[], 0, true).expect("it exists")), None);
        assert_eq!(change(drain(&[0, 3], 0, true).expect("it exists")), Some(vec![3]));
    }

    #[test]
    fn a_load_balancer_that_there_is_not_is_an_error() {
        assert!(drain(&[], 7, false).is_err_and(|error| error.to_string() == "class default has no load balancer 7"));
    }
}
