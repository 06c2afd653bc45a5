//! Observes a load balancer, in as few calls as AWS' API allows.
//!
//! The calls are for the load balancer, its attributes, its listeners, the target groups of
//! the account (400 in a call; this also finds orphaned ones), the tags of all of these (20
//! in a call), and the targets of each target group (a call for each): 58 calls for 50
//! listeners.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;

use aws_sdk_elasticloadbalancingv2::types::{
    Listener, LoadBalancer, LoadBalancerStateEnum, ProtocolEnum, TargetGroup, TargetHealthStateEnum,
};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use tokio::time::Instant;
use tracing::warn;

use super::clients::Region;
use super::config::{CROSS_ZONE, Probe};
use super::failure::{Code, Failure};
use super::known::{Foreign, Group, Known, ListenerState, Nlb, port_in};
use super::limits::{Limits, PAGE, PAGES_MAX, RESOURCES_PER_CALL};
use super::names::{self, Tags, Target};
use super::settings::Settings;
use crate::Error;
use crate::budget::{Turn, Urgency};
use crate::model::{FrontPort, LbName, Protocol, Transport, port_number};
use crate::text::brief;

/// The most concurrent calls for one load balancer.
const AT_ONCE: usize = 8;

/// An observed load balancer.
pub(super) struct Seen {
    pub(super) known: Known,
    /// Whether the load balancer has our tags, if it exists
    pub(super) is_ours: bool,
}

/// An observation of one load balancer.
pub(super) struct Observation<'a> {
    pub(super) region: &'a Region,
    pub(super) settings: &'a Settings,
    pub(super) name: &'a LbName,
    /// Its place among all observations of the region
    pub(super) place: u64,
}

