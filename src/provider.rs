//! Creates the provider of a class from its spec.

use std::net::IpAddr;
use std::sync::Arc;

use futures::FutureExt as _;
use kube::Client;
use sharedlb_crds::{AwsHealthCheck, AwsIpAddressType, AwsProvider, AwsScheme, AwsTargetGroupIpAddressType};
use sharedlb_crds::{Provider as ProviderSpec, ServiceProvider as ServiceSpec, SharedLBClassSpec, TargetKind};
use sharedlb_providers::aws::{self, Aws, Clients, Rates};
use sharedlb_providers::service::{self, ServiceProvider};
use sharedlb_providers::vip::{self, Vip};
use sharedlb_providers::{IpFamily, Provider};

use crate::api::class::ClassObject;
use crate::class::MakeProvider;
use crate::kubernetes::events::Events;
use crate::leader::Fence;

/// Returns the function that creates providers, which share clients and budgets within the
/// process. `aws_call_rate` is a fraction of the rates that AWS documents. (The client of
/// the API server has a fence of its own.)
pub(crate) fn maker(
    client: Client,
    events: Events,
    cluster_id: String,
    aws_call_rate: f64,
    fence: Fence,
) -> MakeProvider {
    let act = move || {
        let fence = fence.clone();
        async move { Box::new(fence.act().await) as Box<dyn Send> }.boxed()
    };
    let clients = Clients::new(None, Rates::DOCUMENTED.times(aws_call_rate), Some(Arc::new(act)));
    Box::new(move |class: &ClassObject, spec: &SharedLBClassSpec, addresses: &[Vec<IpAddr>]| -> Box<dyn Provider> {
        let (class, class_uid) = (class.meta.key.name.to_string(), class.meta.uid.to_string());
        match &spec.provider {
            ProviderSpec::Service(given) => {
                let settings = service_settings(given, addresses, client.clone(), cluster_id.clone(), class);
                Box::new(ServiceProvider::new(settings))
            }
            ProviderSpec::Vip(_) => Box::new(Vip::new(vip::Settings {
                client: client.clone(),
                namespace: ServiceSpec::default().namespace,
                cluster_id: cluster_id.clone(),
                class,
                class_uid,
                addresses: addresses.to_vec(),
                events: events.clone(),
            })),
            ProviderSpec::Aws(given) => {
                Box::new(Aws::new(aws_settings(given, spec.targets, cluster_id.clone(), class), &clients))
            }
        }
    })
}

fn service_settings(
    given: &ServiceSpec,
    addresses: &[Vec<IpAddr>],
    client: Client,
    cluster_id: String,
    class: String,
) -> service::Settings {
    service::Settings {
        client,
        namespace: given.namespace.clone(),
        cluster_id,
        class,
        annotations: given.annotations.clone(),
        load_balancer_class: given.load_balancer_class.clone(),
        allocate_load_balancer_node_ports: given.allocate_load_balancer_node_ports,
        ip_family_policy: given.ip_family_policy.map(|policy| policy.as_str().to_owned()),
        ip_families: given.ip_families.iter().copied().map(ip_family).collect(),
        // `spec.loadBalancerIP` of a Service is one address.
        addresses: addresses.iter().filter_map(|all| all.first().copied()).collect(),
    }
}

/// The model's IP family for the API's.
fn ip_family(family: sharedlb_crds::IpFamily) -> IpFamily {
    match family {
        sharedlb_crds::IpFamily::V4 => IpFamily::V4,
        sharedlb_crds::IpFamily::V6 => IpFamily::V6,
    }
}

/// Settings that the class leaves out get AWS' defaults.
fn aws_settings(given: &AwsProvider, targets: Option<TargetKind>, cluster_id: String, class: String) -> aws::Settings {
    let plain = given.subnets.iter().map(|id| aws::SubnetMapping { subnet_id: id.clone(), ..Default::default() });
    let mapped = given.subnet_mappings.iter().map(|mapping| aws::SubnetMapping {
        subnet_id: mapping.subnet_id.clone(),
        allocation_id: mapping.allocation_id.clone(),
        private_ipv4_address: mapping.private_ipv4_address.map(|address| address.to_string()),
        ipv6_address: mapping.ipv6_address.map(|address| address.to_string()),
    });
    aws::Settings {
        region: given.region.clone(),
        vpc_id: given.vpc_id.clone(),
        scheme: match given.scheme {
            None | Some(AwsScheme::InternetFacing) => aws::Scheme::InternetFacing,
            Some(AwsScheme::Internal) => aws::Scheme::Internal,
        },
        subnet_mappings: plain.chain(mapped).collect(),
        security_groups: given.security_groups.clone(),
        ip_address_type: match given.ip_address_type {
            None | Some(AwsIpAddressType::Ipv4) => aws::IpAddressType::Ipv4,
            Some(AwsIpAddressType::Dualstack) => aws::IpAddressType::Dualstack,
        },
        target_ip_family: match given.target_group_ip_address_type {
            None | Some(AwsTargetGroupIpAddressType::Ipv4) => IpFamily::V4,
            Some(AwsTargetGroupIpAddressType::Ipv6) => IpFamily::V6,
        },
        cross_zone: given.cross_zone.unwrap_or(false),
        load_balancer_arn: given.load_balancer_arn.clone(),
        attributes: given.attributes.clone(),
        tags: given.tags.clone(),
        health_check: given.health_check.as_ref().map(aws_health_check).unwrap_or_default(),
        deregistration_delay_seconds: given.deregistration_delay_seconds,
        preserve_client_ip: given.preserve_client_ip,
        proxy_protocol_v2: given.proxy_protocol_v2.unwrap_or(false),
        target_kind: match targets {
            None | Some(TargetKind::Pod) => aws::TargetKind::Pod,
            Some(TargetKind::Node) => aws::TargetKind::Node,
        },
        cluster_id,
        class,
    }
}

