//! Creates the provider of a class from its spec.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt as _;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use secrecy::SecretString;
use sharedlb_crds::{AwsHealthCheck, AwsIpAddressType, AwsProvider, AwsScheme, AwsTargetGroupIpAddressType};
use sharedlb_crds::{GcpFirewall, GcpFirewallManagement, GcpNetworkTier, GcpProvider, GcpScheme, GcpSessionAffinity};
use sharedlb_crds::{HttpUpdaterProvider, HttpUpdaterVerification};
use sharedlb_crds::{
    PortRange, PortRanges, Provider as ProviderSpec, ServiceProvider as ServiceSpec, SharedLBClassSpec, TargetKind,
    Transport,
};
use sharedlb_providers::aws::{self, Aws, Clients, Rates};
use sharedlb_providers::gcp::{self, Gcp};
use sharedlb_providers::http_updater::{self, HttpUpdater};
use sharedlb_providers::service::{self, ServiceProvider};
use sharedlb_providers::vip::{self, Vip};
use sharedlb_providers::{Address, Details, Error, FrontPort, Gate, IpFamily, Provider, SecretData, Secrets};

use crate::api::claim::transport;
use crate::api::class::ClassObject;
use crate::backends::Backends;
use crate::class::MakeProvider;
use crate::kubernetes::events::Events;
use crate::leader::Fence;

/// What the providers of all classes share.
pub(crate) struct Shared {
    /// The API server, behind a fence of its own
    pub(crate) client: Client,
    pub(crate) events: Events,
    pub(crate) cluster_id: String,
    /// The rate of calls to AWS, as a fraction of the rates that AWS documents
    pub(crate) aws_call_rate: f64,
    /// How often a load balancer is observed although no change is known
    pub(crate) resync: Duration,
    /// The fence for calls that change something elsewhere
    pub(crate) fence: Fence,
    pub(crate) backends: Arc<Backends>,
}

/// Returns the function that creates providers, which share clients and budgets within the
/// process.
pub(crate) fn maker(shared: Shared) -> MakeProvider {
    let Shared { client, events, cluster_id, aws_call_rate, resync, fence, backends } = shared;
    let act = move || {
        let fence = fence.clone();
        async move { Box::new(fence.act().await) as Box<dyn Send> }.boxed()
    };
    let gate: Gate = Arc::new(act);
    let clients = Clients::new(None, Rates::DOCUMENTED.times(aws_call_rate), Some(gate.clone()));
    let secrets: Arc<dyn Secrets> = Arc::new(OwnSecrets(client.clone()));
    let google = gcp::Clients::new(None, gcp::Rates::DEFAULT, Some(gate.clone()), secrets.clone());
    let updaters = http_updater::Context {
        client: client.clone(),
        namespace: ServiceSpec::default().namespace,
        secrets,
        gate: Some(gate),
        rate: http_updater::RATE,
        admits: http_updater::may_be_host,
        // What the last resync has posted is due at the next one, however long each takes.
        repeat_after: resync / 2,
    };
    let own = cluster_id.clone();
    let services = client.clone();
    let vip_settings = move |class: String, class_uid: String, addresses: &[Vec<IpAddr>]| vip::Settings {
        client: services.clone(),
        namespace: ServiceSpec::default().namespace,
        cluster_id: own.clone(),
        class,
        class_uid,
        addresses: addresses.to_vec(),
        events: events.clone(),
    };
    Box::new(move |class: &ClassObject, spec: &SharedLBClassSpec, addresses: &[Vec<IpAddr>]| -> Box<dyn Provider> {
        let (class, class_uid) = (class.meta.key.name.to_string(), class.meta.uid.to_string());
        match &spec.provider {
            ProviderSpec::Service(given) => {
                let settings =
                    service_settings(given, &spec.ports, addresses, client.clone(), cluster_id.clone(), class);
                Box::new(ServiceProvider::new(settings))
            }
            ProviderSpec::Vip(_) => Box::new(Vip::new(vip_settings(class, class_uid, addresses))),
            ProviderSpec::Gcp(given) => {
                let settings = gcp_settings(given, &spec.ports.dynamic, cluster_id.clone(), class.clone());
                backends.need_nodes();
                Box::new(Gcp::new(settings, vip_settings(class, class_uid, &[]), &google, backends.node_ids()))
            }
            ProviderSpec::Aws(given) => {
                Box::new(Aws::new(aws_settings(given, spec.targets, cluster_id.clone(), class), &clients))
            }
            ProviderSpec::HttpUpdater(given) => {
                Box::new(HttpUpdater::new(updater_settings(given, cluster_id.clone(), class), &updaters))
            }
        }
    })
}

fn service_settings(
    given: &ServiceSpec,
    ports: &PortRanges,
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
        parked: parked(given.parked_transports(), ports),
        ip_family_policy: given.ip_family_policy.map(|policy| policy.as_str().to_owned()),
        ip_families: given.ip_families.iter().copied().map(ip_family).collect(),
        // `spec.loadBalancerIP` of a Service is one address.
        addresses: addresses.iter().filter_map(|all| all.first().copied()).collect(),
    }
}

