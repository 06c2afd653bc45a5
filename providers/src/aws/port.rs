//! Brings one port of a load balancer to its desired state: its listener, its target group
//! and its targets.
//!
//! A new port takes three calls: for the target group, its targets, and the listener last,
//! so that a listener that exists is complete. If the protocol of a port changes, the order
//! is the same, except that the listener is modified instead of created; then the former
//! target group is deleted. Each step can be repeated after an interruption.

use std::collections::BTreeSet;

use aws_sdk_elasticloadbalancingv2::types::{
    Action, ActionTypeEnum, ProtocolEnum, TargetDescription, TargetGroupIpAddressTypeEnum, TargetTypeEnum,
};

use tracing::info;

use super::clients::Region;
use super::config::{GroupAttributes, Probe};
use super::failure::{Code, Failure, Kind};
use super::known::{Group, ListenerState, Port};
use super::limits::{RESOURCES_PER_CALL, TARGETS_PER_CALL};
use super::names::{self, GROUP_ATTRIBUTES, Tags, Target};
use super::settings::{Settings, TargetKind};
use crate::budget::{Turn, Urgency};
use crate::model::{LbName, Listener, ListenerKey, Protocol};

/// What a listener should be, as AWS has it.
struct DesiredPort {
    key: ListenerKey,
    targets: BTreeSet<Target>,
    attributes: GroupAttributes,
    tags: Tags,
}

/// Works on the ports of one load balancer.
pub(super) struct Ports<'a> {
    pub(super) region: &'a Region,
    pub(super) settings: &'a Settings,
    pub(super) name: &'a LbName,
    /// The load balancer
    pub(super) arn: &'a str,
    /// The names of foreign target groups: AWS would return those instead of creating one (API
    /// reference, CreateTargetGroup: "idempotent")
    pub(super) taken: &'a BTreeSet<String>,
}