fn aws_health_check(given: &AwsHealthCheck) -> aws::HealthCheck {
    // The schema limits them to 300 at most, so each is an i32.
    let number = |given: Option<u32>| given.and_then(|number| i32::try_from(number).ok());
    aws::HealthCheck {
        protocol: given.protocol.map(|protocol| protocol.as_str().to_owned()),
        port: given.port.map(|port| port.to_string()),
        path: given.path.clone(),
        interval_seconds: number(given.interval_seconds),
        timeout_seconds: number(given.timeout_seconds),
        healthy_threshold_count: number(given.healthy_threshold_count),
        unhealthy_threshold_count: number(given.unhealthy_threshold_count),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn settings(provider: serde_json::Value) -> aws::Settings {
        let spec = json!({ "provider": { "aws": provider }, "targets": "Node" });
        let spec: SharedLBClassSpec = serde_json::from_value(spec).unwrap();
        let ProviderSpec::Aws(given) = &spec.provider else { panic!("it is of AWS") };
        aws_settings(given, spec.targets, "cluster".into(), "nlb".into())
    }

    #[test]
    fn what_is_left_out_is_as_aws_has_it() {
        let settings =
            settings(json!({"region": "eu-central-1", "vpcId": "vpc-1", "subnets": ["subnet-1", "subnet-2"]}));
        assert_eq!(settings.scheme, aws::Scheme::InternetFacing);
        assert_eq!((settings.ip_address_type, settings.target_ip_family), (aws::IpAddressType::Ipv4, IpFamily::V4));
        assert_eq!(settings.health_check, aws::HealthCheck::default());
        let subnets: Vec<_> = settings.subnet_mappings.iter().map(|mapping| mapping.subnet_id.as_str()).collect();
        assert_eq!(subnets, ["subnet-1", "subnet-2"]);
        assert_eq!(settings.target_kind, aws::TargetKind::Node);
    }

    #[test]
    fn everything_that_is_given_gets_there() {
        let settings = settings(json!({
            "region": "eu-central-1", "vpcId": "vpc-1", "scheme": "internal", "ipAddressType": "dualstack",
            "targetGroupIpAddressType": "ipv6", "crossZone": true, "securityGroups": ["sg-1"],
            "subnetMappings": [{"subnetId": "subnet-1", "privateIPv4Address": "10.0.0.1", "iPv6Address": "fd00::1"}],
            "attributes": {"deletion_protection.enabled": "true"}, "tags": {"team": "edge"},
            "healthCheck": {"protocol": "HTTP", "port": 8080, "path": "/", "intervalSeconds": 5, "timeoutSeconds": 4,
                "healthyThresholdCount": 3, "unhealthyThresholdCount": 2},
            "deregistrationDelaySeconds": 60, "preserveClientIP": false, "proxyProtocolV2": true,
        }));
        assert_eq!(settings.scheme, aws::Scheme::Internal);
        assert_eq!(
            (settings.ip_address_type, settings.target_ip_family),
            (aws::IpAddressType::Dualstack, IpFamily::V6)
        );
        let mapping = &settings.subnet_mappings[0];
        assert_eq!(mapping.private_ipv4_address.as_deref(), Some("10.0.0.1"));
        assert_eq!(mapping.ipv6_address.as_deref(), Some("fd00::1"));
        let health_check = aws::HealthCheck {
            protocol: Some("HTTP".into()),
            port: Some("8080".into()),
            path: Some("/".into()),
            interval_seconds: Some(5),
            timeout_seconds: Some(4),
            healthy_threshold_count: Some(3),
            unhealthy_threshold_count: Some(2),
        };
        assert_eq!(settings.health_check, health_check);
        assert!(settings.cross_zone && settings.proxy_protocol_v2);
        assert_eq!(settings.preserve_client_ip, Some(false));
        assert_eq!(settings.deregistration_delay_seconds, Some(60));
        assert_eq!(settings.security_groups, ["sg-1"]);
        assert_eq!((settings.attributes.len(), settings.tags.len()), (1, 1));
    }
}
