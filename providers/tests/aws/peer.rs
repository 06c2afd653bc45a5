//! A region of the stand-in for AWS as the suite sees it, and what strangers do
//! there.

use std::collections::BTreeMap;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_elasticloadbalancingv2::config::Credentials;
use aws_sdk_elasticloadbalancingv2::config::SharedCredentialsProvider;
use serde_json::{Value, json};
use sharedlb_providers::aws::{
    Aws, Clients, HealthCheck, IpAddressType, Rates, Scheme, Settings, SubnetMapping, TargetKind,
};
use sharedlb_providers::conformance::Peer;
use sharedlb_providers::{FrontPort, IpFamily, LbName, ListenerKey, Provider};
use sharedlb_testbed::{AwsCall, AwsFault, AwsRegion, FaultKind};

/// The name of the fault that stands for a killed process.
const DEAD: &str = "dead";
/// The name of the fault by which a listener is refused.
const REFUSED: &str = "refused";

/// A region of its own for each test.
pub(crate) struct Cloud(pub(crate) AwsRegion);

impl Cloud {
    /// As the smallest class has them.
    pub(crate) fn settings(&self) -> Settings {
        let subnet = |id: &String| SubnetMapping { subnet_id: id.clone(), ..SubnetMapping::default() };
        Settings {
            region: self.0.name.clone(),
            vpc_id: self.0.vpc.clone(),
            scheme: Scheme::Internal,
            subnet_mappings: self.0.subnets.iter().map(subnet).collect(),
            security_groups: vec![self.0.security_group.clone()],
            ip_address_type: IpAddressType::Ipv4,
            target_ip_family: IpFamily::V4,
            cross_zone: false,
            load_balancer_arn: None,
            attributes: BTreeMap::new(),
            tags: [("team".to_owned(), "network".to_owned())].into(),
            health_check: HealthCheck::default(),
            deregistration_delay_seconds: None,
            preserve_client_ip: None,
            proxy_protocol_v2: false,
            target_kind: TargetKind::Pod,
            cluster_id: "cluster".into(),
            class: "conformance".into(),
        }
    }

    /// What a process has, with so many times the documented rates of calls.
    pub(crate) fn clients(&self, rates: f64) -> Clients {
        Clients::new(Some(self.config()), Rates::DOCUMENTED.times(rates), None)
    }

    /// How a process reaches it.
    pub(crate) fn config(&self) -> SdkConfig {
        let credentials = Credentials::builder().access_key_id("CONTROLLER").secret_access_key("secret");
        let credentials = credentials.provider_name("test").build();
        SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(self.0.name.clone()))
            .endpoint_url(self.0.url())
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .build()
    }

    /// A provider of a process of its own, that is held back by no budget.
    pub(crate) fn provider_with(&self, settings: Settings) -> Aws {
        Aws::new(settings, &self.clients(1000.0))
    }

    /// The actions of the calls so far, and forgets them.
    pub(crate) async fn actions(&self) -> Vec<String> {
        let calls: Vec<AwsCall> = self.0.log().await.expect("the log is there");
        self.0.forget().await.expect("the log is emptied");
        calls.into_iter().map(|call| call.action).collect()
    }

    pub(crate) async fn fault(&self, fault: AwsFault) {
        self.0.fault(&fault).await.expect("the fault is set");
    }

    /// A call of somebody else.
    pub(crate) async fn call(&self, call: &str, parameters: Value) -> Value {
        self.0.call(call, parameters).await.expect("the stranger may")
    }

    /// The ARN of a load balancer.
    pub(crate) async fn arn(&self, name: &LbName) -> String {
        let found = self.call("describe_load_balancers", json!({"Names": [name.as_str()]})).await;
        text(&found["LoadBalancers"][0]["LoadBalancerArn"])
    }

    /// The listeners of a load balancer by their ports.
    pub(crate) async fn listeners(&self, name: &LbName) -> BTreeMap<u64, Value> {
        let arn = self.arn(name).await;
        let found = self.call("describe_listeners", json!({"LoadBalancerArn": arn})).await;
        let listeners = found["Listeners"].as_array().cloned().unwrap_or_default();
        listeners.into_iter().map(|listener| (listener["Port"].as_u64().expect("it has a port"), listener)).collect()
    }

    /// The names of all target groups.
    pub(crate) async fn groups(&self) -> Vec<String> {
        let found = self.call("describe_target_groups", json!({})).await;
        let groups = found["TargetGroups"].as_array().cloned().unwrap_or_default();
        groups.iter().map(|group| text(&group["TargetGroupName"])).collect()
    }

    /// A stranger's target group.
    pub(crate) async fn foreign_group(&self, name: &str, protocol: &str) -> String {
        let group = json!({"Name": name, "Protocol": protocol, "Port": 1, "VpcId": self.0.vpc, "TargetType": "ip"});
        text(&self.call("create_target_group", group).await["TargetGroups"][0]["TargetGroupArn"])
    }
}

#[async_trait::async_trait]
impl Peer for Cloud {
    async fn provider(&self) -> Box<dyn Provider> {
        self.0.release(DEAD).await.expect("the dead one stays dead by itself");
        Box::new(self.provider_with(self.settings()))
    }

    async fn provider_dying_after(&self, calls: usize) -> Box<dyn Provider> {
        let provider = self.provider().await;
        self.fault(AwsFault::new(DEAD, FaultKind::Unreached, &["*"]).after(calls).times(None)).await;
        provider
    }

    async fn open_foreign(&self, name: &LbName, port: FrontPort) {
        let protocol = port.transport.to_string();
        let group = self.foreign_group(&format!("theirs-{}", port.port), &protocol).await;
        let listener = json!({
            "LoadBalancerArn": self.arn(name).await, "Port": port.port, "Protocol": protocol,
            "DefaultActions": [{"Type": "forward", "TargetGroupArn": group}],
        });
        self.call("create_listener", listener).await;
    }

    async fn has_foreign(&self, name: &LbName, port: FrontPort) -> bool {
        let listeners = self.listeners(name).await;
        let Some(listener) = listeners.get(&port.port.get().into()) else { return false };
        let group = text(&listener["DefaultActions"][0]["TargetGroupArn"]);
        group.contains(&format!("/theirs-{}/", port.port)) && listener["Protocol"] == port.transport.to_string()
    }

    async fn refuse(&self, listener: ListenerKey) {
        let fault = AwsFault::error(REFUSED, &["CreateListener"], "InvalidConfigurationRequest", "refused on demand");
        self.fault(fault.with("Port", &listener.port.to_string()).times(None)).await;
    }

    async fn accept_all(&self) {
        self.0.release(REFUSED).await.expect("the fault is released");
    }
}

pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}
