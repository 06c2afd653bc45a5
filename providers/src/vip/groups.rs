//! The distribution of a load balancer to Services: one for each group of listeners with the
//! same options. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::options;
use crate::diff::{Change, diff, replay};
use crate::model::{
    Address, Attributes, Capacity, FrontPort, IpFamily, LbName, Listener, ListenerKey, ListenerOptions, LoadBalancer,
    Observed, Owner, Unserved,
};
use crate::service::front::attribute;
use crate::service::{ServiceName, status};
use crate::{Applied, Error};

/// The most different options of one namespace on a load balancer, without the default ones:
/// each is a Service, with a ClusterIP and rules on every node.
const MAX_OPTIONS: usize = 8;

/// Followed by the name of a Service: an observed attribute of a load balancer one of whose
/// Services is not as it should be, so that it differs from the desired ones.
const DIFFERS: &str = "service/";

/// The Services of a load balancer, each observed as if it were a load balancer of its own.
pub(super) type ObservedServices = BTreeMap<ServiceName, Observed>;

/// The Services whose status could not be written, and why.
pub(super) type Unwritten = BTreeMap<ServiceName, Error>;

/// The Services that cannot be created, and why.
pub(super) type Unavailable = BTreeMap<ServiceName, Error>;

/// The desired Services of a load balancer.
#[derive(Debug, Default)]
pub(super) struct Distribution {
    /// Each as a load balancer of its own, whose listeners have default options: the options
    /// are among its attributes.
    pub(super) targets: BTreeMap<ServiceName, LoadBalancer>,
    /// Listeners that cannot have their options
    pub(super) failed: BTreeMap<ListenerKey, Error>,
}

/// Listeners with the same options.
#[derive(Debug, Default)]
struct Group {
    options: ListenerOptions,
    listeners: BTreeMap<ListenerKey, Listener>,
}

impl Group {
    fn of(options: &ListenerOptions) -> Self {
        Self { options: options.clone(), ..Self::default() }
    }
}

/// Changes of one Service.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// The whole Service after the changes
    pub(super) target: LoadBalancer,
    pub(super) changes: Vec<Change>,
}

impl Step {
    /// The listeners of its changes, if they failed by this error.
    pub(super) fn failed(&self, error: &Error) -> impl Iterator<Item = (ListenerKey, Error)> {
        self.changes.iter().flat_map(Change::listeners).map(|key| (key, error.clone()))
    }
}

/// The observation of a load balancer from those of its Services. `None`: it has none.
/// `of_class` are the addresses of all load balancers of the class, if they are known.
///
/// Its settings are those of the Service with its own name. A listener that is in two
/// Services has an unknown owner, which differs from every desired one.
pub(super) fn merge(
    existing: &ObservedServices,
    of_class: Option<&BTreeSet<IpAddr>>,
    unwritten: &Unwritten,
) -> Option<Observed> {
    let (_, any) = existing.first_key_value()?;
    let main = existing.iter().find(|(name, _)| name.is_main()).map(|(_, observed)| observed);
    let settings = main.map(|main| settings(&main.load_balancer.attributes)).unwrap_or_default();
    let all = addresses(&settings, of_class);
    let mut merged = Observed {
        load_balancer: LoadBalancer { attributes: settings.clone(), listeners: BTreeMap::new() },
        addresses: all.iter().copied().map(Address::Ip).collect(),
        families: main.unwrap_or(any).families.clone(),
        capacity: Capacity { listeners: None, targets: None },
        ..Observed::default()
    };
    for (name, observed) in existing {
        let found = options::read(&observed.load_balancer.attributes);
        let expected = settings_with(&settings, &found);
        if !name.is_main() && (is_unused(observed) || self::settings(&observed.load_balancer.attributes) != expected) {
            let why = if is_unused(observed) { "unused" } else { "altered" };
            merged.load_balancer.attributes.insert(format!("{DIFFERS}{name}"), why.to_owned());
        }
        merged.foreign.extend(&observed.foreign);
        if let Some(what) = lacking(&found, &addresses(&observed.load_balancer.attributes, of_class), &all) {
            let why = format!("the Service {name} has {what} in its status, by which nodes would serve it");
            let unserved = match unwritten.get(name) {
                Some(error) => Unserved::Refused(format!("{why}: {error:#}")),
                None => Unserved::Pending(why),
            };
            let listeners = observed.load_balancer.listeners.keys();
            merged.unserved.extend(listeners.map(|key| (*key, unserved.clone())));
        }
        for (key, listener) in &observed.load_balancer.listeners {
            let listener = Listener { options: found.clone(), ..listener.clone() };
            let listeners = &mut merged.load_balancer.listeners;
            if listeners.insert(*key, listener).is_some() {
                listeners.insert(*key, Listener { options: found.clone(), ..Listener::new(Owner::unknown(), []) });
            }
        }
    }
    Some(merged)
}