impl Ports<'_> {
    /// Brings the port to its desired state. `port` has the state after each call, also after
    /// a failure.
    ///
    /// # Errors
    /// The first call that failed; the others are left for the next time.
    pub(super) async fn make(
        &self,
        port: &mut Port,
        wanted: Option<(ListenerKey, &Listener)>,
        turn: &mut Turn,
    ) -> Result<(), Failure> {
        let Some((key, listener)) = wanted else {
            self.close(port, turn).await?;
            self.leave_groups(port, None, turn).await;
            return Ok(());
        };
        let wanted = DesiredPort {
            key,
            targets: self.targets(key, listener)?,
            attributes: GroupAttributes::wanted(self.settings, listener.options.session_affinity.is_some()),
            tags: names::tags_of_port(self.settings, self.name, &listener.owner),
        };
        if port.listener.as_ref().is_some_and(|found| !found.can_become(key, &listener.owner)) {
            self.close(port, turn).await?;
        }
        match self.serve(port, &wanted, turn).await {
            Ok(group) => {
                self.leave_groups(port, Some(&group), turn).await;
                Ok(())
            }
            Err(failure) => {
                self.leave_unfinished(port, &wanted.targets, &failure, turn).await;
                Err(failure)
            }
        }
    }

    /// Has the port served by its own target group, and returns the name of that.
    async fn serve(&self, port: &mut Port, wanted: &DesiredPort, turn: &mut Turn) -> Result<String, Failure> {
        let mut group = self.group(port, wanted.key, &wanted.tags, turn).await?;
        let done = self.fill(port, &mut group, wanted, turn).await;
        let name = group.name.clone();
        port.groups.push(group);
        done.map(|()| name)
    }

    /// Handles a port whose desired state AWS refused. An open listener stays open with its
    /// targets, except for those that are no longer backends: their addresses may by now
    /// belong to another tenant.
    async fn leave_unfinished(&self, port: &mut Port, wanted: &BTreeSet<Target>, failure: &Failure, turn: &mut Turn) {
        if !matches!(failure.kind, Kind::Code(_)) {
            // It was not refused: it is tried again soon.
            return;
        }
        if port.listener.is_none() {
            // The claim may get another port instead, and this one is not tried again.
            if failure.is_no_room() || failure.is(Code::DuplicateListener) {
                self.leave_groups(port, None, turn).await;
            }
            return;
        }
        let Some(group) = port.used_group_mut() else { return };
        let is_there = |target: &&Target| match self.settings.target_kind {
            // A pod keeps its address as long as it exists.
            TargetKind::Pod => wanted.iter().any(|wanted| wanted.id == target.id),
            // A node port may be given to another Service.
            TargetKind::Node => wanted.contains(*target),
        };
        let there = group.targets.iter().filter(is_there).cloned().collect();
        if let Err(failure) = self.deregister(group, &there, turn).await {
            info!(load_balancer = %self.name, target_group = %group.name, why = ?failure, "targets that are gone stay");
        }
    }

    /// Deletes the target groups that are no longer used. A failure does not matter for the
    /// port, which has its desired state: the target group is orphaned, and collected later.
    pub(super) async fn leave_groups(&self, port: &mut Port, but: Option<&str>, turn: &mut Turn) {
        if let Err(failure) = self.remove_groups(port, but, turn).await {
            info!(load_balancer = %self.name, why = ?failure, "orphaned target group");
        }
    }

    /// The backends as targets.
    fn targets(&self, key: ListenerKey, listener: &Listener) -> Result<BTreeSet<Target>, Failure> {
        let target = |backend| {
            Target::of(self.settings, backend).ok_or_else(|| {
                let (what, kind) =
                    (backend.provider_id.as_deref().unwrap_or("a node"), self.settings.target_kind.as_str());
                let what =
                    format!("{} ({what}) cannot be a target of {key}: its target group takes {kind}", backend.address);
                Failure::invalid("RegisterTargets", what)
            })
        };
        listener.backends.iter().map(target).collect()
    }

    /// The target group of this listener, taken out of the port: the existing one, or a new
    /// one.
    async fn group(&self, port: &mut Port, key: ListenerKey, tags: &Tags, turn: &mut Turn) -> Result<Group, Failure> {
        let name = names::group_name(self.settings, self.name, key);
        if let Some(at) = port.groups.iter().position(|group| group.name == name) {
            return Ok(port.groups.remove(at));
        }
        if self.taken.contains(&name) {
            let why = format!(
                "target group {name} exists and is not ours, or a listener that is not ours forwards to it: delete what \
                 is not ours, or give it its tags back"
            );
            return Err(Failure::invalid("CreateTargetGroup", why));
        }
        self.create_group(&name, key, tags, turn).await
    }

    async fn create_group(&self, name: &str, key: ListenerKey, tags: &Tags, turn: &mut Turn) -> Result<Group, Failure> {
        let probe = Probe::wanted(&self.settings.health_check);
        let request = self.region.client().await.create_target_group();
        let request = request
            .name(name)
            .protocol(protocol(key.protocol))
            // Each target has its own port; this one is for an admin.
            .port(key.port.get().into())
            .vpc_id(&self.settings.vpc_id)
            .target_type(TargetTypeEnum::from(self.settings.target_kind.as_str()))
            .ip_address_type(TargetGroupIpAddressTypeEnum::from(names::address_family(self.settings).as_aws()))
            .health_check_protocol(ProtocolEnum::from(probe.protocol.as_str()))
            .health_check_port(&probe.port)
            .set_health_check_path(probe.path.clone())
            .health_check_interval_seconds(probe.interval_seconds)
            .health_check_timeout_seconds(probe.timeout_seconds)
            .healthy_threshold_count(probe.healthy)
            .unhealthy_threshold_count(probe.unhealthy)
            .set_tags(Some(names::to_aws(tags)));
        let reply = self.region.call("CreateTargetGroup", turn, || request.clone().send()).await?;
        let arn = reply.target_groups.unwrap_or_default().into_iter().find_map(|group| group.target_group_arn);
        let arn = arn.ok_or_else(|| Failure::invalid("CreateTargetGroup", "the answer has no ARN".into()))?;
        let name = name.to_owned();
        let targets = BTreeSet::new();
        let tags = tags.clone();
        let attributes = Some(GroupAttributes::DEFAULT.to_owned());
        Ok(Group { arn, name, targets, probe, tags, used: false, attributes })
    }

    /// Attributes, targets and listener of a target group.
    async fn fill(
        &self,
        port: &mut Port,
        group: &mut Group,
        DesiredPort { key, targets, attributes, tags }: &DesiredPort,
        turn: &mut Turn,
    ) -> Result<(), Failure> {
        let key = *key;
        let summary = attributes.summary();
        let in_use = port.listener.as_ref().is_some_and(|found| found.group.as_ref() == Some(&group.arn));
        match &mut port.listener {
            Some(listener) if in_use => {
                let was_sticky = GroupAttributes::are_sticky(listener.group_attributes());
                if was_sticky != GroupAttributes::are_sticky(&summary) {
                    self.change_group_attributes(&group.arn, listener, key, attributes, turn).await?;
                }
            }
            _ if group.attributes.as_ref() != Some(&summary) => {
                group.attributes = None;
                self.set_group_attributes(&group.arn, key, attributes, turn).await?;
                group.attributes = Some(summary);
            }
            _ => {}
        }
        // Clients of another claim must not reach the pods of the former one, and no client
        // may reach targets that a failed attempt has left in a group.
        if !in_use || !names::are_of_same_claim(&group.tags, tags) {
            self.deregister(group, targets, turn).await?;
        }
        self.register(group, targets, turn).await?;
        match &mut port.listener {
            None => port.listener = Some(self.create_listener(group, key, attributes, tags, turn).await?),
            Some(listener) if !in_use || listener.protocol != Some(key.protocol) => {
                self.modify_listener(listener, key, &group.arn, attributes, turn).await?;
                port.groups.iter_mut().for_each(|other| other.used = false);
            }
            Some(_) => {}
        }
        group.used = true;
        let listener = port.listener.iter_mut().map(|listener| (listener.arn.as_str(), &mut listener.tags));
        self.tag(listener.chain([(group.arn.as_str(), &mut group.tags)]), tags, turn).await?;
        self.deregister(group, targets, turn).await
    }

    /// Adds the tags that any of these objects lacks, in one call.
    pub(super) async fn tag<'t>(
        &self,
        all: impl Iterator<Item = (&'t str, &'t mut Tags)>,
        wanted: &Tags,
        turn: &mut Turn,
    ) -> Result<(), Failure> {
        let lacks = |has: &Tags| wanted.iter().any(|(key, value)| has.get(key) != Some(value));
        let mut lacking: Vec<_> = all.filter(|(_, has)| lacks(has)).collect();
        let given: Tags = wanted
            .iter()
            .filter(|(k, v)| lacking.iter().any(|(_, has)| has.get(*k) != Some(v)))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        for chunk in lacking.chunks_mut(RESOURCES_PER_CALL) {
            let arns = chunk.iter().map(|(arn, _)| (*arn).to_owned()).collect();
            let request = self.region.client().await.add_tags().set_resource_arns(Some(arns));
            let request = request.set_tags(Some(names::to_aws(&given)));
            self.region.call("AddTags", turn, || request.clone().send()).await?;
            chunk.iter_mut().for_each(|(_, has)| has.extend(given.clone()));
        }
        Ok(())
    }

    /// Changes the attributes of the target group that a listener uses, and then the
    /// listener's tag.
    pub(super) async fn change_group_attributes(
        &self,
        group: &str,
        listener: &mut ListenerState,
        key: ListenerKey,
        attributes: &GroupAttributes,
        turn: &mut Turn,
    ) -> Result<(), Failure> {
        self.set_group_attributes(group, key, attributes, turn).await?;
        self.tag_with_attributes(listener, attributes, turn).await
    }

    /// Records the attributes of a target group in the tag of its listener.
    async fn tag_with_attributes(
        &self,
        listener: &mut ListenerState,
        attributes: &GroupAttributes,
        turn: &mut Turn,
    ) -> Result<(), Failure> {
        let summary = attributes.summary();
        if listener.group_attributes() == summary {
            return Ok(());
        }
        let given = Tags::from([(GROUP_ATTRIBUTES.to_owned(), summary)]);
        self.tag([(listener.arn.as_str(), &mut listener.tags)].into_iter(), &given, turn).await
    }

    async fn set_group_attributes(
        &self,
        arn: &str,
        key: ListenerKey,
        attributes: &GroupAttributes,
        turn: &mut Turn,
    ) -> Result<(), Failure> {
        let request = self.region.client().await.modify_target_group_attributes();
        let request = request.target_group_arn(arn).set_attributes(Some(attributes.to_aws(key)));
        self.region.call("ModifyTargetGroupAttributes", turn, || request.clone().send()).await.map(drop)
    }

    async fn register(&self, group: &mut Group, wanted: &BTreeSet<Target>, turn: &mut Turn) -> Result<(), Failure> {
        let missing: Vec<Target> = wanted.difference(&group.targets).cloned().collect();
        for chunk in missing.chunks(TARGETS_PER_CALL) {
            let request = self.region.client().await.register_targets().target_group_arn(&group.arn);
            let request = request.set_targets(Some(descriptions(chunk)));
            self.region.call("RegisterTargets", turn, || request.clone().send()).await?;
            group.targets.extend(chunk.iter().cloned());
        }
        Ok(())
    }

    async fn deregister(&self, group: &mut Group, wanted: &BTreeSet<Target>, turn: &mut Turn) -> Result<(), Failure> {
        let superfluous: Vec<Target> = group.targets.difference(wanted).cloned().collect();
        for chunk in superfluous.chunks(TARGETS_PER_CALL) {
            let request = self.region.client().await.deregister_targets().target_group_arn(&group.arn);
            let request = request.set_targets(Some(descriptions(chunk)));
            match self.region.call("DeregisterTargets", turn, || request.clone().send()).await {
                Err(failure) if !failure.is(Code::InvalidTarget) => return Err(failure),
                // It is not registered, as desired.
                _ => chunk.iter().for_each(|target| _ = group.targets.remove(target)),
            }
        }
        Ok(())
    }

    async fn create_listener(
        &self,
        group: &Group,
        key: ListenerKey,
        attributes: &GroupAttributes,
        tags: &Tags,
        turn: &mut Turn,
    ) -> Result<ListenerState, Failure> {
        let summary = attributes.summary();
        let mut tags = tags.clone();
        if summary != GroupAttributes::DEFAULT {
            tags.insert(GROUP_ATTRIBUTES.to_owned(), summary);
        }
        let request = self.region.client().await.create_listener();
        let request = request
            .load_balancer_arn(self.arn)
            .protocol(protocol(key.protocol))
            .port(key.port.get().into())
            .default_actions(forward(&group.arn))
            .set_tags(Some(names::to_aws(&tags)));
        let reply = self.region.call("CreateListener", turn, || request.clone().send()).await?;
        let arn = reply.listeners.unwrap_or_default().into_iter().find_map(|listener| listener.listener_arn);
        let arn = arn.ok_or_else(|| Failure::invalid("CreateListener", "the answer has no ARN".into()))?;
        Ok(ListenerState { arn, protocol: Some(key.protocol), group: Some(group.arn.clone()), tags })
    }

    /// Has a listener accept the protocol and forward to the target group, in one call, so
    /// that the port is never closed. AWS allows changes between TCP, UDP and TCP_UDP (NLB
    /// user guide, "Update a listener"). Open connections stay with their targets in the
    /// former group.
    ///
    /// The targets of a new group have not passed a health check. Waiting for one would not
    /// help: AWS checks no targets of a group that no listener forwards to (their state is
    /// `unused`, with the reason `Target.NotInUse`).
    async fn modify_listener(
        &self,
        listener: &mut ListenerState,
        key: ListenerKey,
        group: &str,
        attributes: &GroupAttributes,
        turn: &mut Turn,
    ) -> Result<(), Failure> {
        let other_protocol = (listener.protocol != Some(key.protocol)).then(|| protocol(key.protocol));
        let request = self.region.client().await.modify_listener();
        let request = request.listener_arn(&listener.arn).set_protocol(other_protocol).default_actions(forward(group));
        self.region.call("ModifyListener", turn, || request.clone().send()).await?;
        listener.protocol = Some(key.protocol);
        listener.group = Some(group.to_owned());
        self.tag_with_attributes(listener, attributes, turn).await
    }

    pub(super) async fn close(&self, port: &mut Port, turn: &mut Turn) -> Result<(), Failure> {
        let Some(listener) = &port.listener else { return Ok(()) };
        let request = self.region.client().await.delete_listener().listener_arn(&listener.arn);
        match self.region.call("DeleteListener", turn, || request.clone().send()).await {
            Err(failure) if !failure.is(Code::ListenerNotFound) => return Err(failure),
            _ => port.listener = None,
        }
        port.groups.iter_mut().for_each(|group| group.used = false);
        Ok(())
    }

    /// Deletes the target groups of a port except the one that is used. One that AWS still has
    /// in use stays, without an error.
    ///
    /// # Errors
    /// The first call that failed for another reason.
    pub(super) async fn remove_groups(
        &self,
        port: &mut Port,
        but: Option<&str>,
        turn: &mut Turn,
    ) -> Result<(), Failure> {
        let (stay, go) =
            std::mem::take(&mut port.groups).into_iter().partition(|group| Some(group.name.as_str()) == but);
        port.groups = stay;
        turn.urgency = turn.urgency.max(Urgency::Close);
        let mut result = Ok(());
        for group in go {
            let request = self.region.client().await.delete_target_group().target_group_arn(&group.arn);
            match self.region.call("DeleteTargetGroup", turn, || request.clone().send()).await {
                Err(failure) if !failure.is(Code::TargetGroupNotFound) => {
                    port.groups.push(group);
                    result = if failure.is(Code::ResourceInUse) { result } else { result.and(Err(failure)) };
                }
                _ => {}
            }
        }
        result
    }
}

fn forward(group: &str) -> Action {
    Action::builder().r#type(ActionTypeEnum::Forward).target_group_arn(group).build()
}

fn descriptions(targets: &[Target]) -> Vec<TargetDescription> {
    targets.iter().map(Target::to_aws).collect()
}

fn protocol(protocol: Protocol) -> ProtocolEnum {
    match protocol {
        Protocol::Tcp => ProtocolEnum::Tcp,
        Protocol::Udp => ProtocolEnum::Udp,
        Protocol::TcpUdp => ProtocolEnum::TcpUdp,
    }
}
