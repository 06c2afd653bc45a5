//! Carries changes out, in this order:
//!
//! 1. One write of the Service closes ports.
//! 2. The slices of ports that stay open are corrected, also for a change of the owner.
//! 3. The slices of ports that open are written.
//! 4. One write of the Service opens these ports.
//!
//! A step without changes makes no write, so a listener that opens alone costs one write of
//! the Service. The API server refuses a Service as a whole (node ports are used up, a quota,
//! admission). Writes with halves of the openings find the listeners at fault: those that are
//! refused alone fail, and the others open.

use std::sync::Arc;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use tracing::warn;

use super::cache::Entry;
use super::front::Front;
use super::name::ServiceName;
use super::plan::{ApplyPlan, Opening, SliceWork, SlicesThere};
use super::services::Services;
use crate::model::ListenerKey;
use crate::{Applied, ChangeSet, Error};

/// The most concurrent writes of slices.
const CONCURRENT_WRITES: usize = 8;

/// The most writes of the Service in one apply that search for refused listeners. One among
/// 1,000 takes at most 20; openings that were not tried by then are postponed.
const TRIES: usize = 24;

impl Services {
    /// Carries out the changes of one Service, and creates it if it does not exist.
    pub(crate) async fn carry_out(&self, name: &ServiceName, set: ChangeSet<'_>) -> Result<Applied, Error> {
        let there = self.find(name).await?;
        let mut plan = ApplyPlan::new(set.desired, set.changes, there.as_ref().map(|service| &service.seen));
        let mut unconfigured = None;
        let mut refused = None;
        let mut service = match there {
            Some(service) if !plan.closing.is_empty() => {
                self.write_what_stays(name, service, &mut plan, &mut unconfigured).await?
            }
            Some(service) => service,
            None => self.create(name, &mut plan, &mut refused).await?,
        };
        let work = self.slices_at(name, &service.meta.uid, |there| plan.slices_in_place(there));
        let failed = self.write_slices(work).await?;
        plan.failed.extend(failed);
        plan.in_place.clear();

        let work = self.slices_at(name, &service.meta.uid, |there| plan.slices_to_open(there));
        let failed = self.write_slices(work).await?;
        plan.failed.extend(failed);
        plan.drop_failed_openings();

        service = self.open(name, service, &mut plan, refused, &mut unconfigured).await?;
        let work = self.slices_at(name, &service.meta.uid, |there| plan.slices_in_place(there));
        let failed = self.write_slices(work).await?;
        plan.failed.extend(failed);
        plan.postponed.extend(plan.openings.iter().flat_map(Opening::listeners));
        Ok(Applied {
            failed: plan.failed,
            postponed: plan.postponed,
            unconfigured,
            addresses: service.seen.addresses.clone(),
        })
    }

    /// Creates the Service with all ports that open, or, if that is refused, without them.
    async fn create(
        &self,
        name: &ServiceName,
        plan: &mut ApplyPlan<'_>,
        refused: &mut Option<Error>,
    ) -> Result<Arc<Entry<Front>>, Error> {
        let left = self.slices_at(name, &Arc::from(""), |there| {
            let opening = plan.slices_to_open(there).into_iter().map(|work| SliceWork { write: Vec::new(), ..work });
            plan.slices_in_place(there).into_iter().chain(opening).collect()
        });
        let failed = self.write_slices(left).await?;
        plan.failed.extend(failed);
        plan.drop_failed_openings();
        // Slices need the uid of the Service. It has no address yet, so no client
        // reaches a port that has no backends.
        let all = plan.ports_with(&plan.openings);
        let service = match self.write_service(name, &plan.attributes, &all, None).await {
            Ok(service) => {
                plan.all_opened();
                service
            }
            Err(error) if error.is_refusal() && !plan.openings.is_empty() => {
                *refused = Some(error);
                self.write_service(name, &plan.attributes, &plan.stays, None).await?
            }
            Err(error) => return Err(error),
        };
        plan.configures = false;
        Ok(service)
    }

    /// Writes the Service with the ports that stay. Settings that are refused delay no port.
    async fn write_what_stays(
        &self,
        name: &ServiceName,
        service: Arc<Entry<Front>>,
        plan: &mut ApplyPlan<'_>,
        unconfigured: &mut Option<Error>,
    ) -> Result<Arc<Entry<Front>>, Error> {
        let configures = std::mem::take(&mut plan.configures);
        match self.write_service(name, &plan.attributes, &plan.stays, Some(&service)).await {
            Err(error) if error.is_refusal() && configures => {
                *unconfigured = Some(error);
                plan.attributes.clone_from(&service.seen.attributes);
                // Without ports to close there is nothing to write.
                if plan.stays == service.seen.ours {
                    return Ok(service);
                }
                self.write_service(name, &plan.attributes, &plan.stays, Some(&service)).await
            }
            written => written,
        }
    }