/// The addresses in the status of a Service with these attributes. Those that other clients
/// have written there are no addresses of the class.
pub(super) fn addresses(attributes: &Attributes, of_class: Option<&BTreeSet<IpAddr>>) -> Vec<IpAddr> {
    let text = attributes.get(attribute::STATUS).map(String::as_str).unwrap_or_default();
    status::addresses(text).filter(|address| of_class.is_none_or(|all| all.contains(address))).collect()
}

/// What the status of a Service with these options lacks, which `has` some addresses of the
/// load balancer, of `all`: no node serves it there. `None`: nothing.
fn lacking(options: &ListenerOptions, has: &[IpAddr], all: &[IpAddr]) -> Option<String> {
    if has.is_empty() && all.is_empty() {
        return Some("no address".to_owned());
    }
    let lacks = |address: &&IpAddr| options.admits(IpFamily::of(**address)) && !has.contains(address);
    let lacking: Vec<String> = all.iter().filter(lacks).map(IpAddr::to_string).collect();
    (!lacking.is_empty()).then(|| format!("no address {}", lacking.join(" and ")))
}

/// Whether a Service has no listeners, neither ours nor foreign ones.
pub(super) fn is_unused(observed: &Observed) -> bool {
    observed.load_balancer.listeners.is_empty() && observed.foreign.is_empty()
}

/// Distributes the desired listeners to Services. `configures`: whether the Services that
/// exist get the desired settings.
///
/// A listener that cannot have its options keeps the ones that it has, unless by them clients
/// are served that no longer should be, or it goes to another claim: then it closes. So do the
/// listeners that it would replace.
pub(super) fn distribute(
    name: &LbName,
    existing: &ObservedServices,
    desired: &LoadBalancer,
    configures: bool,
    unavailable: &Unavailable,
) -> Distribution {
    let mut failed = too_many(existing, &desired.listeners);
    let placed = desired.listeners.iter().filter(|(key, _)| !failed.contains_key(key));
    let services = services_of(name, existing, &placed.map(|(_, listener)| &listener.options).collect());
    let mut groups = BTreeMap::from([(ServiceName::main(name), Group::default())]);
    for (key, listener) in &desired.listeners {
        let options = &listener.options;
        let Some(service) = services.get(options) else { continue };
        if let Some(error) = unavailable.get(service) {
            failed.entry(*key).or_insert_with(|| error.clone());
        }
        if !failed.contains_key(key) {
            let group = groups.entry(service.clone()).or_insert_with(|| Group::of(options));
            group.listeners.insert(*key, with_default_options(listener));
        }
    }
    for (key, listener) in desired.listeners.iter().filter(|(key, _)| failed.contains_key(key)) {
        for (service, observed) in existing {
            let open = &observed.load_balancer.listeners;
            let mut stay = replaced(*key, listener, open, &desired.listeners);
            if open.get(key).is_some_and(|found| found.owner.is_same_claim(&listener.owner)) {
                stay.push((*key, with_default_options(listener)));
            }
            if stay.is_empty() {
                continue;
            }
            let found = options::read(&observed.load_balancer.attributes);
            let group = groups.entry(service.clone()).or_insert_with(|| Group::of(&found));
            if !group.options.admits_more_than(&listener.options) {
                group.listeners.extend(stay);
            }
        }
    }
    let mut targets = BTreeMap::new();
    let wanted = settings(&desired.attributes);
    for (service, Group { options, listeners }) in groups {
        let mut attributes = match existing.get(&service) {
            Some(observed) if !configures => settings(&observed.load_balancer.attributes),
            _ => settings_with(&wanted, &options),
        };
        attributes.extend(options::attributes(&options));
        targets.insert(service, LoadBalancer { attributes, listeners });
    }
    for (service, observed) in existing {
        let LoadBalancer { attributes, .. } = &observed.load_balancer;
        let empty = || LoadBalancer { attributes: attributes.clone(), listeners: BTreeMap::new() };
        targets.entry(service.clone()).or_insert_with(empty);
    }
    Distribution { targets, failed }
}

