//! What each claim is told.

use std::sync::Arc;

use jiff::Timestamp;
use sharedlb_crds::{Reason, TargetKind};
use sharedlb_providers::Address;

use super::ClassLoop;
use super::decide::Decision;
use super::group::Entry;
use crate::allocation::{Assignment, Held, HeldSlot};
use crate::api::claim::{ClaimObject, parse_address};
use crate::class::companion;
use crate::class::render::{self, Programmed, Verdict};
use crate::load_balancer::outcome::{ListenerOutcome, Outcome};
use crate::process::tasks;

impl ClassLoop {
    /// What became of a claim, from what it was given and what its load balancer
    /// makes of it.
    pub(super) fn verdict(&self, name: &str, entry: &Entry, got: &Assignment) -> Verdict {
        tasks::at("SharedLB", &entry.claim.meta.key);
        let outcome = got.granted.as_ref().and_then(|held| self.runners.get(name)?.outcomes.get(&held.index));
        let heard = outcome.filter(|outcome| outcome.exists.is_some());
        Verdict {
            refused: self.refusal(name, entry, got),
            programmed: got
                .granted
                .as_ref()
                .map_or(Programmed::Pending, |held| self.programmed(name, entry, held, outcome)),
            addresses: match &got.granted {
                Some(_) => heard.map(|outcome| outcome.addresses.clone()),
                None => Some(Arc::default()),
            },
            held: got.granted.clone(),
        }
    }

    pub(super) fn refusal(&self, name: &str, entry: &Entry, got: &Assignment) -> Option<(Option<Reason>, String)> {
        if let Err(error) = &entry.claim.spec {
            return Some((Some(Reason::Unsupported), format!("the spec can't be read ({error}): correct it")));
        }
        if let Some(message) = self.unfit_service(name, &entry.claim) {
            return Some((Some(Reason::Unsupported), message));
        }
        if let Some(message) = self.elsewhere(name, &entry.claim, got) {
            return Some((Some(Reason::AddressUnknown), message));
        }
        let (port, refusal) = got.refused.first()?;
        let suspended = self.runners.get(name).and_then(|runner| runner.suspended.clone());
        if let (Some(Reason::NotPermitted), Some(suspended)) = (refusal.reason(), suspended) {
            return Some(match suspended {
                (Some(reason), message) => (Some(reason), message),
                // Whose status it is, is not for everybody to know.
                (None, _) => (
                    None,
                    format!(
                        "nothing new is given in class {name} until its admin has corrected what its conditions tell of"
                    ),
                ),
            });
        }
        Some((refusal.reason(), refused_ports(got, port, &refusal.message(name))))
    }

    /// Why the Service that the claim names does not do.
    fn unfit_service(&self, name: &str, claim: &ClaimObject) -> Option<String> {
        let named = claim.spec.as_ref().ok()?.service_name.as_ref()?;
        let service = self.settings.backends.service(claim.target.service.as_ref()?)?;
        if service.external_name {
            return Some(format!("Service {named} is of type ExternalName, which has no pods: name another Service"));
        }
        let to_nodes = self.runners.get(name)?.reach().targets == TargetKind::Node;
        (to_nodes && !service.has_selector).then(|| companion::no_selector(named))
    }

    /// Whether a claim insists on another address than that of its load balancer,
    /// since one of the two was changed.
    fn elsewhere(&self, name: &str, claim: &ClaimObject, got: &Assignment) -> Option<String> {
        let (asked, held) = (claim.request.address.as_ref()?, got.granted.as_ref()?);
        let heard = self.runners.get(name)?.outcomes.get(&held.index).filter(|outcome| outcome.exists.is_some());
        let addresses: Vec<Address> = match heard {
            Some(outcome) => outcome.addresses.to_vec(),
            None => claim.status.address.as_deref().map(parse_address).into_iter().collect(),
        };
        let here = addresses.first().filter(|_| !addresses.contains(asked))?;
        Some(format!(
            "its ports are on {here}, and are never moved: set address to that, or delete the claim and create it again for {asked}"
        ))
    }

    pub(super) fn programmed(&self, class: &str, entry: &Entry, held: &Held, outcome: Option<&Outcome>) -> Programmed {
        let claim = &entry.claim;
        let why_none = |slot: &HeldSlot, listener: &ListenerOutcome| self.why_none(class, entry, held, slot, listener);
        let why_none_of = |slot: &HeldSlot, family| {
            let (service, _) = claim.target.of_port(&slot.name, Some(slot.key.port))?;
            Some(self.why_none_of(class, service, family))
        };
        render::programmed(claim, held, outcome, why_none, why_none_of)
    }

