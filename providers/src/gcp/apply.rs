//! Carries changes out: in the Services first, then at Google Cloud.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::attaching::Attaching;
use super::found::Found;
use super::known::Known;
use super::nodes::Nodes;
use super::settings::Managed;
use super::wanted::wanted;
use super::work::{ANSWERS_FOR, Scope, late};
use super::{BEGINS_FOR, Gcp, not_read, obstacles, plan, view};
use crate::budget::Urgency;
use crate::diff::{Change, diff, replay};
use crate::model::{FrontPort, LbName, ListenerKey, LoadBalancer, Unserved};
use crate::service::front::attribute;
use crate::service::status;
use crate::{Applied, ChangeSet, Error, Provider as _};

/// How long calls to Google Cloud are begun at least, however long the Services took.
const AT_LEAST: Duration = Duration::from_secs(1);

/// The result of changes of the Services.
#[derive(Debug, Default)]
struct Served {
    /// Whether there were Services
    existed: bool,
    /// The listeners before
    before: LoadBalancer,
    /// The address in the status of the Services
    address: Option<Ipv4Addr>,
    applied: Applied,
    /// Listeners that open once the load balancer is known to accept traffic
    waiting: BTreeSet<ListenerKey>,
}

/// The results of the work at Google Cloud.
struct AtGoogle {
    /// Of everything but the rule that allows ports
    base: Result<(), Error>,
    /// Of the rule that allows ports
    allowed: Result<(), Error>,
}

impl Gcp {
    /// Carries the changes out. What closes, and the backends of a port, wait for nothing at Google
    /// Cloud; what fails or takes long there is reported by the listeners that need it.
    pub(super) async fn carry_out(&self, name: &LbName, set: ChangeSet<'_>) -> Result<Applied, Error> {
        let began = Instant::now();
        // The Services may take all of it.
        let deadline = || (began + BEGINS_FOR).max(Instant::now() + AT_LEAST);
        let mut known = self.inner.known(name);
        if known.has_pending() {
            // Their objects are read once they are complete.
            known.trust();
        }
        let mut served = self.serve(name, known.serving(), set).await;
        let configures =
            set.changes.contains(&Change::Configure) || served.as_ref().is_ok_and(|served| !served.existed);
        let mut at_google = AtGoogle { base: Ok(()), allowed: Ok(()) };
        // Backends and owners are a matter of the Services alone.
        if configures || set.changes.iter().any(changes_ports) {
            if !known.is_certain() {
                at_google.base = self.inner.reread(name, &mut known, deadline()).await;
                at_google.allowed.clone_from(&at_google.base);
            }
            if known.is_certain() {
                // A read that goes on may have seen what was there before these changes.
                self.inner.reads.lock().remove(name);
            }
            if configures && at_google.base.is_ok() {
                at_google.base = self.configure(name, &mut known, deadline()).await;
            }
            if known.serving().is_some_and(|address| served.as_ref().is_ok_and(|served| served.needs(address))) {
                served = self.serve(name, known.serving(), set).await;
            }
            if known.serving().is_some() && at_google.allowed.is_ok() {
                at_google.allowed = self.allow(name, &mut known, deadline()).await;
            }
        }
        let applied = match served {
            Ok(served) => self.result(name, set, served, at_google, &mut known).await,
            Err(error) => Err(error),
        };
        self.inner.keep(name, known);
        applied
    }

    /// Carries the changes of the Services out, except for those that open a port before the load
    /// balancer is known to accept traffic, or a port that the class does not allow. `address` is
    /// the one at which it does; `None`: that is not known, and the Services keep theirs.
    async fn serve(&self, name: &LbName, address: Option<Ipv4Addr>, set: ChangeSet<'_>) -> Result<Served, Error> {
        let observed = self.services.observe(name).await?;
        let existed = observed.is_some();
        let before = observed.unwrap_or_default().load_balancer;
        if !existed && address.is_none() {
            let waiting = set.changes.iter().flat_map(opened).collect();
            return Ok(Served { waiting, ..Served::default() });
        }
        let mut now = Vec::new();
        let mut refused = BTreeMap::new();
        let mut waiting = BTreeSet::new();
        for change in set.changes {
            let opens = opened(change);
            if opens.iter().any(|key| !view::is_in_range(&self.inner.settings, *key)) {
                let error = Error::Refused(view::OUT_OF_RANGE.into());
                refused.extend(change.listeners().into_iter().map(|key| (key, error.clone())));
            } else if address.is_none() && !opens.is_empty() {
                waiting.extend(change.listeners());
            } else {
                now.push(change.clone());
            }
        }
        let status = match address {
            Some(address) => status::text([address.into()]),
            None => before.attributes.get(attribute::STATUS).cloned().unwrap_or_default(),
        };
        let mut target = before.clone();
        replay(&mut target, &view::for_services(set.desired, &status), &now);
        let target = view::for_services(&target, &status);
        let set = ChangeSet { desired: &target, changes: &now, waiting: set.waiting };
        let mut applied = self.services.apply(name, set).await?;
        applied.failed.extend(refused);
        Ok(Served { existed, before, address: status.parse().ok(), applied, waiting })
    }

