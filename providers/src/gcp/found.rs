//! The objects of a load balancer as they were read.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use super::attaching::Attaching;
use super::objects::{
    Address, BackendService, Firewall, ForwardingRule, Group, HealthCheck, Names, Object, Rule, Zone, is_in, last_part,
};
use super::ports;
use super::settings::{Managed, Settings};
use crate::Error;
use crate::model::FrontPort;

/// The objects of a load balancer. A foreign one of the same name is none of them, except for an
/// existing address that the class names.
#[derive(Debug, Clone, Default)]
pub(super) struct Found {
    pub(super) address: Option<Address>,
    pub(super) health_check: Option<HealthCheck>,
    pub(super) groups: BTreeMap<Zone, FoundGroup>,
    pub(super) backend_service: Option<BackendService>,
    pub(super) forwarding_rule: Option<ForwardingRule>,
    pub(super) firewalls: BTreeMap<Rule, Firewall>,
    /// Why firewall rules are not as the class has them: they may not be read, or not be written
    pub(super) firewalls_denied: Option<Error>,
    /// Foreign objects of the same names
    pub(super) foreign: BTreeSet<Object>,
    /// Instances that cannot be attached
    pub(super) attaching: Attaching,
}

/// A group, and the instances in it.
#[derive(Debug, Clone, Default)]
pub(super) struct FoundGroup {
    pub(super) group: Group,
    pub(super) instances: BTreeSet<String>,
}

/// What was read of one object; `None`: it does not exist.
#[derive(Debug)]
pub(super) enum Read {
    Address(Option<Address>),
    HealthCheck(Option<HealthCheck>),
    Group(Zone, Option<FoundGroup>),
    BackendService(Option<BackendService>),
    ForwardingRule(Option<ForwardingRule>),
    Firewall(Rule, Option<Firewall>),
}

impl Found {
    /// Whether there is none. The existing address of a class is not the load balancer's.
    pub(super) fn is_empty(&self, names: Names<'_>) -> bool {
        let objects = self.objects();
        objects.iter().all(|object| *object == Object::Address && names.address.is_some())
    }

    /// The objects that exist.
    pub(super) fn objects(&self) -> BTreeSet<Object> {
        let one = |there: bool, object: Object| there.then_some(object);
        let single = [
            one(self.address.is_some(), Object::Address),
            one(self.health_check.is_some(), Object::HealthCheck),
            one(self.backend_service.is_some(), Object::BackendService),
            one(self.forwarding_rule.is_some(), Object::ForwardingRule),
        ];
        let groups = self.groups.keys().cloned().map(Object::Group);
        let firewalls = self.firewalls.keys().copied().map(Object::Firewall);
        single.into_iter().flatten().chain(groups).chain(firewalls).collect()
    }

    /// Its address.
    pub(super) fn ip(&self) -> Option<Ipv4Addr> {
        self.address.as_ref()?.address.as_ref()?.parse().ok()
    }

    /// Its address, if it accepts traffic.
    pub(super) fn serving(&self) -> Option<Ipv4Addr> {
        self.ip().filter(|_| self.forwarding_rule.is_some())
    }

    /// Whether traffic for all of these ports gets to the nodes, as far as SharedLB's firewall
    /// rules decide.
    pub(super) fn admits(&self, settings: &Settings, ports: impl IntoIterator<Item = FrontPort>) -> bool {
        let allow = self.firewalls.get(&Rule::Allow);
        let is_allowed = |port| allow.is_some_and(|rule| ports::admits(rule, port));
        settings.firewall.manage == Managed::None || ports.into_iter().all(is_allowed)
    }

    /// Takes in what was read. A foreign object is noted as such.
    pub(super) fn take(&mut self, names: Names<'_>, read: Read) {
        let ours = |description: &Option<String>| names.is_ours(description.as_deref().unwrap_or_default());
        let (object, description) = match &read {
            Read::Address(found) => (Object::Address, found.as_ref().map(|found| ours(&found.description))),
            Read::HealthCheck(found) => (Object::HealthCheck, found.as_ref().map(|found| ours(&found.description))),
            Read::Group(zone, found) => {
                (Object::Group(zone.clone()), found.as_ref().map(|found| ours(&found.group.description)))
            }
            Read::BackendService(found) => {
                (Object::BackendService, found.as_ref().map(|found| ours(&found.description)))
            }
            Read::ForwardingRule(found) => {
                (Object::ForwardingRule, found.as_ref().map(|found| ours(&found.description)))
            }
            Read::Firewall(rule, found) => {
                (Object::Firewall(*rule), found.as_ref().map(|found| ours(&found.description)))
            }
        };
        let is_given = object == Object::Address && names.address.is_some();
        let is_foreign = description == Some(false) && !is_given;
        if is_foreign {
            self.foreign.insert(object.clone());
        } else {
            self.foreign.remove(&object);
        }
        match read {
            Read::Address(found) => self.address = found.filter(|_| !is_foreign),
            Read::HealthCheck(found) => self.health_check = found.filter(|_| !is_foreign),
            Read::Group(zone, found) => match found.filter(|_| !is_foreign) {
                Some(found) => _ = self.groups.insert(zone, found),
                None => _ = self.groups.remove(&zone),
            },
            Read::BackendService(found) => self.backend_service = found.filter(|_| !is_foreign),
            Read::ForwardingRule(found) => self.forwarding_rule = found.filter(|_| !is_foreign),
            Read::Firewall(rule, found) => match found.filter(|_| !is_foreign) {
                Some(found) => _ = self.firewalls.insert(rule, found),
                None => _ = self.firewalls.remove(&rule),
            },
        }
    }

    /// Whether the backend service sends traffic to the group of this zone.
    pub(super) fn uses_group(&self, zone: &Zone) -> bool {
        let backends = self.backend_service.iter().flat_map(|service| &service.backends);
        let name = self.groups.get(zone).map(|found| found.group.name.as_str());
        backends.map(|backend| backend.group.as_str()).any(|url| is_in(zone, url) && Some(last_part(url)) == name)
    }
}
