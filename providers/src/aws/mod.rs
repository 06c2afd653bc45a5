//! The `aws` provider: Network Load Balancers.
//!
//! A load balancer of a class is one NLB. Each front port is a listener with a
//! target group of its own, and its backends are that group's targets: pods by
//! their addresses, or nodes by their instance ids.
//!
//! Everything that is made carries our tags from the call that makes it; what
//! does not carry them is a stranger's. What was seen and done is remembered, so
//! that a change costs no reads. All calls of a region share one `budget`.

mod apply;
mod budget;
mod clients;
mod config;
mod failure;
#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod golden_tests;
mod known;
pub mod limits;
mod look;
mod names;
mod port;
mod settings;
mod view;
mod whole;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

pub use self::budget::{Rate, Rates};
use self::clients::Region;
pub use self::clients::{Clients, Gate};
use self::known::Known;
use self::limits::Limits;
use self::look::Look;
use self::names::Target;
pub use self::settings::{HealthCheck, IpAddressType, Scheme, Settings, SubnetMapping, TargetKind};
use crate::model::{Attributes, Backend, Capabilities, LbName, Observed};
use crate::{Applied, ChangeSet, Error, Provider};

/// How long changes of backends are coalesced, to go out as one call to register
/// and one to deregister: a rollout replaces its pods one after another, and
/// those calls are refilled at 4 a second for all load balancers together.
const COALESCE: Duration = Duration::from_secs(1);

/// The provider of a class.
pub struct Aws {
    settings: Settings,
    region: Arc<Region>,
    known: Mutex<BTreeMap<LbName, Known>>,
}

impl Aws {
    /// A provider that shares client and budget with all others of its region.
    /// Nothing is called before the first look.
    #[must_use]
    pub fn new(settings: Settings, clients: &Clients) -> Self {
        let region = clients.region(&settings.region);
        Self { settings, region, known: Mutex::default() }
    }

    /// Targets that surely fit on a load balancer that nobody has looked at yet.
    fn targets_unseen(&self) -> u32 {
        match &self.settings.load_balancer_arn {
            // Its zones, and whether each reaches all targets, are not known.
            Some(_) => limits::TARGETS_CROSS_ZONE,
            None => Limits::default().targets_of(self.settings.subnet_mappings.len(), self.settings.cross_zone),
        }
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<LbName, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look<'a>(&'a self, name: &'a LbName) -> Look<'a> {
        Look { region: &self.region, settings: &self.settings, name, place: self.region.next_look() }
    }

    /// What there is now.
    async fn see(&self, name: &LbName) -> Result<Known, Error> {
        let before = self.known().remove(name);
        let past = before.as_ref().map(|known| known.past.clone()).unwrap_or_default();
        if let Some(known) = self.without_a_look(name, before).await? {
            return Ok(known);
        }
        match self.look(name).all().await {
            Ok(known) => Ok(known.after(past)),
            Err(error) => {
                self.known().insert(name.clone(), Known { past, ..Known::default() });
                Err(error)
            }
        }
    }

    /// What is known, if that is enough: right after what failed; and while AWS sets
    /// the load balancer up, when nobody but us has had reason to touch it, and
    /// whether it is ready is all that is asked.
    async fn without_a_look(&self, name: &LbName, known: Option<Known>) -> Result<Option<Known>, Error> {
        let Some(mut known) = known.filter(|known| known.looked.is_some()) else { return Ok(None) };
        if std::mem::take(&mut known.stands) {
            return Ok(Some(known));
        }
        let Some(nlb) = known.nlb.as_mut().filter(|nlb| nlb.not_ready.is_some()) else { return Ok(None) };
        match self.look(name).readiness().await? {
            Some(Some(why)) => {
                nlb.not_ready = Some(why);
                Ok(Some(known))
            }
            _ => Ok(None),
        }
    }
}

#[async_trait]
impl Provider for Aws {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            // A port number has one listener, whatever it accepts.
            tcp_and_udp_share_a_number: false,
            node_targets: true,
            default_targets: Some(self.targets_unseen()),
            max_targets_per_listener: Some(limits::TARGETS_PER_GROUP),
            coalesce: COALESCE,
            ..Capabilities::new(limits::LISTENERS)
        }
    }

    fn attributes(&self, _: u32) -> Attributes {
        config::wanted(&self.settings)
    }

    fn as_observed(&self, backend: Backend) -> Option<Backend> {
        Target::of(&self.settings, &backend).map(|target| target.backend())
    }

    fn object(&self, name: &LbName) -> String {
        match &self.settings.load_balancer_arn {
            Some(arn) => format!("load balancer {arn}"),
            None => format!("load balancer {name} in region {}", self.region.name),
        }
    }

    async fn observe(&self, name: &LbName) -> Result<Option<Observed>, Error> {
        let known = self.see(name).await?;
        let observed = view::observed(&known, &self.settings, name);
        self.known().insert(name.clone(), known);
        Ok(observed)
    }

    async fn apply(&self, name: &LbName, set: ChangeSet<'_>) -> Result<Applied, Error> {
        self.carry_out(name, set).await
    }

    async fn delete(&self, name: &LbName) -> Result<(), Error> {
        self.remove(name).await
    }
}