/// The open listeners of a Service that a listener of the same claim would replace: they are not
/// wanted any more.
fn replaced(
    key: ListenerKey,
    listener: &Listener,
    open: &BTreeMap<ListenerKey, Listener>,
    wanted: &BTreeMap<ListenerKey, Listener>,
) -> Vec<(ListenerKey, Listener)> {
    let is_replaced = |(other, found): &(&ListenerKey, &Listener)| {
        other.overlaps(key) && !wanted.contains_key(*other) && found.owner.is_same_claim(&listener.owner)
    };
    open.iter().filter(is_replaced).map(|(other, found)| (*other, found.clone())).collect()
}

/// The Services that ports which are open now move to, and that do not exist: each without
/// listeners. They are created before a port closes, since that may be refused.
pub(super) fn missing(
    existing: &ObservedServices,
    targets: &BTreeMap<ServiceName, LoadBalancer>,
) -> BTreeMap<ServiceName, LoadBalancer> {
    let is_open = |port: FrontPort| having(existing, port).next().is_some();
    let is_new = |(service, target): &(&ServiceName, &LoadBalancer)| {
        let is_missing = !service.is_main() && !existing.contains_key(*service);
        is_missing && target.listeners.keys().flat_map(|key| key.front_ports()).any(is_open)
    };
    let empty =
        |target: &LoadBalancer| LoadBalancer { attributes: target.attributes.clone(), ..LoadBalancer::default() };
    targets.iter().filter(is_new).map(|(service, target)| (service.clone(), empty(target))).collect()
}

/// The changes that take traffic away from a wrong receiver, or from clients that are no
/// longer served. They are carried out in all Services before anything opens in one: a port
/// is in no two Services at a time.
pub(super) fn closing(observed: &LoadBalancer, target: &LoadBalancer) -> Option<Step> {
    let is_reassigned = |key: &ListenerKey| {
        let owner = |of: &LoadBalancer| of.listeners.get(key).map(|listener| listener.owner.clone());
        owner(observed).zip(owner(target)).is_some_and(|(before, after)| !before.is_same_claim(&after))
    };
    let takes_away = |change: &Change| match change {
        Change::Close(_) => true,
        Change::Own(key) | Change::Backends(key) => is_reassigned(key),
        Change::Configure => {
            options::KEYS.iter().any(|key| observed.attributes.get(*key) != target.attributes.get(*key))
        }
        _ => false,
    };
    let mut changes = diff(observed, target);
    changes.retain(takes_away);
    let mut towards = observed.clone();
    replay(&mut towards, target, &changes);
    (!changes.is_empty()).then_some(Step { target: towards, changes })
}

