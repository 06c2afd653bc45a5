//! What is promised to traffic: a listener that is open leads to the pods of the
//! claim that has its port, and to no others.

use std::collections::BTreeSet;

use super::Seen;
use super::book::{Book, Pod};
use super::objects::{Key, Labels, Slot};
use crate::objects::SYSTEM;
use crate::owner::BY_HAND;

impl Book {
    /// Judges all listeners of all load balancers that are Services.
    pub(super) fn judge_listeners(&mut self) {
        let wrongs: Vec<String> = self
            .open_listeners()
            .into_iter()
            .flat_map(|(slot, addresses)| {
                let holders = self.holders.get(&slot).filter(|holders| !holders.is_empty());
                let owners: Vec<&Key> = match holders {
                    Some(holders) => holders.iter().collect(),
                    None => self.last_holder.get(&slot).into_iter().collect(),
                };
                let wrong = |address: &String| self.judge_address(&slot, &owners, address);
                addresses.iter().filter_map(wrong).collect::<Vec<_>>()
            })
            .collect();
        self.wrong_once(wrongs);
    }

    /// Records what is wrong now. Until it is corrected, every event shows it.
    pub(super) fn wrong_once(&mut self, wrongs: impl IntoIterator<Item = String>) {
        for wrong in wrongs {
            if !self.wrongs.iter().any(|known| known.ends_with(&wrong)) {
                self.wrong(wrong);
            }
        }
    }

    /// All listeners of Services, and the addresses that they lead to.
    fn open_listeners(&self) -> Vec<(Slot, BTreeSet<String>)> {
        let fronts = self.services.iter().filter(|(key, service)| key.0 == SYSTEM && service.front.is_some());
        let listeners = fronts.flat_map(|(key, service)| {
            service.listeners().into_iter().map(|(slot, port)| (slot, self.addresses(key, port)))
        });
        listeners.collect()
    }

    /// The addresses that a port of a load balancer's Service leads to.
    pub(super) fn addresses(&self, service: &Key, port: &str) -> BTreeSet<String> {
        let of_it = |(key, slice): &(&Key, &super::objects::Slice)| key.0 == service.0 && slice.service == service.1;
        let slices = self.slices.iter().filter(of_it).map(|(_, slice)| slice);
        slices.filter(|slice| slice.ports.contains(port)).flat_map(|slice| slice.addresses.clone()).collect()
    }

    /// What is wrong with this slot of these claims leading there.
    pub(super) fn judge_address(&self, slot: &Slot, owners: &[&Key], address: &str) -> Option<String> {
        if address.starts_with(BY_HAND) {
            return None;
        }
        let Some(pod) = self.pods.get(address) else {
            return Some(format!("listener: {slot:?} leads to {address}, which never was a pod's"));
        };
        let fits = owners.iter().any(|claim| self.ever_selected(claim, pod));
        (!fits).then(|| format!("listener: {slot:?} of {owners:?} leads to {}/{} ({address})", pod.namespace, pod.name))
    }

    /// Whether the claim ever sent traffic to labels that the pod ever had: what
    /// was changed lately may not have come through.
    pub(super) fn ever_selected(&self, claim: &Key, pod: &Pod) -> bool {
        if claim.0 != pod.namespace {
            return false;
        }
        let services = self.named.get(claim).into_iter().flatten();
        let by_name = services.filter_map(|service| self.selectors.get(&(claim.0.clone(), service.clone()))).flatten();
        let mut selectors =
            self.selected.get(claim).into_iter().flatten().chain(by_name).filter(|each| !each.is_empty());
        let within =
            |selector: &Labels, labels: &Labels| selector.iter().all(|(key, value)| labels.get(key) == Some(value));
        selectors.any(|selector| pod.labels.iter().any(|labels| within(selector, labels)))
    }

    /// Compares what is open with what is held.
    pub(super) fn compare(&self) -> Seen {
        let of_services = self.open_listeners();
        let at_aws = self.slots_at_aws();
        let open: BTreeSet<&Slot> = of_services.iter().map(|(slot, _)| slot).chain(&at_aws).collect();
        let is_held = |slot: &Slot| self.holders.get(slot).is_some_and(|holders| !holders.is_empty());
        let held = self.holders.iter().filter(|(_, holders)| !holders.is_empty());
        let closed = held.filter(|(slot, _)| !open.contains(slot));
        let by_hand = |addresses: &BTreeSet<String>| addresses.iter().any(|each| each.starts_with(BY_HAND));
        let by_hand = of_services.iter().filter(|(_, addresses)| by_hand(addresses));
        Seen {
            unheld: open.iter().filter(|slot| !is_held(slot)).map(|slot| format!("{slot:?}")).collect(),
            closed: closed.map(|(slot, holders)| format!("{slot:?} of {holders:?}")).collect(),
            by_hand: by_hand.map(|(slot, _)| format!("{slot:?}")).collect(),
        }
    }
}
