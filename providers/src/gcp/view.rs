//! What is observed of a load balancer: its Services and its objects in Google Cloud. Pure.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::IpAddr;

use super::found::Found;
use super::known::{Known, State};
use super::nodes::Nodes;
use super::objects::{Names, Object, Ports, Rule, last_part};
use super::plan::{self, Action, Step};
use super::settings::{Managed, Settings};
use super::wanted::{Wanted, wanted};
use super::{obstacles, ports};
use crate::Error;
use crate::model::{Address, Attributes, FrontPort, IpFamily, ListenerKey, LoadBalancer, Observed, Unserved};
use crate::service::front::attribute;
use crate::service::status;

/// Why a load balancer serves nothing while it is being created.
pub(super) const CREATING: &str = "Google Cloud creates the load balancer";

/// Why a listener is refused whose port the firewall rule does not allow.
pub(super) const OUT_OF_RANGE: &str = "the firewall rule of the class does not allow it: request a port of \
                                       ports.dynamic, or set provider.gcp.firewall.manage to Ports";

/// The attribute of everything in Google Cloud.
const GOOGLE_CLOUD: &str = "googleCloud";

/// The desired attributes, from those of its Services.
pub(super) fn attributes(mut services: Attributes, settings: &Settings) -> Attributes {
    services.remove(attribute::STATUS);
    services.insert(GOOGLE_CLOUD.to_owned(), as_configured(settings));
    services
}

/// The desired value of [`GOOGLE_CLOUD`]. A class with other settings has another one, so that what
/// was observed before it was changed differs from what is desired.
fn as_configured(settings: &Settings) -> String {
    let mut hasher = DefaultHasher::new();
    settings.hash(&mut hasher);
    format!("as configured, by settings {:016x}", hasher.finish())
}

/// A load balancer as its Services have it, with these addresses in their status.
pub(super) fn for_services(load_balancer: &LoadBalancer, status: &str) -> LoadBalancer {
    let mut load_balancer = load_balancer.clone();
    load_balancer.attributes.remove(GOOGLE_CLOUD);
    load_balancer.attributes.insert(attribute::STATUS.to_owned(), status.to_owned());
    load_balancer
}

/// The observation of a load balancer with these Services (`None`: they do not exist), and with what
/// is known of its objects and of the nodes.
pub(super) fn observed(
    names: Names<'_>,
    services: Option<Observed>,
    known: &Known,
    nodes: &Result<Nodes, Error>,
) -> Observed {
    let mut observed = services.unwrap_or_default();
    observed.families = [IpFamily::V4].into();
    let mut differs: Vec<String> = known.unread.iter().map(|error| format!("{error:#}")).collect();
    match &known.state {
        Some(state) => differs.extend(add_state(&mut observed, names, state, nodes)),
        // Until they are read, nothing is known against what the Services have.
        None => _ = observed.load_balancer.attributes.remove(attribute::STATUS),
    }
    let state = if differs.is_empty() { as_configured(names.settings) } else { differs.join("; ") };
    observed.load_balancer.attributes.insert(GOOGLE_CLOUD.to_owned(), state);
    observed
}

/// Adds what is known of the objects to the observation of the Services. Returns what differs from
/// the desired state, in words.
fn add_state(
    observed: &mut Observed,
    names: Names<'_>,
    State { found, ports_error, .. }: &State,
    nodes: &Result<Nodes, Error>,
) -> Vec<String> {
    let ip = found.serving().map(IpAddr::V4);
    let attributes = &mut observed.load_balancer.attributes;
    if attributes.get(attribute::STATUS).map(String::as_str) == Some(&status::text(ip)) {
        attributes.remove(attribute::STATUS);
    }
    // It is known before the load balancer accepts traffic.
    observed.addresses = found.ip().map(|ip| Address::Ip(ip.into())).into_iter().collect();
    let obstacle = nodes.as_ref().ok().and_then(|nodes| obstacles::to_service(names, nodes, found));
    if ip.is_none() {
        let why = obstacle.as_ref().map(|error| format!("{error:#}"));
        observed.not_ready = Some(why.unwrap_or_else(|| CREATING.to_owned()));
    }
    for key in observed.load_balancer.listeners.keys() {
        let unserved = unserved(names, found, *key, ports_error.as_ref());
        let no_nodes = || obstacles::no_nodes(names.settings, nodes.as_ref().ok()?);
        let unserved = unserved.or_else(|| Some(Unserved::Refused(no_nodes()?.to_string())));
        observed.unserved.extend(unserved.map(|unserved| (*key, unserved)));
    }
    let open = front_ports(&observed.load_balancer);
    let mut differs = Vec::new();
    match nodes {
        Ok(nodes) => {
            let wanted = wanted(names, nodes.clone(), found.ip(), &open);
            if found.firewalls_denied.is_some() && !plan::firewalls(&wanted, found).is_empty() {
                differs.push("firewall rules are not managed".to_owned());
            }
            differs.extend(plan::next(&wanted, found, &BTreeSet::new()).iter().map(ToString::to_string));
        }
        Err(error) => differs.push(error.to_string()),
    }
    differs.extend(obstacle.map(|error| format!("{error:#}")));
    differs
}