    /// Brings everything but the rule that allows ports to the state that the class has.
    async fn configure(&self, name: &LbName, known: &mut Known, deadline: Instant) -> Result<(), Error> {
        let Some(state) = &mut known.state else { return Err(not_read()) };
        let names = self.inner.names(name);
        let cloud = self.inner.cloud(name, Urgency::Open, Some(deadline))?;
        // What was foreign may be gone, and what was denied or refused is tried again.
        state.found.attaching = Attaching::default();
        let foreign = state.found.foreign.iter().cloned().collect();
        let refreshed = timeout_at(deadline + ANSWERS_FOR, cloud.refresh(&mut state.found, foreign)).await;
        refreshed.unwrap_or_else(|_| Err(late()))?;
        let obstacle = obstacles::to_creation(names, &state.found);
        if let Some(error) = obstacle.filter(|_| state.found.serving().is_none()) {
            return Err(error);
        }
        let nodes = self.inner.nodes()?;
        if let Some(denied) = state.found.firewalls_denied.take() {
            let read = timeout_at(deadline + ANSWERS_FOR, cloud.read_firewalls(&mut state.found)).await;
            if !matches!(read, Ok(Ok(()))) {
                state.found.firewalls_denied.get_or_insert(denied);
            }
        }
        let steps = |found: &Found, failed: &BTreeSet<_>| {
            plan::next(&wanted(names, nodes.clone(), found.ip(), &BTreeSet::new()), found, failed)
        };
        cloud.work(state, Scope::Base, deadline, steps).await?;
        obstacles::to_service(names, &nodes, &state.found).map_or(Ok(()), Err)
    }

    /// Has the firewall allow exactly the ports that the Services have.
    async fn allow(&self, name: &LbName, known: &mut Known, deadline: Instant) -> Result<(), Error> {
        let Some(state) = &mut known.state else { return Err(not_read()) };
        let names = self.inner.names(name);
        let ports = self.open_ports(name).await?;
        let cloud = self.inner.cloud(name, Urgency::Open, Some(deadline))?;
        let steps = |found: &Found, failed: &BTreeSet<_>| {
            plan::next(&wanted(names, Nodes::new(), found.ip(), &ports), found, failed)
        };
        let allowed = cloud.work(state, Scope::Ports, deadline, steps).await;
        state.ports_error = allowed.as_ref().err().cloned();
        allowed
    }

    /// The result of the changes, for the LB loop. A port that Google Cloud refuses to allow closes
    /// again in its Service.
    async fn result(
        &self,
        name: &LbName,
        set: ChangeSet<'_>,
        served: Served,
        AtGoogle { base, mut allowed }: AtGoogle,
        known: &mut Known,
    ) -> Result<Applied, Error> {
        let Served { existed, before, mut applied, waiting, .. } = served;
        let not_ready = || Error::NotReady(view::CREATING.into());
        if !existed && known.serving().is_none() {
            let error = base.err().unwrap_or_else(not_ready);
            if matches!(error, Error::NotReady(_)) {
                known.trust();
            }
            return Err(error);
        }
        let error = base.as_ref().err().cloned().unwrap_or_else(not_ready);
        applied.failed.extend(waiting.into_iter().map(|key| (key, error.clone())));

        let opened: BTreeSet<ListenerKey> = set.changes.iter().flat_map(opened).collect();
        let opened: BTreeSet<_> = opened.into_iter().filter(|key| !applied.failed.contains_key(key)).collect();
        let mut unserved = self.unserved(name, known, &opened);
        if let Err(error) = allowed.clone()
            && error.is_refusal()
            && !unserved.is_empty()
        {
            self.withdraw(name, &before, set.changes, unserved.keys().copied().collect()).await?;
            applied.failed.extend(std::mem::take(&mut unserved).into_keys().map(|key| (key, error.clone())));
            allowed = self.allow(name, known, Instant::now() + AT_LEAST).await;
        }
        let is_late = matches!(allowed, Err(Error::NotReady(_))) && !unserved.is_empty();
        applied.failed.extend(unserved);
        // As a failure, it is observed again, and the rule is repaired.
        applied.failed.extend(self.still_allowed(name, known, set, allowed.as_ref().err()).await?);
        if set.changes.contains(&Change::Configure) {
            let allowed = allowed.as_ref().err().filter(|_| !is_late).cloned();
            let unmanaged = self.unmanaged(name, known).await?;
            applied.unconfigured = base.as_ref().err().cloned().or(applied.unconfigured).or(unmanaged).or(allowed);
        }
        let goes_on = [&base, &allowed].iter().any(|result| matches!(result, Err(Error::NotReady(_))));
        if goes_on || !applied.failed.is_empty() {
            known.trust();
        }
        Ok(applied)
    }

