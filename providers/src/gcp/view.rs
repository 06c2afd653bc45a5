//! What is observed of a load balancer: its Services and its objects in Google Cloud. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::nodes::Nodes;
use super::objects::{Firewall, Names, Ports, last_part};
use super::plan;
use super::wanted::{Wanted, wanted};
use super::work::Known;
use crate::model::{Address, Attributes, FrontPort, IpFamily, LoadBalancer, Observed, Unserved};
use crate::service::front::attribute;
use crate::service::status;
use crate::{Details, Error};

/// The attribute of everything in Google Cloud.
const GOOGLE_CLOUD: &str = "googleCloud";
/// Its desired value.
const AS_CONFIGURED: &str = "as configured";

/// The desired attributes, from those of its Services.
pub(super) fn attributes(mut front: Attributes) -> Attributes {
    front.remove(attribute::STATUS);
    front.insert(GOOGLE_CLOUD.to_owned(), AS_CONFIGURED.to_owned());
    front
}

/// A load balancer as its Services have it, with this address.
pub(super) fn for_front(load_balancer: &LoadBalancer, ip: IpAddr) -> LoadBalancer {
    let mut load_balancer = load_balancer.clone();
    load_balancer.attributes.remove(GOOGLE_CLOUD);
    load_balancer.attributes.insert(attribute::STATUS.to_owned(), status::text([ip]));
    load_balancer
}

/// The observation of a load balancer with these Services (`None`: they do not exist) and objects.
pub(super) fn observed(names: Names<'_>, front: Option<Observed>, known: &Known, nodes: Nodes) -> Observed {
    let mut observed = front.unwrap_or_default();
    let found = &known.found;
    let ip = found.serving().map(IpAddr::V4);
    let attributes = &mut observed.load_balancer.attributes;
    if attributes.get(attribute::STATUS).map(String::as_str) == Some(&status::text(ip)) {
        attributes.remove(attribute::STATUS);
    }
    let open = front_ports(&observed.load_balancer);
    let left = plan::next(&wanted(names, nodes, found.ip(), &open), found);
    let state = match left.as_slice() {
        [] if found.firewalls_denied.is_some() => "firewall rules are not managed".to_owned(),
        [] => AS_CONFIGURED.to_owned(),
        left => left.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
    };
    observed.load_balancer.attributes.insert(GOOGLE_CLOUD.to_owned(), state);
    // It is known before the load balancer accepts traffic.
    observed.addresses = found.ip().map(|ip| Address::Ip(ip.into())).into_iter().collect();
    observed.families = [IpFamily::V4].into();
    if found.firewalls_denied.is_some() {
        let why = format!(
            "the controller may not write the firewall rules in project {}, so it is not known whether clients reach \
             the port: ask the admin, who finds the commands in the status of the class",
            names.settings.network.project
        );
        let open = observed.load_balancer.listeners.keys();
        observed.unserved.extend(open.map(|key| (*key, Unserved::Refused(why.clone()))));
    }
    observed.not_ready = ip.is_none().then(|| "Google Cloud creates the load balancer".to_owned());
    observed
}

/// The front ports of all listeners.
pub(super) fn front_ports(load_balancer: &LoadBalancer) -> BTreeSet<FrontPort> {
    load_balancer.listeners.keys().flat_map(|key| key.front_ports()).collect()
}

/// The error of firewall rules that may not be written, with the commands by which an admin of the
/// network writes them.
pub(super) fn unmanaged(names: Names<'_>, wanted: &Wanted, denied: &Error) -> Error {
    let network = &names.settings.network;
    let commands: Vec<String> = wanted.firewalls.values().map(|rule| command(&network.project, rule)).collect();
    let message = format!(
        "the firewall rules in project {} are not managed, since a permission is missing: grant it, or set \
         provider.gcp.firewall.manage to None and run: {}",
        network.project,
        commands.join(" && ")
    );
    Error::Refused(Details::new(message).caused_by(denied.clone()))
}

/// The command of gcloud that creates a firewall rule.
fn command(project: &str, rule: &Firewall) -> String {
    let (action, entries) = match (&rule.allowed, &rule.denied) {
        (Some(allowed), _) => ("ALLOW", allowed),
        (None, denied) => ("DENY", denied.as_ref().unwrap_or(const { &Vec::new() })),
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
    format!(
        "gcloud compute firewall-rules create {} --project={project} --network={} --direction=INGRESS --action={action} \
         --priority={}{lists}",
        rule.name,
        last_part(&rule.network),
        rule.priority
    )
}
