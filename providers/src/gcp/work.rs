//! Brings the objects of a load balancer to their desired state.
//!
//! Changes of Compute Engine are operations that take seconds to minutes. One that is not complete
//! when a call of the provider has to return stays in the load balancer's [`State`], and the next
//! call goes on with it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::join_all;
use tokio::time::{Instant, timeout_at};
use tracing::info;

use super::cloud::{Cloud, Started};
use super::found::Found;
use super::known::{Pending, State};
use super::objects::{Object, Rule};
use super::plan::{Action, Step};
use crate::Error;

/// How long after the deadline the answers to calls that were made before it are waited for.
pub(super) const ANSWERS_FOR: Duration = Duration::from_secs(1);

/// What is brought to the desired state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// Everything but the rule that allows ports
    Base,
    /// The rule that allows ports
    Ports,
    /// Everything
    All,
}

impl Scope {
    fn has(self, object: &Object) -> bool {
        let is_ports = *object == Object::Firewall(Rule::Allow);
        match self {
            Self::Base => !is_ports,
            Self::Ports => is_ports,
            Self::All => true,
        }
    }
}

/// The objects whose calls failed in one work. Nothing else waits for them.
#[derive(Debug, Default)]
struct Failures {
    objects: BTreeSet<Object>,
    first: Option<Error>,
}

impl Failures {
    fn note(&mut self, object: &Object, error: Error) {
        self.objects.insert(object.clone());
        self.first.get_or_insert(error);
    }

    /// The first failure, or else this result.
    fn or(self, result: Result<(), Error>) -> Result<(), Error> {
        self.first.map_or(result, Err)
    }
}

impl Cloud<'_> {
    /// Carries steps out until there are none left, or the deadline is over. `steps` are those
    /// that can be made with what was found, while the calls for some objects have failed.
    ///
    /// # Errors
    /// [`Error::NotReady`] while operations go on, and the error of the first call that failed
    /// (the others were made all the same).
    pub(super) async fn work(
        &self,
        state: &mut State,
        scope: Scope,
        deadline: Instant,
        steps: impl Fn(&Found, &BTreeSet<Object>) -> Vec<Step>,
    ) -> Result<(), Error> {
        let worked = match timeout_at(deadline + ANSWERS_FOR, self.work_until(state, scope, deadline, steps)).await {
            Ok(worked) => worked,
            Err(_) => Err(late()),
        };
        state.doubtful |= worked.as_ref().is_err_and(|error| !matches!(error, Error::NotReady(_)));
        worked
    }

    async fn work_until(
        &self,
        state: &mut State,
        scope: Scope,
        deadline: Instant,
        steps: impl Fn(&Found, &BTreeSet<Object>) -> Vec<Step>,
    ) -> Result<(), Error> {
        let mut failures = Failures::default();
        let mut before = Vec::new();
        loop {
            self.settle(state, scope, deadline, &mut failures).await?;
            if let Some((object, _)) = state.pending.iter().find(|(object, _)| scope.has(object)) {
                let message = format!("Google Cloud still works on the {object} {}", self.names.of(object));
                return failures.or(Err(Error::NotReady(message.into())));
            }
            let is_due = |step: &Step| scope.has(&step.object) && !failures.objects.contains(&step.object);
            let steps: Vec<Step> = steps(&state.found, &failures.objects).into_iter().filter(is_due).collect();
            if steps.is_empty() {
                return failures.or(Ok(()));
            }
            // Made again, they would change as little: an earlier process may have started them.
            if Instant::now() >= deadline || steps == before {
                return failures.or(Err(Error::NotReady(format!("{}: it is changed next", steps[0]).into())));
            }
            self.start_all(state, &steps, &mut failures).await?;
            before = steps;
        }
    }

    /// Makes the calls of these steps side by side.
    async fn start_all(&self, state: &mut State, steps: &[Step], failures: &mut Failures) -> Result<(), Error> {
        let started = join_all(steps.iter().map(|step| self.start(step))).await;
        let mut done = Vec::new();
        for (step, started) in steps.iter().zip(started) {
            info!(load_balancer = %self.names.name, %step, "calling Google Cloud");
            match started {
                Ok(Started::Operation(operation)) => {
                    state.pending.insert(step.object.clone(), Pending { operation, step: step.clone() });
                }
                Ok(Started::Done) => done.push(step.object.clone()),
                // The network may be another team's. Everything else goes on without its rules.
                Ok(Started::Denied(error)) if step.object.is_firewall() => {
                    state.found.firewalls_denied = Some(error);
                    failures.objects.insert(step.object.clone());
                }
                Ok(Started::Denied(error)) => failures.note(&step.object, error),
                Err(error) => note_failure(step, error, state, failures),
            }
        }
        self.refresh(&mut state.found, done).await
    }

    /// Waits for the operations that go on, until the deadline, and reads the objects of those
    /// that are complete.
    async fn settle(
        &self,
        state: &mut State,
        scope: Scope,
        deadline: Instant,
        failures: &mut Failures,
    ) -> Result<(), Error> {
        let pending: BTreeMap<Object, Pending> =
            state.pending.iter().filter(|(object, _)| scope.has(object)).map(|(k, v)| (k.clone(), v.clone())).collect();
        let within = deadline.saturating_duration_since(Instant::now());
        let waits = pending.iter().map(|(object, Pending { operation, .. })| self.wait(object, operation, within));
        let waited = join_all(waits).await;
        let mut done = Vec::new();
        for ((object, Pending { step, .. }), waited) in pending.into_iter().zip(waited) {
            match waited {
                Ok(Started::Operation(_)) => continue,
                Ok(Started::Done) => {}
                // What the operation has done is read.
                Ok(Started::Denied(error)) => failures.note(&object, error),
                Err(error) => note_failure(&step, error, state, failures),
            }
            state.pending.remove(&object);
            done.push(object);
        }
        self.refresh(&mut state.found, done).await
    }
}

/// The error of calls that are given up.
pub(super) fn late() -> Error {
    Error::Transient("Google Cloud does not answer in time".into())
}

/// Records the failure of a call. Fewer instances may be attached where some of them are refused.
fn note_failure(step: &Step, error: Error, state: &mut State, failures: &mut Failures) {
    match (&step.object, &step.action, error) {
        (Object::Group(zone), Action::Attach(instances), error @ Error::Refused(_)) => {
            state.found.attaching.note_refused(zone, instances, error);
        }
        (object, _, error) => failures.note(object, error),
    }
}