/// Why clients do not reach a listener that its Service has, as far as firewall rules decide;
/// `None`: they do. `error` is why the rule that allows ports could not be changed.
pub(super) fn unserved(names: Names<'_>, found: &Found, key: ListenerKey, error: Option<&Error>) -> Option<Unserved> {
    if found.admits(names.settings, key.front_ports()) {
        return None;
    }
    Some(if !is_in_range(names.settings, key) {
        Unserved::Refused(OUT_OF_RANGE.to_owned())
    } else if found.firewalls_denied.is_some() {
        Unserved::Refused(format!(
            "the controller may not write the firewall rules in project {}, and those that are there do not allow the \
             port: ask the admin, who finds the commands in the status of the class",
            names.settings.network.project
        ))
    } else if found.foreign.contains(&Object::Firewall(Rule::Allow)) {
        Unserved::Refused("the firewall rule that would allow the port is foreign: ask the admin".to_owned())
    } else {
        match error {
            Some(error) if error.is_refusal() => Unserved::Refused(format!("{error:#}")),
            Some(error) => Unserved::Pending(format!("{error:#}")),
            None => Unserved::Pending("Google Cloud does not allow it yet by the firewall".to_owned()),
        }
    })
}

/// Whether the class allows a listener, if its firewall rule has fixed ports.
pub(super) fn is_in_range(settings: &Settings, key: ListenerKey) -> bool {
    match &settings.firewall.manage {
        Managed::Range(ranges) => ports::are_in(ranges, key.front_ports()),
        Managed::Ports | Managed::None => true,
    }
}

/// The front ports of all listeners.
pub(super) fn front_ports(load_balancer: &LoadBalancer) -> BTreeSet<FrontPort> {
    load_balancer.listeners.keys().flat_map(|key| key.front_ports()).collect()
}

/// The error of firewall rules that may not be written, with the commands by which an admin of the
/// network writes them; `None`: they may be, or are as desired.
pub(super) fn unmanaged(names: Names<'_>, wanted: &Wanted, found: &Found) -> Option<Error> {
    let denied = found.firewalls_denied.as_ref()?;
    let project = &names.settings.network.project;
    let mut steps = plan::firewalls(wanted, found);
    // The message may be cut: what denies matters least while the network denies by itself.
    steps.sort_by_key(|step| step.object == Object::Firewall(Rule::Deny));
    let commands: Vec<String> = steps.iter().filter_map(|step| command(names, step, wanted)).collect();
    let message = format!(
        "the firewall rules in project {project} are not managed, since {denied}; or run what follows, again whenever \
         ports change (the log of the controller has it in full): {}",
        commands.join(" && ")
    );
    (!commands.is_empty()).then(|| Error::Refused(message.into()))
}

/// The error of firewall rules that were left when a load balancer was deleted.
pub(super) fn rules_left(names: Names<'_>, denied: &Error) -> Error {
    let project = &names.settings.network.project;
    let rules = Rule::ALL.map(|rule| names.of(&Object::Firewall(rule))).join(" ");
    Error::Refused(
        format!(
            "its firewall rules in project {project} may be left, since {denied}; or delete them (gcloud compute \
             firewall-rules delete {rules} --project={project}) and set provider.gcp.firewall.manage to None"
        )
        .into(),
    )
}

/// The command of gcloud for a step.
fn command(names: Names<'_>, Step { object, action }: &Step, wanted: &Wanted) -> Option<String> {
    let Object::Firewall(rule) = object else { return None };
    let name = names.of(object);
    let project = &names.settings.network.project;
    let verb = match action {
        Action::Insert(_) => "create",
        Action::Delete => return Some(format!("gcloud compute firewall-rules delete {name} --project={project}")),
        _ => "update",
    };
    let rule = wanted.firewalls.get(rule)?;
    let (direction, entries) = match (&rule.allowed, &rule.denied) {
        (Some(allowed), _) => ("ALLOW", allowed),
        (None, denied) => ("DENY", denied.as_ref()?),
    };
    let fixed = match action {
        Action::Insert(_) => {
            format!(" --network={} --direction=INGRESS --action={direction}", last_part(&rule.network))
        }
        // They cannot be changed.
        _ => String::new(),
    };
    let of_entry = |Ports { ip_protocol, ports }: &Ports| match ports {
        Some(ports) => ports.iter().map(|range| format!("{ip_protocol}:{range}")).collect(),
        None => vec![ip_protocol.clone()],
    };
    let rules: Vec<String> = entries.iter().flat_map(of_entry).collect();
    let lists = [
        ("rules", rules),
        ("source-ranges", rule.source_ranges.clone()),
        ("destination-ranges", rule.destination_ranges.clone()),
        ("target-tags", rule.target_tags.clone()),
        ("target-service-accounts", rule.target_service_accounts.clone()),
    ];
    let lists: String = lists
        .iter()
        .filter(|(_, values)| !values.is_empty())
        .map(|(flag, values)| format!(" --{flag}={}", values.join(",")))
        .collect();
    // By it, the rule is SharedLB's.
    let description = names.description().replace('\'', r"'\''");
    Some(format!(
        "gcloud compute firewall-rules {verb} {name} --project={project}{fixed} --priority={}{lists} \
         --description='{description}'",
        rule.priority
    ))
}