/// The listeners of which the API server has other options than were written: an admission
/// webhook may have changed them, or another client.
pub(super) fn altered(
    existing: &ObservedServices,
    desired: &LoadBalancer,
    applied: &Applied,
) -> BTreeMap<ListenerKey, Error> {
    let is_open = |key: &ListenerKey| !applied.failed.contains_key(key) && !applied.postponed.contains(key);
    let listeners = desired.listeners.iter().filter(|(key, _)| is_open(key));
    let altered = listeners.filter_map(|(key, listener)| {
        let (service, observed) = found_at(existing, *key)?;
        let found = options::read(&observed.load_balancer.attributes);
        let why = format!(
            "the Service {service} has other loadBalancerSourceRanges or another sessionAffinity than were written to \
             it: look for an admission policy that changes Services"
        );
        (found != listener.options).then(|| (*key, Error::Refused(why.into())))
    });
    altered.collect()
}

/// Listeners whose ports other Services have.
#[derive(Debug, Default)]
pub(super) struct Blocked {
    /// Those of which the port stays there, and why
    pub(super) failed: BTreeMap<ListenerKey, Error>,
    /// Those of which the port is about to close there
    pub(super) postponed: BTreeSet<ListenerKey>,
}

/// Takes the listeners out of the targets whose ports other Services have. Those that they
/// would replace in their own Service stay.
pub(super) fn block(existing: &ObservedServices, targets: &mut BTreeMap<ServiceName, LoadBalancer>) -> Blocked {
    // A Service without a target does not change.
    let stays = |name: &ServiceName, port: FrontPort| {
        let has = |listeners: &BTreeMap<ListenerKey, Listener>| listeners.keys().any(|key| key.has(port));
        existing[name].foreign.contains(&port) || targets.get(name).is_none_or(|target| has(&target.listeners))
    };
    let mut blocked = Blocked::default();
    for (name, target) in &*targets {
        let open = existing.get(name).map(|observed| &observed.load_balancer.listeners);
        for key in target.listeners.keys().filter(|key| !open.is_some_and(|open| open.contains_key(key))) {
            let others = key.front_ports().flat_map(|port| having(existing, port).map(move |other| (other, port)));
            for (other, port) in others.filter(|(other, _)| *other != name) {
                if stays(other, port) {
                    let why = format!("{port} is open in the Service {other}, which has the same address");
                    blocked.failed.insert(*key, Error::PortInUse(why.into()));
                } else {
                    blocked.postponed.insert(*key);
                }
            }
        }
    }
    blocked.postponed.retain(|key| !blocked.failed.contains_key(key));
    let is_blocked = |key: &ListenerKey| blocked.failed.contains_key(key) || blocked.postponed.contains(key);
    for (name, target) in targets {
        let none = BTreeMap::new();
        let open = existing.get(name).map_or(&none, |observed| &observed.load_balancer.listeners);
        let (stay, taken_out): (BTreeMap<_, _>, BTreeMap<_, _>) = std::mem::take(&mut target.listeners)
            .into_iter()
            .partition(|(key, _)| open.contains_key(key) || !is_blocked(key));
        target.listeners = stay;
        for (key, listener) in taken_out {
            let replaced = replaced(key, &listener, open, &target.listeners);
            target.listeners.extend(replaced);
        }
    }
    blocked
}

/// The Services that have this port, as ours or as a foreign one.
fn having(existing: &ObservedServices, port: FrontPort) -> impl Iterator<Item = &ServiceName> {
    let has = move |observed: &Observed| {
        observed.foreign.contains(&port) || observed.load_balancer.listeners.keys().any(|key| key.has(port))
    };
    existing.iter().filter(move |(_, observed)| has(observed)).map(|(name, _)| name)
}