impl Observation<'_> {
    /// Reads all of it.
    ///
    /// # Errors
    /// When it could not be read, when a foreign load balancer has its name, or when the one
    /// to be adopted does not exist.
    pub(super) async fn all(&self) -> Result<Known, Error> {
        let seen = self.observe(true).await?;
        match &self.settings.load_balancer_arn {
            Some(arn) if seen.known.nlb.is_none() => Err(Error::Refused(
                format!("load balancer {arn} does not exist: create it, or create a class for another one").into(),
            )),
            None if !seen.is_ours => Err(self.not_ours()),
            _ => Ok(seen.known),
        }
    }

    /// The same, also if it is foreign; targets are read only if they are needed.
    pub(super) async fn observe(&self, with_targets: bool) -> Result<Seen, Error> {
        let found = self.load_balancer().await?;
        let sorted = self.sort(found.as_ref(), with_targets).await;
        sorted.map_err(|failure| self.error(failure))
    }

    async fn sort(&self, found: Option<&LoadBalancer>, with_targets: bool) -> Result<Seen, Failure> {
        let arn = found.and_then(|found| found.load_balancer_arn.clone()).unwrap_or_default();
        let mut known = Known { observed_at: Some(Instant::now()), ..Known::default() };
        let groups = self.groups(found.is_some().then_some(&*arn)).await?;
        let mut listeners = Vec::new();
        let mut attributes = BTreeMap::new();
        if found.is_some() {
            (listeners, attributes, known.limits) =
                futures::try_join!(self.listeners(&arn), self.attributes(&arn), self.limits())?;
        }
        let tagged = found.iter().map(|_| arn.clone()).chain(listeners.iter().filter_map(|l| l.listener_arn.clone()));
        let ours = groups.iter().filter(|group| self.is_named_ours(group));
        let tagged = tagged.chain(ours.filter_map(|group| group.target_group_arn.clone()));
        let mut tags = self.tags(tagged.collect()).await?;
        let own_tags = tags.remove(&arn).unwrap_or_default();
        let is_ours = found.is_none() || names::are_ours(&own_tags, self.settings, self.name);
        self.sort_listeners(&mut known, listeners, &mut tags);
        self.sort_groups(&mut known, &arn, groups, &mut tags, with_targets).await?;
        known.nlb = found.map(|found| nlb(found, own_tags, attributes));
        Ok(Seen { known, is_ours })
    }

    /// The load balancer itself, by our name, or the adopted one.
    async fn load_balancer(&self) -> Result<Option<LoadBalancer>, Error> {
        let request = self.region.client().await.describe_load_balancers();
        let request = match &self.settings.load_balancer_arn {
            Some(arn) => request.load_balancer_arns(arn),
            None => request.names(self.name.as_str()),
        };
        // The first call of an observation, and the only one for its readiness.
        let mut turn = Turn { urgency: Urgency::Finish, place: None, ..self.turn() };
        match self.region.call("DescribeLoadBalancers", &mut turn, || request.clone().send()).await {
            Ok(reply) => Ok(reply.load_balancers.unwrap_or_default().into_iter().find(|found| self.is_meant(found))),
            Err(failure) if failure.is(Code::LoadBalancerNotFound) => Ok(None),
            Err(failure) => Err(self.error(failure)),
        }
    }

    fn is_meant(&self, found: &LoadBalancer) -> bool {
        match &self.settings.load_balancer_arn {
            Some(arn) => found.load_balancer_arn() == Some(arn),
            None => found.load_balancer_arn().is_some() && found.load_balancer_name() == Some(self.name.as_str()),
        }
    }

    /// Whether it serves by now, in one call, for use while it is provisioned.
    pub(super) async fn readiness(&self) -> Result<Option<Option<String>>, Error> {
        Ok(self.load_balancer().await?.map(|found| not_ready(&found)))
    }

    /// Our target groups by their names, and foreign ones on this load balancer.
    async fn groups(&self, on: Option<&str>) -> Result<Vec<TargetGroup>, Failure> {
        let request = self.region.client().await.describe_target_groups().page_size(PAGE);
        let concerns = |group: &TargetGroup| {
            self.is_named_ours(group) || group.load_balancer_arns().iter().any(|of| Some(of.as_str()) == on)
        };
        let all = all_pages("DescribeTargetGroups", |marker| {
            let page = request.clone().set_marker(marker);
            async move {
                let reply = self.region.call("DescribeTargetGroups", &mut self.turn(), || page.clone().send()).await?;
                let groups = reply.target_groups.unwrap_or_default().into_iter().filter(concerns);
                Ok((groups.collect(), reply.next_marker))
            }
        });
        Ok(each_once(all.await?, TargetGroup::target_group_arn))
    }

    async fn listeners(&self, arn: &str) -> Result<Vec<Listener>, Failure> {
        let request = self.region.client().await.describe_listeners().load_balancer_arn(arn).page_size(PAGE);
        let all = all_pages("DescribeListeners", |marker| {
            let page = request.clone().set_marker(marker);
            async move {
                let reply = self.region.call("DescribeListeners", &mut self.turn(), || page.clone().send()).await?;
                Ok((reply.listeners.unwrap_or_default(), reply.next_marker))
            }
        });
        Ok(each_once(all.await?, Listener::listener_arn))
    }

    async fn attributes(&self, arn: &str) -> Result<BTreeMap<String, String>, Failure> {
        let request = self.region.client().await.describe_load_balancer_attributes().load_balancer_arn(arn);
        let mut turn = self.turn();
        let reply = self.region.call("DescribeLoadBalancerAttributes", &mut turn, || request.clone().send()).await?;
        let attributes = reply.attributes.unwrap_or_default().into_iter();
        Ok(attributes.filter_map(|attribute| Some((attribute.key?, attribute.value?))).collect())
    }

    /// The account's quotas, which are read once; the documented ones if that is not permitted.
    async fn limits(&self) -> Result<Limits, Failure> {
        let mut kept = self.region.limits.lock().await;
        if let Some(limits) = *kept {
            return Ok(limits);
        }
        let request = self.region.client().await.describe_account_limits().page_size(PAGE);
        let all = all_pages("DescribeAccountLimits", |marker| {
            let page = request.clone().set_marker(marker);
            async move {
                let reply = self.region.call("DescribeAccountLimits", &mut self.turn(), || page.clone().send()).await?;
                Ok((reply.limits.unwrap_or_default(), reply.next_marker))
            }
        });
        let all = match all.await {
            Err(failure) if failure.is_not_permitted() => {
                warn!("not permitted to do elasticloadbalancing:DescribeAccountLimits: taking the documented quotas");
                Vec::new()
            }
            all => all?,
        };
        let mut limits = Limits::default();
        for limit in all {
            if let (Some(name), Some(Ok(max))) = (limit.name, limit.max.map(|max| max.parse())) {
                limits.set(&name, max);
            }
        }
        Ok(*kept.insert(limits))
    }

    async fn tags(&self, arns: Vec<String>) -> Result<BTreeMap<String, Tags>, Failure> {
        let client = self.region.client().await;
        let chunks = stream::iter(arns.chunks(RESOURCES_PER_CALL).map(<[String]>::to_vec));
        let replies = chunks.map(|chunk| async move {
            let request = client.describe_tags().set_resource_arns(Some(chunk));
            let reply = self.region.call("DescribeTags", &mut self.turn(), || request.clone().send()).await?;
            Ok(reply.tag_descriptions.unwrap_or_default())
        });
        let replies: Vec<_> = replies.buffer_unordered(AT_ONCE).try_collect().await?;
        let described = replies.into_iter().flatten();
        Ok(described.filter_map(|of| Some((of.resource_arn?, names::from_aws(of.tags)))).collect())
    }

    async fn targets(&self, arn: &str) -> Result<BTreeSet<Target>, Failure> {
        let request = self.region.client().await.describe_target_health().target_group_arn(arn);
        let reply = self.region.call("DescribeTargetHealth", &mut self.turn(), || request.clone().send()).await?;
        let all = reply.target_health_descriptions.unwrap_or_default();
        // A draining target was deregistered already.
        let drains = |state: &TargetHealthStateEnum| *state == TargetHealthStateEnum::Draining;
        let stays = all.iter().filter(|of| !of.target_health().and_then(|health| health.state()).is_some_and(drains));
        Ok(stays.filter_map(|of| Target::from_aws(of.target()?)).collect())
    }

    /// Takes our listeners out, by port; the others are foreign.
    fn sort_listeners(&self, known: &mut Known, listeners: Vec<Listener>, tags: &mut BTreeMap<String, Tags>) {
        for listener in listeners {
            let port = listener.port.and_then(port_number);
            let arn = listener.listener_arn.clone().unwrap_or_default();
            let tags = tags.remove(&arn).unwrap_or_default();
            match port.filter(|_| names::are_ours(&tags, self.settings, self.name)) {
                Some(port) => {
                    let protocol = listener.protocol.as_ref().and_then(protocol);
                    let group = forwards_to(&listener);
                    known.ports.entry(port).or_default().listener = Some(ListenerState { arn, protocol, group, tags });
                }
                None => known.foreign.add(port, &listener),
            }
        }
    }

    /// Our target groups by port, with their targets; and the number of targets of foreign
    /// target groups on this load balancer.
    async fn sort_groups(
        &self,
        known: &mut Known,
        on: &str,
        groups: Vec<TargetGroup>,
        tags: &mut BTreeMap<String, Tags>,
        with_targets: bool,
    ) -> Result<(), Failure> {
        let groups = stream::iter(groups).map(|group| async {
            let arn = group.target_group_arn().unwrap_or_default();
            let targets = if with_targets { self.targets(arn).await? } else { BTreeSet::new() };
            Ok((group, targets))
        });
        let groups: Vec<_> = groups.buffer_unordered(AT_ONCE).try_collect().await?;
        for (group, targets) in groups {
            let (Some(arn), Some(name)) = (group.target_group_arn.clone(), group.target_group_name.clone()) else {
                continue;
            };
            let tags = tags.remove(&arn).unwrap_or_default();
            let ours = self.is_named_ours(&group) && names::are_ours(&tags, self.settings, self.name);
            match port_in(&name).filter(|_| ours && !known.foreign.groups.contains(&arn)) {
                Some(port) => {
                    let used = !group.load_balancer_arns().is_empty();
                    let group =
                        Group { arn, name, targets, probe: Probe::from_aws(&group), tags, used, attributes: None };
                    known.ports.entry(port).or_default().groups.push(group);
                }
                None => {
                    let counts = group.load_balancer_arns().iter().any(|of| of == on);
                    known.foreign.targets += if counts { targets.len() } else { 0 };
                    known.foreign.names.insert(name);
                }
            }
        }
        Ok(())
    }

    fn is_named_ours(&self, group: &TargetGroup) -> bool {
        group.target_group_name().is_some_and(|name| name.starts_with(&names::group_prefix(self.name)))
    }

    fn not_ours(&self) -> Error {
        let Self { name, region, .. } = self;
        let message = format!(
            "load balancer {name} in {} exists and is not ours (its tags do not say so): delete it, or give it the tags back",
            region.name
        );
        Error::Refused(message.into())
    }

    /// An object that was deleted during the observation is a conflict, which passes.
    fn error(&self, failure: Failure) -> Error {
        failure.error(&self.region.name)
    }

    /// Observations are made one after the other, so that at start the first load balancer is
    /// observed long before the last.
    fn turn(&self) -> Turn {
        Turn { of: self.name.clone(), urgency: Urgency::Alter, begin_by: None, place: Some(self.place) }
    }
}