    /// Opens the ports that can be opened. `refused` is the error of all openings together, if
    /// that is known. Openings that are left in the plan were not tried.
    async fn open(
        &self,
        name: &ServiceName,
        mut service: Arc<Entry<Front>>,
        plan: &mut ApplyPlan<'_>,
        mut refused: Option<Error>,
        unconfigured: &mut Option<Error>,
    ) -> Result<Arc<Entry<Front>>, Error> {
        if refused.is_none() {
            if plan.openings.is_empty() && !plan.configures {
                return Ok(service);
            }
            let all = plan.ports_with(&plan.openings);
            match self.write_service(name, &plan.attributes, &all, Some(&service)).await {
                Ok(written) => {
                    plan.all_opened();
                    return Ok(written);
                }
                Err(error) if error.is_refusal() => refused = Some(error),
                Err(error) => return Err(error),
            }
            if plan.configures && plan.openings.is_empty() {
                *unconfigured = refused;
                return Ok(service);
            }
            if plan.configures {
                service = self.write_what_stays(name, service, plan, unconfigured).await?;
                // The settings alone may have been refused.
                refused.take_if(|_| unconfigured.is_some());
            }
        }
        let mut tries = TRIES;
        let all = std::mem::take(&mut plan.openings);
        let mut groups = match refused {
            Some(error) => split(all, &error, plan),
            None => vec![all],
        };
        while let Some(group) = groups.pop() {
            if tries == 0 {
                groups.push(group);
                break;
            }
            tries -= 1;
            let ports = plan.ports_with(&group);
            match self.write_service(name, &plan.attributes, &ports, Some(&service)).await {
                Ok(written) => {
                    service = written;
                    group.into_iter().for_each(|opening| plan.opened(opening));
                }
                Err(error) if error.is_refusal() => {
                    let used_up = matches!(error, Error::Exhausted(_)) && group.len() == 1;
                    let needs = group.iter().map(|opening| opening.add.len()).sum::<usize>();
                    groups.extend(split(group, &error, plan));
                    if used_up {
                        fail_alike(&mut groups, needs, &error, plan);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        plan.openings.extend(groups.into_iter().rev().flatten());
        Ok(service)
    }

    /// Writes and deletes slices. A listener whose slices are refused fails alone.
    async fn write_slices(&self, work: Vec<SliceWork>) -> Result<Vec<(ListenerKey, Error)>, Error> {
        let tasks = work.into_iter().map(|SliceWork { listener, delete_first, write, delete }| async move {
            let (first, last) = if delete_first { (delete, Vec::new()) } else { (Vec::new(), delete) };
            let written = async {
                for slice in first {
                    self.delete_slice(slice).await?;
                }
                for slice in write {
                    self.write_slice(slice).await?;
                }
                for slice in last {
                    self.delete_slice(slice).await?;
                }
                Ok::<(), Error>(())
            };
            match (written.await, listener) {
                (Ok(()), _) => Ok(None),
                (Err(error), Some(listener)) if error.is_refusal() => Ok(Some((listener, error))),
                (Err(error), None) if error.is_refusal() => {
                    warn!(error = format!("{error:#}"), "an EndpointSlice at a closed port could not be deleted");
                    Ok(None)
                }
                (Err(error), _) => Err(error),
            }
        });
        let failed: Vec<_> = stream::iter(tasks).buffer_unordered(CONCURRENT_WRITES).try_collect().await?;
        Ok(failed.into_iter().flatten().collect())
    }

    /// The changes of the slices of the Service with this uid.
    fn slices_at(
        &self,
        name: &ServiceName,
        service_uid: &Arc<str>,
        work: impl FnOnce(&SlicesThere<'_>) -> Vec<SliceWork>,
    ) -> Vec<SliceWork> {
        let caches = self.watches.caches();
        work(&SlicesThere::new(name, service_uid, caches.slices.of(name)))
    }
}

/// Pushes the two halves of the refused openings, the first one last, since that is tried
/// next. One that was refused alone fails.
fn split(mut refused: Vec<Opening>, error: &Error, plan: &mut ApplyPlan<'_>) -> Vec<Vec<Opening>> {
    if let [alone] = refused.as_slice() {
        plan.refused(alone, error);
        return Vec::new();
    }
    let second = refused.split_off(refused.len() / 2);
    vec![second, refused]
}

/// If a limit is used up, openings that need as much of it would be refused too, and are not
/// tried.
fn fail_alike(groups: &mut Vec<Vec<Opening>>, needs: usize, error: &Error, plan: &mut ApplyPlan<'_>) {
    for group in &mut *groups {
        group.retain(|opening| {
            let fails = opening.add.len() >= needs;
            if fails {
                plan.refused(opening, error);
            }
            !fails
        });
    }
    groups.retain(|group| !group.is_empty());
}
