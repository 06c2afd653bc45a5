//! The `aws` provider: Network Load Balancers.
//!
//! A load balancer of a class is one NLB. Each front port is a listener with a
//! target group of its own, and its backends are that group's targets: pods by
//! their addresses, or nodes by their instance ids.
//!
//! Every object has our tags from the call that creates it; objects without them are
//! foreign. Observations and changes are cached, so that a change costs no reads. All calls
//! of a region share one `budget`.

mod apply;
mod clients;
mod config;
mod failure;
#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod golden_tests;
mod known;
mod limits;
mod names;
mod observe;
mod port;
mod rates;
mod settings;
mod view;
mod whole;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::{Mutex, MutexGuard};

pub use self::clients::Clients;
use self::clients::Region;
use self::known::Known;
use self::limits::Limits;
use self::names::Target;
use self::observe::Observation;
pub use self::rates::Rates;
pub use self::settings::{HealthCheck, IpAddressType, Scheme, Settings, SubnetMapping, TargetKind};
use crate::model::{AffinitySupport, Attributes, Backend, Capabilities, LbName, Observed};
use crate::{Applied, ChangeSet, Error, Provider};

/// How long changes of backends are coalesced into one call to register and one to
/// deregister: a rollout replaces its pods one after another, and all load balancers
/// together have 4 of these calls a second.
const COALESCE: Duration = Duration::from_secs(1);

/// The provider of a class.
pub struct Aws {
    settings: Settings,
    region: Arc<Region>,
    known: Mutex<BTreeMap<LbName, Known>>,
}

impl Aws {
    /// A provider that shares client and budget with all others of its region. It makes no
    /// call before the first observation.
    #[must_use]
    pub fn new(settings: Settings, clients: &Clients) -> Self {
        let region = clients.region(&settings.region);
        Self { settings, region, known: Mutex::default() }
    }

    /// The targets that certainly fit on a load balancer that was not observed yet.
    fn targets_unseen(&self) -> u32 {
        match &self.settings.load_balancer_arn {
            // Its zones, and whether each reaches all targets, are not known.
            Some(_) => limits::TARGETS_CROSS_ZONE,
            None => Limits::default().targets_of(self.settings.subnet_mappings.len(), self.settings.cross_zone),
        }
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<LbName, Known>> {
        self.known.lock()
    }

    fn observation<'a>(&'a self, name: &'a LbName) -> Observation<'a> {
        Observation { region: &self.region, settings: &self.settings, name, place: self.region.next_observation() }
    }

    /// The current state.
    async fn observe_known(&self, name: &LbName) -> Result<Known, Error> {
        let before = self.known().remove(name);
        let past = before.as_ref().map(|known| known.past.clone()).unwrap_or_default();
        if let Some(known) = self.without_observation(name, before).await? {
            return Ok(known);
        }
        match self.observation(name).all().await {
            Ok(known) => Ok(known.after(past)),
            Err(error) => {
                self.known().insert(name.clone(), Known { past, ..Known::default() });
                Err(error)
            }
        }
    }

    /// The cached state, if that is enough: right after a failure; and while AWS provisions
    /// the load balancer, when only its readiness has to be read.
    async fn without_observation(&self, name: &LbName, known: Option<Known>) -> Result<Option<Known>, Error> {
        let Some(mut known) = known.filter(|known| known.observed_at.is_some()) else { return Ok(None) };
        if std::mem::take(&mut known.stands) {
            return Ok(Some(known));
        }
        let Some(nlb) = known.nlb.as_mut().filter(|nlb| nlb.not_ready.is_some()) else { return Ok(None) };
        match self.observation(name).readiness().await? {
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
            session_affinity: match self.settings.target_kind {
                // By `stickiness` of target groups, which has no timeout (API reference,
                // TargetGroupAttribute). All protocols have it but TLS (NLB user guide, "Edit
                // target group attributes").
                TargetKind::Pod => AffinitySupport::FixedTimeout,
                // On the node, kube-proxy sends each connection to any pod.
                TargetKind::Node => AffinitySupport::None,
            },
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
        let known = self.observe_known(name).await?;
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
