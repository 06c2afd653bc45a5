//! Converts the cached state of a load balancer to an observation of the model, and finds
//! drift.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;

use super::config::{self, GroupAttributes, Probe, joined};
use super::known::{Known, Nlb, Port, Serving};
use super::names::{self, Target};
use super::settings::Settings;
use crate::model::{Attributes, BackendSet, LbName, Listener, ListenerKey, LoadBalancer, Observed};

/// The value of a setting that differs between target groups.
const VARIOUS: &str = "not the same for all";

/// The observation of a load balancer; `None`: it does not exist.
pub(super) fn observed(known: &Known, settings: &Settings, name: &LbName) -> Option<Observed> {
    let nlb = known.nlb.as_ref()?;
    let listeners = known.ports.iter().filter_map(|(number, port)| {
        let Serving { protocol, owner, options, group } = port.serves(settings, name)?;
        let backends: BackendSet = group.targets.iter().map(Target::backend).collect();
        Some((ListenerKey { port: *number, protocol }, Listener { options, ..Listener::new(owner, backends) }))
    });
    Some(Observed {
        load_balancer: LoadBalancer { listeners: listeners.collect(), attributes: attributes(settings, name, known) },
        addresses: nlb.addresses(),
        families: names::target_families(settings),
        capacity: known.capacity(),
        foreign: known.foreign.ports.clone(),
        drift: drift(known, settings, name),
        not_ready: nlb.not_ready.clone(),
        // A listener of a load balancer that is ready gets traffic.
        unserved: BTreeMap::new(),
    })
}

/// Our objects that serve no listener of the model, by port: target groups without a listener,
/// and listeners that forward elsewhere.
pub(super) fn drift(known: &Known, settings: &Settings, name: &LbName) -> BTreeMap<NonZeroU16, String> {
    let drift = |port: &Port| {
        let serves = port.serves(settings, name).map(|serving| serving.group);
        if serves.is_none() && port.listener.is_some() {
            return Some(
                "its listener does not forward to the target group made for it, or has lost its tags".to_owned(),
            );
        }
        let orphaned = port.groups.iter().filter(|group| serves.is_none_or(|serves| serves.arn != group.arn));
        let names: Vec<&str> = orphaned.map(|group| group.name.as_str()).collect();
        (!names.is_empty()).then(|| format!("no listener forwards to target group {}", names.join(", ")))
    };
    known.ports.iter().filter_map(|(number, port)| Some((*number, drift(port)?))).collect()
}

/// The observed settings: the desired ones, except for those that were found to differ.
fn attributes(settings: &Settings, name: &LbName, known: &Known) -> Attributes {
    let mut seen = config::wanted(settings);
    if let Some(nlb) = known.nlb.as_ref().filter(|_| settings.load_balancer_arn.is_none()) {
        for (key, wanted) in config::nlb_attributes(settings) {
            let found = nlb.attributes.get(&key).filter(|found| **found != wanted);
            seen.extend(found.map(|found| (format!("attribute {key}"), found.clone())));
        }
        if security_groups_differ(settings, nlb) {
            seen.insert(config::SECURITY_GROUPS.to_owned(), joined(nlb.security_groups.iter()));
        }
    }
    for key in settings.tags.keys().filter(|&key| !untagged(settings, name, known, Some(key)).is_empty()) {
        seen.insert(format!("tag {key}"), VARIOUS.to_owned());
    }
    if known.ports.values().any(|port| probe_differs(settings, port)) {
        seen.insert(config::HEALTH_CHECK.to_owned(), VARIOUS.to_owned());
    }
    if known.ports.values().any(|port| group_attributes_differ(settings, port)) {
        seen.insert(config::GROUPS.to_owned(), VARIOUS.to_owned());
    }
    seen
}

/// Whether the load balancer has other security groups than it should.
pub(super) fn security_groups_differ(settings: &Settings, nlb: &Nlb) -> bool {
    !settings.security_groups.is_empty()
        && settings.security_groups.iter().collect::<BTreeSet<_>>() != nlb.security_groups.iter().collect()
}

/// Our objects that lack a tag of the admin's (`key`, or any of them), by ARN.
pub(super) fn untagged<'a>(settings: &Settings, name: &LbName, known: &'a Known, key: Option<&String>) -> Vec<&'a str> {
    let adopted = settings.load_balancer_arn.is_some();
    let nlb = known.nlb.iter().filter(|_| !adopted).map(|nlb| (nlb.arn.as_str(), &nlb.tags));
    let ports = known.ports.values().filter(|port| port.serves(settings, name).is_some());
    let listeners =
        ports.clone().flat_map(|port| &port.listener).map(|listener| (listener.arn.as_str(), &listener.tags));
    let groups = ports.flat_map(|port| &port.groups).map(|group| (group.arn.as_str(), &group.tags));
    let lacks = |tags: &names::Tags| {
        let mut wanted = settings.tags.iter().filter(|(k, _)| key.is_none_or(|key| key == *k));
        wanted.any(|(key, value)| tags.get(key) != Some(value))
    };
    nlb.chain(listeners).chain(groups).filter(|(_, tags)| lacks(tags)).map(|(arn, _)| arn).collect()
}

/// Whether a target group that a listener uses has another health check than the class.
pub(super) fn probe_differs(settings: &Settings, port: &Port) -> bool {
    let wanted = Probe::wanted(&settings.health_check);
    port.used_group().is_some_and(|group| group.probe != wanted)
}

/// Whether a target group that a listener uses has other attributes than the class. Stickiness
/// is an option of the listener.
pub(super) fn group_attributes_differ(settings: &Settings, port: &Port) -> bool {
    let Some(listener) = &port.listener else { return false };
    let given = listener.group_attributes();
    given != GroupAttributes::wanted(settings, GroupAttributes::are_sticky(given)).summary()
}