/// The parked ports of a class with these ranges, for these transport protocols: the five lowest
/// ports and the highest one. GKE's rule has up to five single ports, and a range for more.
fn parked(transports: &[Transport], ports: &PortRanges) -> BTreeSet<FrontPort> {
    const LOWEST: usize = 5;
    let ranges = || ports.dynamic.iter().chain(&ports.requestable);
    let lowest_of_each = ranges().flat_map(|range| (range.min.get()..=range.max.get()).take(LOWEST));
    let lowest = lowest_of_each.filter_map(NonZeroU16::new).collect::<BTreeSet<_>>().into_iter().take(LOWEST);
    let numbers: BTreeSet<NonZeroU16> = lowest.chain(ranges().map(|range| range.max).max()).collect();
    let of = |protocol: &Transport| {
        let transport = transport(*protocol);
        numbers.iter().map(move |port| FrontPort { port: *port, transport })
    };
    transports.iter().flat_map(of).collect()
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

/// Fields that the class leaves out have the defaults of its schema.
fn gcp_settings(given: &GcpProvider, dynamic: &[PortRange], cluster_id: String, class: String) -> gcp::Settings {
    let GcpFirewall { manage, source_ranges, target_tags, target_service_accounts, priority, deny_rest } =
        &given.firewall;
    let reference = |text: &str| gcp::Reference::parse(text, &given.project);
    gcp::Settings {
        project: given.project.clone(),
        region: given.region.clone(),
        network: reference(&given.network),
        subnetwork: reference(&given.subnetwork),
        scheme: match given.scheme {
            GcpScheme::External => gcp::Scheme::External,
            GcpScheme::Internal => gcp::Scheme::Internal,
        },
        network_tier: match given.network_tier {
            None | Some(GcpNetworkTier::Premium) => gcp::NetworkTier::Premium,
            Some(GcpNetworkTier::Standard) => gcp::NetworkTier::Standard,
        },
        address_names: given.address_names.clone(),
        labels: given.labels.clone(),
        global_access: given.global_access.unwrap_or(false),
        session_affinity: match given.session_affinity {
            GcpSessionAffinity::None => gcp::Affinity::None,
            GcpSessionAffinity::ClientIp => gcp::Affinity::ClientIp,
            GcpSessionAffinity::ClientIpProto => gcp::Affinity::ClientIpProto,
        },
        entry_nodes: given.entry_nodes,
        firewall: gcp::Firewall {
            manage: match manage {
                GcpFirewallManagement::Ports => gcp::Managed::Ports,
                GcpFirewallManagement::Range => {
                    gcp::Managed::Range(dynamic.iter().map(|range| range.min.get()..=range.max.get()).collect())
                }
                GcpFirewallManagement::None => gcp::Managed::None,
            },
            source_ranges: source_ranges.iter().filter_map(|range| range.parse().ok()).collect(),
            target_tags: target_tags.clone(),
            target_service_accounts: target_service_accounts.clone(),
            priority: *priority,
            deny_rest: *deny_rest,
        },
        health_check: gcp::HealthCheck {
            port: given.health_check.port.get(),
            path: given.health_check.path.clone(),
            interval_seconds: given.health_check.interval_seconds,
            unhealthy_threshold: given.health_check.unhealthy_threshold,
        },
        secret_name: given.credentials.as_ref().map(|secret| secret.secret_name.clone()),
        cluster_id,
        class,
    }
}

fn updater_settings(given: &HttpUpdaterProvider, cluster_id: String, class: String) -> http_updater::Settings {
    http_updater::Settings {
        url: given.url.clone(),
        address: Address::parse(&given.address),
        ca_bundle: given.ca_bundle.clone().unwrap_or_default(),
        secret_name: given.credentials.as_ref().map(|secret| secret.secret_name.clone()),
        reserved_ports: given.reserved_ports.clone(),
        timeouts: http_updater::Timeouts {
            proxy_timeout_seconds: given.proxy_timeout_seconds,
            proxy_connect_timeout_seconds: given.proxy_connect_timeout_seconds,
        },
        verification: match given.verification {
            HttpUpdaterVerification::None => http_updater::Verification::None,
            HttpUpdaterVerification::Connect => http_updater::Verification::Connect,
        },
        cluster_id,
        class,
    }
}

/// The Secrets of the namespace that the load balancers' Services are in, which is that of the
/// controller. Each is read by its name; none is listed or watched.
struct OwnSecrets(Client);

#[async_trait]
impl Secrets for OwnSecrets {
    async fn read(&self, name: &str) -> Result<SecretData, Error> {
        let namespace = ServiceSpec::default().namespace;
        let secrets: Api<Secret> = Api::namespaced(self.0.clone(), &namespace);
        let what = format!("the Secret {namespace}/{name}");
        let secret = match secrets.get_opt(name).await {
            Ok(Some(secret)) => secret,
            Ok(None) => return Err(Error::Refused(format!("{what} does not exist").into())),
            Err(kube::Error::Api(status)) if status.code == 403 => {
                return Err(Error::Refused(format!("the controller may not get {what}").into()));
            }
            Err(error) => {
                return Err(Error::Transient(Details::new(format!("{what} cannot be read")).caused_by(error)));
            }
        };
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).ok().map(SecretString::from);
        let data = secret.data.unwrap_or_default().into_iter();
        Ok(SecretData {
            values: data.filter_map(|(key, value)| Some((key, text(value.0)?))).collect(),
            annotations: secret.metadata.annotations.unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod table;

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

    fn parked_in(provider: serde_json::Value, ports: serde_json::Value) -> Vec<String> {
        let spec: SharedLBClassSpec =
            serde_json::from_value(json!({"provider": {"service": provider}, "ports": ports})).unwrap();
        let ProviderSpec::Service(given) = &spec.provider else { panic!("it is of Services") };
        parked(given.parked_transports(), &spec.ports).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_lowest_ports_and_the_highest_one_are_parked() {
        let ports = json!({
            "dynamic": [{"min": 20000, "max": 20009}, {"min": 1000, "max": 1002}],
            "requestable": [{"min": 1002, "max": 1004}, {"min": 5432, "max": 5432}],
        });
        let tcp = ["1000/TCP", "1001/TCP", "1002/TCP", "1003/TCP", "1004/TCP", "20009/TCP"];
        assert_eq!(parked_in(json!({"parkedPorts": "TCP"}), ports), tcp);
        let one = json!({"dynamic": [{"min": 7, "max": 7}], "requestable": [{"min": 7, "max": 7}]});
        assert_eq!(parked_in(json!({"parkedPorts": "TCP_UDP"}), one), ["7/TCP", "7/UDP"]);
    }

    #[test]
    fn ports_are_parked_by_default_where_gke_serves_the_services() {
        let gke = "networking.gke.io/l4-regional-external";
        assert_eq!(parked_in(json!({"loadBalancerClass": gke}), json!({})).len(), 6);
        assert!(parked_in(json!({"loadBalancerClass": gke, "parkedPorts": "None"}), json!({})).is_empty());
        assert!(parked_in(json!({"loadBalancerClass": "example.com/other"}), json!({})).is_empty());
        assert!(parked_in(json!({}), json!({})).is_empty());
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

    #[test]
    fn a_class_of_google_cloud_gets_the_ports_and_names_that_it_gives() {
        let spec = json!({"provider": {"gcp": {
            "project": "edge-1", "region": "europe-west3", "scheme": "Internal", "globalAccess": true,
            "network": "projects/host/global/networks/vpc", "addressNames": ["one"], "sessionAffinity": "CLIENT_IP_PROTO",
            "firewall": {"manage": "Range", "sourceRanges": ["10.0.0.0/8"]}, "credentials": {"secretName": "google"},
        }}});
        let spec: SharedLBClassSpec = serde_json::from_value(spec).unwrap();
        let ProviderSpec::Gcp(given) = &spec.provider else { panic!("it is of Google Cloud") };
        let settings = gcp_settings(given, &spec.ports.dynamic, "cluster".into(), "edge".into());
        assert_eq!(settings.network, gcp::Reference { project: "host".into(), name: "vpc".into() });
        assert_eq!(settings.subnetwork, gcp::Reference { project: "edge-1".into(), name: "default".into() });
        assert_eq!((settings.scheme, settings.global_access), (gcp::Scheme::Internal, true));
        assert_eq!(settings.session_affinity, gcp::Affinity::ClientIpProto);
        assert_eq!(settings.firewall.manage, gcp::Managed::Range(vec![20_000..=29_999]));
        assert_eq!(settings.firewall.source_ranges, ["10.0.0.0/8".parse().unwrap()]);
        assert_eq!((settings.firewall.priority, settings.firewall.deny_rest), (900, true));
        assert_eq!((settings.health_check.port, settings.health_check.path.as_str()), (10_256, "/healthz"));
        assert_eq!((settings.address_names.len(), settings.secret_name.as_deref()), (1, Some("google")));
    }

    #[test]
    fn what_is_left_out_is_as_nginx_has_it() {
        let spec: SharedLBClassSpec = serde_json::from_value(json!({
            "provider": {"httpUpdater": {"url": "https://lb1.example.com/api/v1/lb", "address": "203.0.113.5"}},
        }))
        .unwrap();
        let ProviderSpec::HttpUpdater(given) = &spec.provider else { panic!("it is of an updater") };
        let settings = updater_settings(given, "cluster".into(), "nginx".into());
        assert_eq!(settings.address, Address::Ip([203, 0, 113, 5].into()));
        assert_eq!(settings.timeouts.proxy_timeout_seconds, 600);
        assert_eq!(settings.reserved_ports.iter().map(|port| port.get()).collect::<Vec<_>>(), [22]);
        assert_eq!(settings.verification, http_updater::Verification::None);
    }
}
