//! What keeps a load balancer from serving, and no call to Google Cloud mends. Pure.

use super::found::Found;
use super::nodes::Nodes;
use super::objects::{Names, Object, same_object};
use super::settings::Settings;
use crate::Error;

/// Why a load balancer cannot be created: an object has the name of one of SharedLB's, or its
/// reserved address cannot be used. `None`: nothing is known against it.
pub(super) fn to_creation(names: Names<'_>, found: &Found) -> Option<Error> {
    foreign(names, found).or_else(|| reserved_address(names, found))
}

/// Why a load balancer does not serve as its class has it, although no call is left to make.
pub(super) fn to_service(names: Names<'_>, nodes: &Nodes, found: &Found) -> Option<Error> {
    to_creation(names, found).or_else(|| no_nodes(names.settings, nodes)).or_else(|| found.attaching.error())
}

/// The error of foreign objects.
fn foreign(names: Names<'_>, found: &Found) -> Option<Error> {
    let object = found.foreign.first()?;
    let message = format!(
        "the {object} {} exists and is not ours (its description does not say so): delete it",
        names.of(object)
    );
    Some(Error::Refused(message.into()))
}

/// The error of an address of the class that does not exist, or that another load balancer uses.
fn reserved_address(names: Names<'_>, found: &Found) -> Option<Error> {
    let name = names.address?;
    let Settings { project, region, scheme, .. } = names.settings;
    let Some(address) = &found.address else {
        let message = format!(
            "project {project} has no address {name} in region {region}, which provider.gcp.addressNames has: reserve it"
        );
        return Some(Error::Refused(message.into()));
    };
    if address.address_type.as_deref().is_some_and(|found| found != scheme.as_str()) {
        let found = address.address_type.as_deref().unwrap_or_default();
        let message = format!(
            "the address {name}, which provider.gcp.addressNames has, is {found}, and the load balancers of the class \
             are {}: name another address",
            scheme.as_str()
        );
        return Some(Error::Refused(message.into()));
    }
    let ours = names.path(&Object::ForwardingRule);
    let user = address.users.iter().find(|user| !same_object(user, &ours))?;
    let message = format!(
        "the address {name}, which provider.gcp.addressNames has, is in use by {user}: release it there, or name another \
         address"
    );
    Some(Error::Refused(message.into()))
}

/// The error of a cluster without a node that can be a backend.
pub(super) fn no_nodes(Settings { project, region, .. }: &Settings, nodes: &Nodes) -> Option<Error> {
    let message = || {
        format!(
            "no node of the cluster is an instance in region {region} of project {project}, by its spec.providerID \
             (gce://{project}/ZONE/INSTANCE): no traffic gets into the cluster"
        )
    };
    nodes.is_empty().then(|| Error::Refused(message().into()))
}
