//! Creates, configures and deletes the load balancer as a whole.

use std::collections::BTreeMap;

use aws_sdk_elasticloadbalancingv2::types::{
    IpAddressType, LoadBalancerAttribute, LoadBalancerSchemeEnum, LoadBalancerTypeEnum, ProtocolEnum, SubnetMapping,
};

use super::clients::Region;
use super::config::{self, GroupAttributes, Probe};
use super::failure::{Code, Failure};
use super::known::{Known, Nlb};
use super::names::{self, Tags};
use super::observe;
use super::port::Ports;
use super::settings::Settings;
use super::view;
use crate::budget::Turn;
use crate::model::{Attributes, LbName, ListenerKey};

/// The calls for one load balancer as a whole.
pub(super) struct Whole<'a> {
    pub(super) region: &'a Region,
    pub(super) settings: &'a Settings,
    pub(super) name: &'a LbName,
}

impl Whole<'_> {
    /// Creates it. If an earlier call created it and its answer was lost, AWS returns the
    /// existing one.
    pub(super) async fn create(&self, turn: &mut Turn) -> Result<Nlb, Failure> {
        let tags = names::tags(self.settings, self.name);
        let request = self.region.client().await.create_load_balancer();
        let request = request
            .name(self.name.as_str())
            .r#type(LoadBalancerTypeEnum::Network)
            .scheme(LoadBalancerSchemeEnum::from(self.settings.scheme.as_str()))
            .ip_address_type(IpAddressType::from(self.settings.ip_address_type.as_str()))
            .set_subnet_mappings(Some(self.settings.subnet_mappings.iter().map(subnet_mapping).collect()))
            .set_security_groups(Some(self.settings.security_groups.clone()).filter(|groups| !groups.is_empty()))
            .set_tags(Some(names::to_aws(&tags)));
        let reply = self.region.call("CreateLoadBalancer", turn, || request.clone().send()).await?;
        let made = reply.load_balancers.unwrap_or_default().into_iter().find(|made| made.load_balancer_arn().is_some());
        let made =
            made.ok_or_else(|| Failure::invalid("CreateLoadBalancer", "the answer has no load balancer".into()))?;
        Ok(observe::nlb(&made, tags, BTreeMap::new()))
    }

    /// Applies the settings of the class to it and its target groups, as far as they differ.
    ///
    /// # Errors
    /// The first call that failed; all others are made, so that one setting that AWS refuses
    /// delays no other.
    pub(super) async fn configure(&self, known: &mut Known, turn: &Turn) -> Result<(), Failure> {
        let mut results = Vec::new();
        let arn = match &mut known.nlb {
            Some(nlb) => {
                if self.settings.load_balancer_arn.is_none() {
                    results.push(self.set_security_groups(nlb, &mut turn.clone()).await);
                    results.push(self.set_attributes(nlb, &mut turn.clone()).await);
                }
                nlb.arn.clone()
            }
            None => return Ok(()),
        };
        let taken = known.foreign.names.clone();
        let ports = Ports { region: self.region, settings: self.settings, name: self.name, arn: &arn, taken: &taken };
        results.push(self.tag(known, &ports, &mut turn.clone()).await);
        for (number, port) in &mut known.ports {
            let Some(protocol) = port.listener.as_ref().and_then(|listener| listener.protocol) else { continue };
            if view::probe_differs(self.settings, port)
                && let Some(group) = port.used_group().map(|group| group.arn.clone())
            {
                let wanted = Probe::wanted(&self.settings.health_check);
                let done = self.set_probe(&group, &wanted, &mut turn.clone()).await;
                if done.is_ok() {
                    port.groups
                        .iter_mut()
                        .filter(|found| found.arn == group)
                        .for_each(|found| found.probe = wanted.clone());
                }
                results.push(done);
            }
            if view::group_attributes_differ(self.settings, port)
                && let Some(group) = port.used_group().map(|group| group.arn.clone())
                && let Some(listener) = &mut port.listener
            {
                let sticky = GroupAttributes::are_sticky(listener.group_attributes());
                let attributes = GroupAttributes::wanted(self.settings, sticky);
                let key = ListenerKey { port: *number, protocol };
                let mut turn = turn.clone();
                results.push(ports.change_group_attributes(&group, listener, key, &attributes, &mut turn).await);
            }
        }
        results.into_iter().collect()
    }

    async fn set_security_groups(&self, nlb: &mut Nlb, turn: &mut Turn) -> Result<(), Failure> {
        if !view::security_groups_differ(self.settings, nlb) {
            return Ok(());
        }
        let wanted = &self.settings.security_groups;
        let request = self.region.client().await.set_security_groups();
        let request = request.load_balancer_arn(&nlb.arn).set_security_groups(Some(wanted.clone()));
        self.region.call("SetSecurityGroups", turn, || request.clone().send()).await?;
        nlb.security_groups.clone_from(wanted);
        Ok(())
    }

    async fn set_attributes(&self, nlb: &mut Nlb, turn: &mut Turn) -> Result<(), Failure> {
        let wanted = config::nlb_attributes(self.settings).into_iter();
        let differing: Attributes = wanted.filter(|(key, value)| nlb.attributes.get(key) != Some(value)).collect();
        if differing.is_empty() {
            return Ok(());
        }
        let attribute = |(key, value)| LoadBalancerAttribute::builder().key(key).value(value).build();
        let request = self.region.client().await.modify_load_balancer_attributes().load_balancer_arn(&nlb.arn);
        let request = request.set_attributes(Some(differing.iter().map(attribute).collect()));
        self.region.call("ModifyLoadBalancerAttributes", turn, || request.clone().send()).await?;
        nlb.attributes.extend(differing);
        Ok(())
    }

    /// Adds the admin's tags to all objects that lack one. (A tag that was removed from the
    /// class stays: it can no longer be recognized as the class'.)
    async fn tag(&self, known: &mut Known, ports: &Ports<'_>, turn: &mut Turn) -> Result<(), Failure> {
        let lacking: Vec<String> =
            view::untagged(self.settings, self.name, known, None).into_iter().map(str::to_owned).collect();
        let nlb = known.nlb.iter_mut().map(|nlb| (nlb.arn.as_str(), &mut nlb.tags));
        let of_ports = known.ports.values_mut().flat_map(|port| {
            let listener = port.listener.iter_mut().map(|listener| (listener.arn.as_str(), &mut listener.tags));
            listener.chain(port.groups.iter_mut().map(|group| (group.arn.as_str(), &mut group.tags)))
        });
        let all: Vec<(&str, &mut Tags)> =
            nlb.chain(of_ports).filter(|(arn, _)| lacking.iter().any(|l| l == arn)).collect();
        ports.tag(all.into_iter(), &self.settings.tags, turn).await
    }

    async fn set_probe(&self, group: &str, wanted: &Probe, turn: &mut Turn) -> Result<(), Failure> {
        let request = self.region.client().await.modify_target_group();
        let request = request
            .target_group_arn(group)
            .health_check_protocol(ProtocolEnum::from(wanted.protocol.as_str()))
            .health_check_port(&wanted.port)
            .set_health_check_path(wanted.path.clone())
            .health_check_interval_seconds(wanted.interval_seconds)
            .health_check_timeout_seconds(wanted.timeout_seconds)
            .healthy_threshold_count(wanted.healthy)
            .unhealthy_threshold_count(wanted.unhealthy);
        self.region.call("ModifyTargetGroup", turn, || request.clone().send()).await.map(drop)
    }

    /// Deletes it, and its listeners with it.
    pub(super) async fn delete(&self, nlb: &Nlb, turn: &mut Turn) -> Result<(), Failure> {
        let request = self.region.client().await.delete_load_balancer().load_balancer_arn(&nlb.arn);
        match self.region.call("DeleteLoadBalancer", turn, || request.clone().send()).await {
            Err(failure) if !failure.is(Code::LoadBalancerNotFound) => Err(failure),
            _ => Ok(()),
        }
    }
}

fn subnet_mapping(given: &super::settings::SubnetMapping) -> SubnetMapping {
    SubnetMapping::builder()
        .subnet_id(&given.subnet_id)
        .set_allocation_id(given.allocation_id.clone())
        .set_private_ipv4_address(given.private_ipv4_address.clone())
        .set_ipv6_address(given.ipv6_address.clone())
        .build()
}
