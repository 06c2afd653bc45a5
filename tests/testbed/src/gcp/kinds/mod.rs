//! What Compute Engine accepts of each kind of object, beyond the form of its fields.
//!
//! *Field X* in a comment is that field's description in the discovery document.

mod addresses;
mod backend_services;
mod firewalls;
mod forwarding_rules;
pub(super) mod groups;
mod health_checks;
pub(super) mod quotas;

use super::path::{Kind, ObjectPath};
use super::refusal::Refusal;
use super::state::{Fields, State};

/// The object that a body makes, with defaults and full URLs.
pub(super) fn create(state: &State, kind: Kind, path: &ObjectPath, body: Fields) -> Result<Fields, Refusal> {
    match kind {
        Kind::Address => addresses::create(state, body),
        Kind::HealthCheck => health_checks::complete(body),
        Kind::EndpointGroup => groups::create(state, path, body),
        Kind::BackendService => backend_services::complete(state, path, body),
        Kind::ForwardingRule => forwarding_rules::create(state, path, body),
        Kind::Firewall => firewalls::complete(state, body),
    }
}

/// The object that a change makes of the one that is there. `body` is the call's, and
/// `wanted` the whole that it leads to.
pub(super) fn change(
    state: &State,
    kind: Kind,
    path: &ObjectPath,
    before: &Fields,
    body: &Fields,
    wanted: Fields,
) -> Result<Fields, Refusal> {
    match kind {
        Kind::HealthCheck => health_checks::complete(wanted),
        Kind::BackendService => {
            backend_services::check_change(before, body)?;
            backend_services::complete(state, path, wanted)
        }
        Kind::ForwardingRule => {
            forwarding_rules::check_change(before, body)?;
            Ok(wanted)
        }
        Kind::Firewall => {
            firewalls::check_change(before, &wanted)?;
            firewalls::complete(state, wanted)
        }
        Kind::Address | Kind::EndpointGroup => Err(Refusal::not_implemented("changes of it")),
    }
}

/// <https://cloud.google.com/compute/docs/labeling-resources#restrictions>
pub(super) fn check_label(key: &str, value: &str) -> Result<(), Refusal> {
    let is_allowed = |text: &str| {
        text.chars().all(|c| c.is_lowercase() || c.is_numeric() || c == '-' || c == '_') && text.len() <= 63
    };
    let begins_well = key.chars().next().is_some_and(char::is_lowercase);
    if begins_well && is_allowed(key) && is_allowed(value) {
        return Ok(());
    }
    Err(Refusal::invalid("resource.labels", &format!("{key}={value}"), "It is not a label."))
}