    /// Everything else that a claim should be told, in the background.
    pub(super) fn tell_the_rest(&mut self, name: &Arc<str>, decision: &Decision) {
        let (key, now) = (Some(name.clone()), Timestamp::now());
        let Some(group) = self.groups.get(&key) else { return };
        let mut news: Vec<(Arc<ClaimObject>, Verdict)> = Vec::new();
        for (entry, got) in group.entries().zip(&decision.assignments) {
            let Some(got) = got.as_ref().filter(|got| !changes_slots(&entry.claim, got) && entry.writes.are_free())
            else {
                continue;
            };
            if entry.rendered.as_ref().is_some_and(|rendered| rendered.stands(got)) {
                continue;
            }
            let verdict = self.verdict(name, entry, got);
            if entry.rendered.as_ref() != Some(&verdict) {
                news.push((entry.claim.clone(), verdict));
            }
        }
        for (claim, verdict) in news {
            self.tell_claim(&claim, Some(name), verdict, now);
        }
    }

    /// Tells the claims of a class that can't be read, as far as they hold nothing.
    pub(super) fn tell_waiting(&mut self, name: &Arc<str>, message: &str) {
        let Some(group) = self.groups.get(&Some(name.clone())) else { return };
        let waits = |entry: &&Entry| {
            let claim = &entry.claim;
            !claim.meta.deleting && !claim.unparsable && claim.request.held.is_none() && entry.writes.are_free()
        };
        let claims: Vec<Arc<ClaimObject>> = group.entries().filter(waits).map(|entry| entry.claim.clone()).collect();
        for claim in claims {
            let refused = Some((Some(Reason::Unsupported), message.to_owned()));
            let verdict =
                Verdict { held: None, refused, programmed: Programmed::Pending, addresses: Some(Arc::default()) };
            self.tell_claim(&claim, None, verdict, Timestamp::now());
        }
    }

    /// Claims whose class does not exist, or that name none and there is no
    /// default: they are told, and keep what they hold.
    pub(super) fn run_without_class(&mut self, key: &Option<Arc<str>>) {
        let (reason, message) = match key {
            Some(name) => {
                (Reason::NoClass, format!("class {name} does not exist: create it, or create the claim again with another className"))
            }
            None => (
                Reason::NoDefaultClass,
                "no className is given, and no class is the default: name one, or annotate a class with sharedlb.dev/is-default-class: \"true\"".to_owned(),
            ),
        };
        let Some(group) = self.groups.get(key) else { return };
        if group.is_empty() {
            // Anybody can name classes that do not exist.
            self.groups.remove(key);
            return;
        }
        let claims: Vec<Arc<ClaimObject>> = group
            .entries()
            .filter(|entry| !entry.claim.meta.deleting && !entry.claim.unparsable && entry.writes.are_free())
            .map(|entry| entry.claim.clone())
            .collect();
        for claim in claims {
            let held = claim.request.held.clone();
            let refused = Some((Some(reason), message.clone()));
            let verdict = Verdict { held, refused, programmed: Programmed::NotHeard, addresses: None };
            let class = claim.status.class_name.clone();
            self.tell_claim(&claim, class.as_deref(), verdict, Timestamp::now());
        }
        self.remove_finalizers(key);
        self.run_when_released(key);
    }
}

/// Why ports were refused, and how many: not where it is the claim as a whole that
/// cannot be had.
fn refused_ports(got: &Assignment, port: &str, message: &str) -> String {
    let as_a_whole = got.granted.is_none() && got.refused.windows(2).all(|two| two[0].1 == two[1].1);
    let others = match got.refused.len() - 1 {
        _ if as_a_whole => String::new(),
        0 => String::new(),
        1 => " (and one more port was refused)".to_owned(),
        n => format!(" (and {n} more ports were refused)"),
    };
    let is_about_all = port.is_empty() || (as_a_whole && got.refused.len() > 1);
    let port = if is_about_all { String::new() } else { format!("port {port}: ") };
    format!("{port}{message}{others}")
}

/// Whether a claim's slots are not those that its status has.
pub(super) fn changes_slots(claim: &ClaimObject, got: &Assignment) -> bool {
    let slots = |held: Option<&Held>| {
        held.map(|held| (held.index, held.slots.iter().map(|slot| (slot.name.clone(), slot.key)).collect::<Vec<_>>()))
    };
    match (&claim.request.held, &got.granted) {
        (Some(held), Some(granted)) if held == granted => false,
        (held, granted) => slots(held.as_ref()) != slots(granted.as_ref()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocation::Refusal;

    #[test]
    fn other_ports_are_counted_only_where_it_is_not_the_claim_as_a_whole_that_cannot_be_had() {
        let refused = |indices: [u32; 2]| {
            let refused = ["a", "b"].into_iter().zip(indices);
            let refused = refused.map(|(port, index)| (port.into(), Refusal::Unobserved { index })).collect();
            Assignment { refused, ..Assignment::default() }
        };
        assert_eq!(refused_ports(&refused([0, 0]), "a", "why"), "why");
        assert_eq!(refused_ports(&refused([0, 1]), "a", "why"), "port a: why (and one more port was refused)");
        let added = Assignment { granted: Some(Held { index: 0, slots: Arc::new([]) }), ..refused([0, 0]) };
        assert_eq!(refused_ports(&added, "a", "why"), "port a: why (and one more port was refused)");
    }
}