/// The Services of these options. Those that exist keep theirs. Others get the first name that
/// no Service of other options has: the hash in it is short, and a tenant could look for options
/// with the hash of another tenant's.
fn services_of<'a>(
    name: &LbName,
    existing: &ObservedServices,
    all: &BTreeSet<&'a ListenerOptions>,
) -> BTreeMap<&'a ListenerOptions, ServiceName> {
    // Options without the hash in the name were altered by another client, and are corrected.
    let of_existing = existing.iter().filter_map(|(service, observed)| {
        let options = options::read(&observed.load_balancer.attributes);
        service.has_hash_of(&options::identity(&options)).then_some((options, service))
    });
    let there: Vec<(ListenerOptions, &ServiceName)> = of_existing.collect();
    let mut taken: BTreeSet<ServiceName> = there.iter().map(|(_, service)| (*service).clone()).collect();
    let mut service_of = |options: &ListenerOptions| {
        if options.is_default() {
            return Some(ServiceName::main(name));
        }
        if let Some((_, service)) = there.iter().find(|(there, _)| there == options) {
            return Some((*service).clone());
        }
        let mut names = ServiceName::beside(name, &options::identity(options));
        let free = names.find(|service| !taken.contains(service))?;
        taken.insert(free.clone());
        Some(free)
    };
    all.iter().filter_map(|options| Some((*options, service_of(options)?))).collect()
}

/// The Service that a listener is in.
fn found_at(existing: &ObservedServices, key: ListenerKey) -> Option<(&ServiceName, &Observed)> {
    existing.iter().find(|(_, observed)| observed.load_balancer.listeners.contains_key(&key))
}

/// The listeners whose namespaces have too many different options without theirs. Options that
/// a namespace has already precede new ones.
fn too_many(existing: &ObservedServices, listeners: &BTreeMap<ListenerKey, Listener>) -> BTreeMap<ListenerKey, Error> {
    let mut of_namespace: BTreeMap<&Arc<str>, BTreeSet<&ListenerOptions>> = BTreeMap::new();
    for Listener { owner, options, .. } in listeners.values().filter(|listener| !listener.options.is_default()) {
        of_namespace.entry(&owner.namespace).or_default().insert(options);
    }
    let has = |namespace: &Arc<str>, options: &ListenerOptions| {
        existing.values().any(|observed| {
            options::read(&observed.load_balancer.attributes) == *options
                && observed.load_balancer.listeners.values().any(|listener| listener.owner.namespace == *namespace)
        })
    };
    let mut too_many = BTreeMap::new();
    for (namespace, all) in of_namespace {
        let (had, new): (Vec<_>, Vec<_>) = all.into_iter().partition(|options| has(namespace, options));
        let beyond: BTreeSet<_> = had.into_iter().chain(new).skip(MAX_OPTIONS).collect();
        let fails = |listener: &Listener| listener.owner.namespace == *namespace && beyond.contains(&listener.options);
        let error = || {
            let message = format!(
                "the claims of namespace {namespace} on this load balancer have {MAX_OPTIONS} different combinations \
                 of loadBalancerSourceRanges and sessionAffinity, which is the most that there can be: use one of \
                 them, or delete a claim"
            );
            Error::Refused(message.into())
        };
        too_many.extend(listeners.iter().filter(|(_, listener)| fails(listener)).map(|(key, _)| (*key, error())));
    }
    too_many
}

fn with_default_options(listener: &Listener) -> Listener {
    Listener { options: ListenerOptions::default(), ..listener.clone() }
}

/// The settings among the attributes of a Service or a load balancer.
fn settings(attributes: &Attributes) -> Attributes {
    let is_setting = |key: &str| !key.starts_with(DIFFERS) && !options::KEYS.contains(&key);
    attributes.iter().filter(|(key, _)| is_setting(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// The settings of a Service with these options. Addresses of a family of which no client is
/// served are not in its status. kube-proxy takes source ranges without one of a family for no
/// restriction of that family.
fn settings_with(settings: &Attributes, options: &ListenerOptions) -> Attributes {
    let mut settings = settings.clone();
    if let Some(text) = settings.get_mut(attribute::STATUS) {
        *text = status::text(status::addresses(text).filter(|ip| options.admits(IpFamily::of(*ip))));
    }
    settings
}

#[cfg(test)]
#[path = "groups_tests.rs"]
mod tests;