    /// Those of these listeners that are open in their Services, and that clients do not reach,
    /// each with the cause.
    fn unserved(&self, name: &LbName, known: &Known, open: &BTreeSet<ListenerKey>) -> BTreeMap<ListenerKey, Error> {
        let Some(state) = &known.state else { return BTreeMap::new() };
        let why = known.unread.as_ref().or(state.ports_error.as_ref());
        let error = |key: &ListenerKey| {
            let error = match view::unserved(self.inner.names(name), &state.found, *key, why)? {
                Unserved::Refused(why) => Error::Refused(why.into()),
                Unserved::Pending(message) => why.cloned().unwrap_or_else(|| Error::NotReady(message.into())),
            };
            Some((*key, error))
        };
        open.iter().filter_map(error).collect()
    }

    /// The listeners that have closed, and whose ports the firewall still allows, each with the
    /// cause.
    async fn still_allowed(
        &self,
        name: &LbName,
        known: &Known,
        set: ChangeSet<'_>,
        error: Option<&Error>,
    ) -> Result<BTreeMap<ListenerKey, Error>, Error> {
        let settings = &self.inner.settings;
        let Some(state) = known.state.as_ref().filter(|_| settings.firewall.manage == Managed::Ports) else {
            return Ok(BTreeMap::new());
        };
        let open = self.open_ports(name).await?;
        let is_allowed = |key: &ListenerKey| {
            key.front_ports().any(|port| !open.contains(&port) && state.found.admits(settings, [port]))
        };
        let error = error.or(state.found.firewalls_denied.as_ref()).cloned();
        let error = error.unwrap_or_else(|| Error::NotReady("the firewall still allows the port".into()));
        let error = error.within("the port is closed, and the firewall still allows it");
        Ok(closed(set).into_iter().filter(is_allowed).map(|key| (key, error.clone())).collect())
    }

    /// The error of firewall rules that may not be written.
    async fn unmanaged(&self, name: &LbName, known: &Known) -> Result<Option<Error>, Error> {
        let Some(state) = &known.state else { return Ok(None) };
        let (names, ports) = (self.inner.names(name), self.open_ports(name).await?);
        let wanted = wanted(names, Nodes::new(), state.found.ip(), &ports);
        Ok(view::unmanaged(names, &wanted, &state.found))
    }

    /// Takes the changes back that have opened these listeners: those that they replace open again.
    async fn withdraw(
        &self,
        name: &LbName,
        before: &LoadBalancer,
        changes: &[Change],
        refused: BTreeSet<ListenerKey>,
    ) -> Result<(), Error> {
        let there = self.services.observe(name).await?.unwrap_or_default().load_balancer;
        let mut target = there.clone();
        let is_refused = |change: &&Change| !opened(change).is_disjoint(&refused);
        for key in changes.iter().filter(is_refused).flat_map(Change::listeners) {
            match before.listeners.get(&key) {
                Some(listener) => _ = target.listeners.insert(key, listener.clone()),
                None => _ = target.listeners.remove(&key),
            }
        }
        let changes = diff(&there, &target);
        let applied = self.services.apply(name, ChangeSet::new(&target, &changes)).await?;
        applied.failed.into_values().next().map_or(Ok(()), Err)
    }

    /// The front ports that the Services have.
    async fn open_ports(&self, name: &LbName) -> Result<BTreeSet<FrontPort>, Error> {
        let observed = self.services.observe(name).await?;
        Ok(observed.map(|observed| view::front_ports(&observed.load_balancer)).unwrap_or_default())
    }
}

impl Served {
    /// Whether the Services are to be changed again, now that this address accepts traffic.
    fn needs(&self, address: Ipv4Addr) -> bool {
        self.address != Some(address) || !self.waiting.is_empty()
    }
}

/// The listeners that a change opens.
fn opened(change: &Change) -> BTreeSet<ListenerKey> {
    match change {
        Change::Open(key) => [*key].into(),
        Change::Replace { open, .. } => open.clone(),
        _ => BTreeSet::new(),
    }
}

/// Whether a change opens or closes ports.
fn changes_ports(change: &Change) -> bool {
    matches!(change, Change::Open(_) | Change::Close(_) | Change::Replace { .. })
}

/// The listeners that close.
fn closed(set: ChangeSet<'_>) -> BTreeSet<ListenerKey> {
    let listeners = set.changes.iter().filter(|change| changes_ports(change)).flat_map(Change::listeners);
    listeners.filter(|key| !set.desired.listeners.contains_key(key)).collect()
}
