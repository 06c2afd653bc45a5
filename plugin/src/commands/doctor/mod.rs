//! `doctor`: what is wrong around SharedLB, or will be soon.
//!
//! Each check is a pure function of the snapshot. A check whose objects cannot be seen finds
//! nothing, and the snapshot says what was not seen.

mod classes;
mod controller;
mod definitions;
mod finalizers;
mod limits;
mod proxy;
mod statuses;

use serde::Serialize;

use crate::output::{Cell, Column, Document, Outcome, Report, Table, Tone};
use crate::snapshot::Snapshot;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Severity {
    /// Something does not work.
    Problem,
    /// Something will not work soon, or under conditions that were not seen.
    Warning,
}

/// Something that a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    severity: Severity,
    /// The object that it is about: `SharedLBClass default`
    about: String,
    message: String,
    /// What to do
    help: String,
}

impl Finding {
    fn problem(about: impl Into<String>, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { severity: Severity::Problem, about: about.into(), message: message.into(), help: help.into() }
    }

    fn warning(about: impl Into<String>, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::problem(about, message, help) }
    }
}

/// The findings of all checks.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Diagnosis {
    findings: Vec<Finding>,
    /// Whether every check could see its objects
    is_complete: bool,
}

impl Diagnosis {
    /// What the checks find in a snapshot.
    pub(crate) fn of(snapshot: &Snapshot) -> Self {
        let checks = [
            controller::findings(snapshot),
            definitions::findings(snapshot),
            classes::findings(snapshot),
            proxy::findings(snapshot),
            finalizers::findings(snapshot),
            limits::findings(snapshot),
            statuses::findings(snapshot),
        ];
        let mut findings: Vec<Finding> = checks.into_iter().flatten().collect();
        findings.sort_by_key(|finding| finding.severity);
        Self { findings, is_complete: snapshot.unseen.is_empty() }
    }
}

impl Report for Diagnosis {
    fn render(&self) -> Document {
        use Column::Usual;
        let mut document = Document::default();
        if self.findings.is_empty() {
            document.line(match self.is_complete {
                true => Cell::new("nothing is wrong", Tone::Good),
                false => Cell::new("nothing is wrong with what can be seen", Tone::Warning),
            });
        }
        let mut table = Table::new([Usual("SEVERITY"), Usual("ABOUT"), Usual("FINDING"), Usual("WHAT TO DO")]);
        for finding in &self.findings {
            table.row([
                match finding.severity {
                    Severity::Problem => Cell::new("problem", Tone::Bad),
                    Severity::Warning => Cell::new("warning", Tone::Warning),
                },
                finding.about.as_str().into(),
                finding.message.as_str().into(),
                finding.help.as_str().into(),
            ]);
        }
        document.table(table);
        document
    }

    fn outcome(&self) -> Outcome {
        match (self.findings.is_empty(), self.is_complete) {
            (false, _) => Outcome::Finding,
            (true, true) => Outcome::Fine,
            (true, false) => Outcome::Uncertain,
        }
    }
}

/// The version in the tag of an image: `quay.io/cilium/cilium:v1.17.2@sha256:…`.
fn image_version(image: &str) -> Option<[u32; 3]> {
    let tag = image.split('@').next()?.rsplit_once(':')?.1;
    let mut numbers = tag.trim_start_matches('v').split(['.', '-', '+']).map_while(|number| number.parse().ok());
    Some([numbers.next()?, numbers.next()?, numbers.next().unwrap_or(0)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::snapshot;

    #[test]
    fn the_version_of_an_image_is_that_of_its_tag() {
        assert_eq!(image_version("quay.io/cilium/cilium:v1.17.2@sha256:0a"), Some([1, 17, 2]));
        assert_eq!(image_version("registry:5000/kube-proxy:v1.33.0-eks-1"), Some([1, 33, 0]));
        assert_eq!(image_version("registry:5000/kube-proxy"), None);
        assert_eq!(image_version("cilium:latest"), None);
    }

    #[test]
    fn what_cannot_be_seen_is_not_called_well() {
        let mut snapshot = snapshot([], []);
        snapshot.classes.is_complete = false;
        let without = |snapshot: &Snapshot| Diagnosis { findings: Vec::new(), ..Diagnosis::of(snapshot) }.outcome();
        assert_eq!(without(&snapshot), Outcome::Fine);
        snapshot.unseen.push(crate::snapshot::Unseen { what: "x".into(), why: "forbidden".into(), ask: None });
        assert_eq!(without(&snapshot), Outcome::Uncertain);
    }
}
