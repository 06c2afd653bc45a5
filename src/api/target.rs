//! The target of a claim: a Service and its ports.

use std::fmt;
use std::num::NonZeroU16;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use sharedlb_crds::{SharedLBPort, SharedLBSpec, TargetKind};

use crate::allocation::HeldSlot;
use crate::api::companion_name::{self, CompanionPort};
use crate::kubernetes::{ObjectKey, ObjectMeta};

/// The target of a claim.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub claim: ObjectKey,
    /// The Service whose endpoints are its backends: the one that it names, or its companion
    /// Service. `None`: its spec can't be parsed
    pub service: Option<ObjectKey>,
    /// Its companion Service; where traffic goes to nodes, each claim has one
    companion: ObjectKey,
    /// The port of the Service that it names for each port of the claim, by name;
    /// `None`: it names none
    ports: Box<[(Arc<str>, Option<PortRef>)]>,
}

impl Target {
    /// The target of the claim with this spec.
    pub(crate) fn of(meta: &ObjectMeta, spec: Option<&SharedLBSpec>) -> Self {
        let service = spec.map(|spec| match &spec.service_name {
            Some(name) => ObjectKey { namespace: meta.key.namespace.clone(), name: name.as_str().into() },
            None => companion_name::key(meta),
        });
        let port = |port: &SharedLBPort, has_companion: bool| -> Option<(Arc<str>, Option<PortRef>)> {
            let to = match port.target()? {
                IntOrString::Int(number) => PortRef::Number(number),
                IntOrString::String(name) => PortRef::Name(name.into()),
            };
            Some((port.name.as_str().into(), (!has_companion).then_some(to)))
        };
        let ports = spec.into_iter().flat_map(|spec| {
            let has_companion = spec.service_name.is_none();
            spec.ports.iter().filter_map(move |each| port(each, has_companion))
        });
        Self { claim: meta.key.clone(), service, companion: companion_name::key(meta), ports: ports.collect() }
    }

    /// The Service through which traffic gets to its pods. `None`: its spec can't be parsed
    pub(crate) fn through(&self, targets: TargetKind) -> Option<&ObjectKey> {
        let service = self.service.as_ref()?;
        Some(if targets == TargetKind::Node { &self.companion } else { service })
    }

    /// That Service, and its port for this slot of the claim.
    pub(crate) fn port_through(&self, slot: &HeldSlot, targets: TargetKind) -> Option<(&ObjectKey, PortRef)> {
        let to = match targets {
            TargetKind::Node => self.companion_port(&slot.name, slot.key.port)?,
            TargetKind::Pod => self.of_port(&slot.name, Some(slot.key.port))?.1,
        };
        Some((self.through(targets)?, to))
    }

    /// The Service that finds its pods, and its port for the port of the claim with this name
    /// and number. A companion Service has ports only for numbers.
    pub(crate) fn of_port(&self, name: &str, number: Option<NonZeroU16>) -> Option<(&ObjectKey, PortRef)> {
        let to = self.of_service(name).cloned();
        Some((self.service.as_ref()?, to.or_else(|| self.companion_port(name, number?))?))
    }

    /// The port of the Service that the claim names for this port of the claim.
    pub(crate) fn of_service(&self, name: &str) -> Option<&PortRef> {
        self.ports.iter().find(|(port, _)| **port == *name)?.1.as_ref()
    }

    fn companion_port(&self, name: &str, number: NonZeroU16) -> Option<PortRef> {
        let (name, _) = self.ports.iter().find(|(port, _)| **port == *name)?;
        Some(PortRef::Companion(CompanionPort { number, name: name.clone() }))
    }
}

/// A reference to a port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PortRef {
    /// The port with this number
    Number(i32),
    /// The port with this name
    Name(Arc<str>),
    /// The port of a companion Service for this port of its claim
    Companion(CompanionPort),
}

impl fmt::Display for PortRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Name(name) => name.fmt(f),
            Self::Companion(port) => port.name.fmt(f),
        }
    }
}
