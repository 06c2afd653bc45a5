//! Brings the objects of a load balancer to their desired state.
//!
//! Changes of Compute Engine are operations that take seconds to minutes. One that is not complete
//! when a call of the provider has to return stays in the load balancer's [`Known`], and the next
//! call goes on with it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::join_all;
use tokio::time::Instant;
use tracing::info;

use super::cloud::{Cloud, Started};
use super::found::Found;
use super::objects::{Object, Quota, Rule};
use super::plan::{Action, Step};
use super::settings::Scheme;
use crate::Error;

/// How long the objects count as known for one observation, which then takes no calls: that after
/// an apply which has to go on, or after a change of nodes.
const TRUSTED_FOR: Duration = Duration::from_secs(5);

/// The known state of a load balancer.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    pub(super) found: Found,
    /// The paths of operations that go on, by their object
    pub(super) pending: BTreeMap<Object, String>,
    /// Whether a call failed after which the objects may be others
    doubtful: bool,
    /// Until when the next observation need not read it again
    trusted_until: Option<Instant>,
}

impl Known {
    /// State that was just read, while these operations go on.
    pub(super) fn new(found: Found, pending: BTreeMap<Object, String>) -> Self {
        Self { found, pending, ..Self::default() }
    }

    /// The state of a load balancer that was not read yet.
    pub(super) fn unknown() -> Self {
        Self { doubtful: true, ..Self::default() }
    }

    /// Has the next observation take it as it is.
    pub(super) fn trust(&mut self) {
        self.trusted_until = Some(Instant::now() + TRUSTED_FOR);
    }

    /// Whether changes can be made without reading it again.
    pub(super) fn is_certain(&self) -> bool {
        !self.doubtful
    }

    /// Whether this observation need not read it again.
    pub(super) fn take_trust(&mut self) -> bool {
        let until = self.trusted_until.take();
        !self.doubtful && until.is_some_and(|until| Instant::now() < until)
    }
}

/// What is brought to the desired state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Everything but the rule that allows ports
    Base,
    /// The rule that allows ports
    Ports,
    /// Everything
    All,
}

impl Part {
    fn has(self, object: &Object) -> bool {
        let is_ports = *object == Object::Firewall(Rule::Allow);
        match self {
            Self::Base => !is_ports,
            Self::Ports => is_ports,
            Self::All => true,
        }
    }
}