/// Reads a list page by page. `page` returns the items of the page at this marker, and the
/// marker of the next page.
async fn all_pages<T, F>(action: &'static str, page: impl Fn(Option<String>) -> F) -> Result<Vec<T>, Failure>
where
    F: Future<Output = Result<(Vec<T>, Option<String>), Failure>>,
{
    let mut all = Vec::new();
    let mut marker = None;
    for _ in 0..PAGES_MAX {
        let (some, next) = page(marker).await?;
        all.extend(some);
        marker = next.filter(|marker| !marker.is_empty());
        if marker.is_none() {
            return Ok(all);
        }
    }
    Err(Failure::endless(action))
}

/// Without items that were on two pages, since items were added or removed in between.
fn each_once<T>(mut all: Vec<T>, arn: impl Fn(&T) -> Option<&str>) -> Vec<T> {
    let mut before = BTreeSet::new();
    all.retain(|one| arn(one).is_none_or(|arn| before.insert(arn.to_owned())));
    all
}

/// The target groups that a listener forwards to.
fn groups_of(listener: &Listener) -> BTreeSet<String> {
    let groups = listener.default_actions().iter().flat_map(|action| {
        let weighted = action.forward_config().map(|config| config.target_groups()).unwrap_or_default();
        action.target_group_arn().into_iter().chain(weighted.iter().filter_map(|group| group.target_group_arn()))
    });
    groups.map(str::to_owned).collect()
}

/// The only target group that a listener forwards to; `None`: it has other actions.
fn forwards_to(listener: &Listener) -> Option<String> {
    let mut groups = groups_of(listener);
    let only = listener.default_actions().len() == 1 && groups.len() == 1;
    groups.pop_first().filter(|_| only)
}

fn protocol(protocol: &ProtocolEnum) -> Option<Protocol> {
    match protocol {
        ProtocolEnum::Tcp => Some(Protocol::Tcp),
        ProtocolEnum::Udp => Some(Protocol::Udp),
        ProtocolEnum::TcpUdp => Some(Protocol::TcpUdp),
        _ => None,
    }
}

impl Foreign {
    fn add(&mut self, port: Option<NonZeroU16>, listener: &Listener) {
        self.listeners += 1;
        self.groups.extend(groups_of(listener));
        let transports: &[Transport] = match listener.protocol().map(ProtocolEnum::as_str) {
            Some("UDP" | "QUIC") => &[Transport::Udp],
            Some("TCP_UDP" | "TCP_QUIC") => &[Transport::Tcp, Transport::Udp],
            _ => &[Transport::Tcp],
        };
        let ports = transports.iter().filter_map(|&transport| Some(FrontPort { port: port?, transport }));
        self.ports.extend(ports);
    }
}

/// The load balancer, from its description or from the answer of the call that created it.
pub(super) fn nlb(found: &LoadBalancer, tags: Tags, mut attributes: BTreeMap<String, String>) -> Nlb {
    attributes.entry(CROSS_ZONE.to_owned()).or_insert_with(|| "false".to_owned());
    Nlb {
        arn: found.load_balancer_arn.clone().unwrap_or_default(),
        hostname: found.dns_name.clone().filter(|name| is_dns_name(name)),
        zones: found.availability_zones().len(),
        not_ready: not_ready(found),
        security_groups: found.security_groups().to_vec(),
        tags,
        attributes,
    }
}

/// Whether it is a host name that the API server accepts in a status.
fn is_dns_name(name: &str) -> bool {
    let fits = (1..=253).contains(&name.len());
    fits && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '.')
}

fn not_ready(found: &LoadBalancer) -> Option<String> {
    let state = found.state()?;
    let reason = state.reason().map(|reason| format!(": {}", brief(reason))).unwrap_or_default();
    match state.code()? {
        LoadBalancerStateEnum::Provisioning => {
            Some(format!("AWS is provisioning the load balancer, which takes a few minutes{reason}"))
        }
        LoadBalancerStateEnum::Failed => {
            Some(format!("AWS could not provision the load balancer{reason}: delete it, and it is recreated"))
        }
        _ => None,
    }
}
