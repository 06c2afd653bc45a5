//! The load balancers with the changes of the LB loops, which are recorded and not carried
//! out.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::{Mutex, MutexGuard};
use sharedlb_providers::{
    Applied, Change, ChangeSet, Decorator, Error, LbName, LoadBalancer, Observed, Provider, replay,
};

use super::calls::Calls;

/// The load balancers of all classes.
#[derive(Clone, Default)]
pub(super) struct LoadBalancers {
    known: Arc<Mutex<BTreeMap<LbName, RecordedLoadBalancer>>>,
    /// Load balancers whose last observation failed
    failures: Arc<Mutex<BTreeMap<LbName, Error>>>,
    calls: Calls,
}

/// A load balancer before and after all changes; `None`: it does not exist.
#[derive(Debug, Clone)]
pub(super) struct RecordedLoadBalancer {
    /// The object of the load balancer, for the report
    pub(super) object: String,
    pub(super) before: Option<LoadBalancer>,
    pub(super) now: Option<LoadBalancer>,
    /// The drift that would be repaired, by port
    pub(super) repaired: BTreeMap<NonZeroU16, String>,
    /// The next observation, once it was changed
    observed: Option<Option<Observed>>,
}

impl RecordedLoadBalancer {
    pub(super) fn new(object: impl Into<String>, before: Option<LoadBalancer>, now: Option<LoadBalancer>) -> Self {
        Self { object: object.into(), before, now, repaired: BTreeMap::new(), observed: None }
    }
}

impl LoadBalancers {
    /// Load balancers whose calls are counted by `calls`.
    pub(super) fn new(calls: Calls) -> Self {
        Self { calls, ..Self::default() }
    }

    /// Wraps a provider, so that its changes are recorded here instead of carried out.
    pub(super) fn recorded(&self, provider: Box<dyn Provider>) -> Box<dyn Provider> {
        Box::new(Recorded { provider, load_balancers: self.clone() })
    }

    /// All load balancers that were observed.
    pub(super) fn all(&self) -> BTreeMap<LbName, RecordedLoadBalancer> {
        self.known().clone()
    }

    /// Why a load balancer could not be observed. The changes of such a one are not known.
    pub(super) fn failure(&self) -> Option<String> {
        let failures = self.failures.lock();
        let (name, error) = failures.first_key_value()?;
        Some(format!("load balancer {name} could not be observed: {error}"))
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<LbName, RecordedLoadBalancer>> {
        self.known.lock()
    }

    fn note_observation<T>(&self, name: &LbName, result: &Result<T, Error>) {
        let mut failures = self.failures.lock();
        match result {
            Err(error @ (Error::Transient(_) | Error::Throttled { .. })) => {
                _ = failures.insert(name.clone(), error.clone())
            }
            // Other errors are about the load balancer itself, and part of the dry run.
            _ => _ = failures.remove(name),
        }
    }
}

/// A provider that observes, and changes nothing.
struct Recorded {
    provider: Box<dyn Provider>,
    load_balancers: LoadBalancers,
}

impl Recorded {
    /// The load balancer with all recorded changes.
    async fn observed(&self, name: &LbName) -> Result<Option<Observed>, Error> {
        let recorded = self.load_balancers.known().get(name).and_then(|known| known.observed.clone());
        if let Some(observed) = recorded {
            return Ok(observed);
        }
        let observed = self.provider.observe(name).await;
        self.load_balancers.note_observation(name, &observed);
        let observed = observed?;
        let before = observed.as_ref().map(|observed| observed.load_balancer.clone());
        let known = RecordedLoadBalancer::new(self.provider.object(name), before.clone(), before);
        self.load_balancers.known().insert(name.clone(), known);
        Ok(observed)
    }

    fn record(&self, name: &LbName, observed: Option<Observed>) {
        if let Some(known) = self.load_balancers.known().get_mut(name) {
            known.now = observed.as_ref().map(|observed| observed.load_balancer.clone());
            known.observed = Some(observed);
        }
    }
}

#[async_trait]
impl Decorator for Recorded {
    fn inner(&self) -> &dyn Provider {
        &*self.provider
    }

    async fn observe(&self, name: &LbName) -> Result<Option<Observed>, Error> {
        let _call = self.load_balancers.calls.begin();
        self.observed(name).await
    }

    async fn apply(&self, name: &LbName, set: ChangeSet<'_>) -> Result<Applied, Error> {
        let _call = self.load_balancers.calls.begin();
        let mut observed = self.observed(name).await?.unwrap_or_default();
        replay(&mut observed.load_balancer, set.desired, set.changes);
        if set.changes.contains(&Change::Configure) {
            let repaired: BTreeMap<NonZeroU16, String> =
                observed.drifted(set.waiting).map(|(port, what)| (port, what.to_owned())).collect();
            observed.drift.retain(|port, _| !repaired.contains_key(port));
            observed.unserved.clear();
            if let Some(known) = self.load_balancers.known().get_mut(name) {
                known.repaired.extend(repaired);
            }
        }
        let mut applied = Applied::default();
        applied.addresses.clone_from(&observed.addresses);
        self.record(name, Some(observed));
        Ok(applied)
    }

    async fn delete(&self, name: &LbName) -> Result<(), Error> {
        let _call = self.load_balancers.calls.begin();
        self.observed(name).await?;
        self.record(name, None);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use sharedlb_providers::memory::{Cloud, Memory};
    use sharedlb_providers::{Attributes, Listener, ListenerKey, Owner, Protocol};

    use super::*;

    #[tokio::test]
    async fn what_is_applied_is_observed_and_the_load_balancer_never_gets_it() {
        let (cloud, load_balancers) = (Cloud::default(), LoadBalancers::default());
        let real = Memory::new(cloud.clone());
        let [there, new] = ["there", "new"].map(|class| LbName::new(class, 0, "cluster", "uid"));
        let port = NonZeroU16::new(80).expect("not zero");
        let key = ListenerKey { port, protocol: Protocol::Tcp };
        let owner = Owner { namespace: "team".into(), claim: "redis".into(), port: "".into() };
        let listener = Listener::new(owner, []);
        let wanted = LoadBalancer { attributes: Attributes::new(), listeners: [(key, listener)].into() };
        let open = [Change::Open(key)];
        real.apply(&there, ChangeSet::new(&wanted, &open)).await.expect("it is there");

        let recorded = load_balancers.recorded(Box::new(Memory::new(cloud)));
        recorded.apply(&new, ChangeSet::new(&wanted, &open)).await.expect("it is recorded");
        recorded.delete(&there).await.expect("it is recorded");
        let observed = recorded.observe(&new).await.expect("it is known").expect("it exists");
        assert_eq!((observed.load_balancer, observed.addresses), (wanted.clone(), Vec::new()));
        assert_eq!(recorded.observe(&there).await.expect("it is known"), None);

        assert_eq!(real.observe(&new).await.expect("it can be asked"), None);
        let still = real.observe(&there).await.expect("it can be asked").expect("it is as it was");
        assert_eq!(still.load_balancer, wanted);
        let known = load_balancers.all();
        assert_eq!((&known[&new].before, &known[&new].now), (&None, &Some(wanted.clone())));
        assert_eq!((&known[&there].before, &known[&there].now), (&Some(wanted), &None));
    }
}