impl Cloud<'_> {
    /// Carries steps out until there are none left, or the deadline is over. `steps` are those
    /// that can be made with what was found.
    ///
    /// # Errors
    /// [`Error::NotReady`] while operations go on, and the error of the first call that failed
    /// (the others were made all the same).
    pub(super) async fn work(
        &self,
        known: &mut Known,
        part: Part,
        deadline: Instant,
        steps: impl Fn(&Found) -> Vec<Step>,
    ) -> Result<(), Error> {
        let worked = self.work_until(known, part, deadline, steps).await;
        known.doubtful |= worked.as_ref().is_err_and(|error| !matches!(error, Error::NotReady(_)));
        worked
    }

    async fn work_until(
        &self,
        known: &mut Known,
        part: Part,
        deadline: Instant,
        steps: impl Fn(&Found) -> Vec<Step>,
    ) -> Result<(), Error> {
        let mut before = Vec::new();
        loop {
            self.settle(known, part, deadline).await?;
            if let Some((object, _)) = known.pending.iter().find(|(object, _)| part.has(object)) {
                let message = format!("Google Cloud still works on the {object} {}", self.names.of(object));
                return Err(Error::NotReady(message.into()));
            }
            let steps: Vec<Step> = steps(&known.found).into_iter().filter(|step| part.has(&step.object)).collect();
            if steps.is_empty() {
                return Ok(());
            }
            // Made again, they would change as little: an earlier process may have started them.
            if Instant::now() >= deadline || steps == before {
                return Err(Error::NotReady(format!("{}: it is changed next", steps[0]).into()));
            }
            self.check_quotas(&steps).await?;
            self.start_all(known, &steps).await?;
            before = steps;
        }
    }

    /// Makes the calls of these steps side by side.
    async fn start_all(&self, known: &mut Known, steps: &[Step]) -> Result<(), Error> {
        let started = join_all(steps.iter().map(|step| self.start(step))).await;
        let mut failed = None;
        let mut done = Vec::new();
        for (step, started) in steps.iter().zip(started) {
            info!(load_balancer = %self.names.name, %step, "calling Google Cloud");
            match started {
                Ok(Started::Operation(path)) => _ = known.pending.insert(step.object.clone(), path),
                Ok(Started::Done) => done.push(step.object.clone()),
                // The network may be another team's. Everything else goes on without its rules.
                Ok(Started::Denied(error)) if step.object.is_firewall() => known.found.firewalls_denied = Some(error),
                Ok(Started::Denied(error)) | Err(error) => _ = failed.get_or_insert(error),
            }
        }
        self.refresh(&mut known.found, done).await?;
        failed.map_or(Ok(()), Err)
    }

    /// Waits for the operations that go on, until the deadline, and reads the objects of those
    /// that are complete.
    async fn settle(&self, known: &mut Known, part: Part, deadline: Instant) -> Result<(), Error> {
        let pending: Vec<(Object, String)> =
            known.pending.iter().filter(|(object, _)| part.has(object)).map(|(k, v)| (k.clone(), v.clone())).collect();
        let within = deadline.saturating_duration_since(Instant::now());
        let waited = join_all(pending.iter().map(|(object, operation)| self.wait(object, operation, within))).await;
        let mut failed = None;
        let mut done = Vec::new();
        for ((object, _), waited) in pending.into_iter().zip(waited) {
            match waited {
                Ok(Started::Operation(_)) => continue,
                Ok(Started::Done) => {}
                Ok(Started::Denied(error)) | Err(error) => _ = failed.get_or_insert(error),
            }
            known.pending.remove(&object);
            done.push(object);
        }
        self.refresh(&mut known.found, done).await?;
        failed.map_or(Ok(()), Err)
    }

    /// An error if a quota is used up that one of these steps needs: an operation would fail only
    /// later, and would not name it.
    async fn check_quotas(&self, steps: &[Step]) -> Result<(), Error> {
        let scheme = self.names.settings.scheme;
        let inserts = steps.iter().filter(|step| matches!(step.action, Action::Insert(_)));
        let metrics: BTreeSet<&str> = inserts.filter_map(|step| metric(&step.object, scheme)).collect();
        if metrics.is_empty() {
            return Ok(());
        }
        let region = self.region().await?;
        let is_used_up = |quota: &&Quota| metrics.contains(quota.metric.as_str()) && quota.usage >= quota.limit;
        let Some(Quota { metric, limit, .. }) = region.quotas.iter().find(is_used_up) else { return Ok(()) };
        let settings = self.names.settings;
        let message = format!(
            "the quota {metric} of project {} in {} is used up ({limit}): delete what is not needed, or have the quota \
             raised",
            settings.project, settings.region
        );
        Err(Error::Exhausted(message.into()))
    }
}

/// The quota of a region that an object counts towards. (Enumeration `metric` of the schema `Quota`
/// in the API's discovery document.)
fn metric(object: &Object, scheme: Scheme) -> Option<&'static str> {
    let external = scheme == Scheme::External;
    match object {
        Object::Address if external => Some("STATIC_ADDRESSES"),
        Object::Address => Some("INTERNAL_ADDRESSES"),
        Object::HealthCheck => Some("HEALTH_CHECKS"),
        Object::Group(_) => Some("NETWORK_ENDPOINT_GROUPS"),
        Object::BackendService if external => Some("REGIONAL_EXTERNAL_NETWORK_LB_BACKEND_SERVICES"),
        Object::BackendService => Some("REGIONAL_INTERNAL_LB_BACKEND_SERVICES"),
        Object::ForwardingRule if external => Some("EXTERNAL_NETWORK_LB_FORWARDING_RULES"),
        Object::ForwardingRule => None,
        Object::Firewall(_) => None,
    }
}
