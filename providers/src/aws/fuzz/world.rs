//! The objects that AWS may have: ours, foreign ones, and ours that were altered by hand.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::names;
use super::super::settings::{Settings, TargetKind, tests::settings};
use super::cloud::{Fault, Paging, list, text};
use crate::model::{
    Backend, BackendSet, LbName, Listener, ListenerKey, ListenerOptions, Owner, Protocol, SessionAffinity,
};
use crate::mutate::{near, odd};

/// The load balancer's ARN, whether it is ours or adopted.
pub(super) const LB: &str = "arn:lb/0";

pub(super) fn lb_name() -> LbName {
    LbName::new("default", 0, "cluster", "uid")
}

/// The input of a test.
#[derive(Clone)]
pub(super) struct Scene {
    pub(super) settings: Settings,
    pub(super) world: Value,
    pub(super) paging: Paging,
    pub(super) faults: Vec<(usize, Fault)>,
    pub(super) wanted: Vec<(ListenerKey, Listener)>,
}

impl std::fmt::Debug for Scene {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { settings, world, paging, faults, wanted } = self;
        let adopted = settings.load_balancer_arn.is_some();
        let (kind, tags) = (settings.target_kind, &settings.tags);
        write!(f, "adopted: {adopted}, {kind:?}, {tags:?}, {paging:?}, {faults:?}, wanted: {wanted:?}, {world}")
    }
}

/// Any objects, possible and impossible.
pub(super) fn scenes() -> impl Strategy<Value = Scene> {
    (true_scenes(), paging(), prop::collection::vec((0usize..60, fault()), 0..3)).prop_flat_map(
        |(scene, paging, faults)| {
            let worlds = [near(scene.world.clone(), ""), near(scene.world.clone(), "/DescribeLoadBalancers")];
            prop::strategy::Union::new(worlds).prop_map(move |world| Scene {
                world,
                paging: paging.clone(),
                faults: faults.clone(),
                ..scene.clone()
            })
        },
    )
}

/// Objects that AWS may have by its documentation.
pub(super) fn true_scenes() -> impl Strategy<Value = Scene> {
    let all = (classes(), prop::collection::vec(unit(), 0..4), load_balancer(), prop::collection::vec(limit(), 0..3));
    all.prop_map(|(settings, units, load_balancer, limits)| {
        let wanted = units.iter().enumerate().filter_map(|(at, unit)| unit.wanted(at)).collect();
        let world = world(&settings, &units, load_balancer, &limits);
        Scene { settings, world, paging: Paging::Whole, faults: Vec::new(), wanted }
    })
}

fn classes() -> impl Strategy<Value = Settings> {
    any::<[bool; 5]>().prop_map(|[adopted, nodes, tags, groups, delay]| {
        let mut settings = settings();
        settings.load_balancer_arn = adopted.then(|| LB.to_owned());
        settings.target_kind = if nodes { TargetKind::Node } else { TargetKind::Pod };
        settings.tags = tags.then(|| ("team".to_owned(), "network".to_owned())).into_iter().collect();
        settings.security_groups = groups.then(|| "sg-1".to_owned()).into_iter().collect();
        settings.deregistration_delay_seconds = delay.then_some(7);
        settings
    })
}

/// The objects of one port number.
#[derive(Debug, Clone)]
struct Unit {
    port: Value,
    protocol: Value,
    listener: Option<(Tags, Forwards)>,
    group: Option<(Tags, GroupName, Value, On)>,
    targets: Vec<Value>,
    wanted: Option<(Protocol, u8, Vec<u8>)>,
}

/// `None`: AWS does not return them.
type Tags = Option<Value>;

#[derive(Debug, Clone)]
enum Forwards {
    Own,
    /// To these, which may not exist
    To(Vec<usize>),
    InConfig(Vec<usize>),
    InBoth,
    Nowhere,
}

#[derive(Debug, Clone)]
enum GroupName {
    Right,
    Near(String),
    Other,
}

/// The load balancer that uses it.
#[derive(Debug, Clone, Copy)]
enum On {
    This,
    Another,
    None,
}

fn unit() -> impl Strategy<Value = Unit> {
    let ports = [json!(20417), json!(20418), json!(22), json!(65535), json!(0), json!(70000), json!(-1), json!(null)];
    let port = prop_oneof![3 => prop::sample::select(ports[..3].to_vec()), 1 => prop::sample::select(ports.to_vec())];
    let protocols = ["TCP", "UDP", "TCP_UDP", "TLS", "QUIC", "new"].map(|protocol| json!(protocol));
    let known = prop::sample::select(protocols[..3].to_vec());
    let protocol = prop_oneof![4 => known, 1 => prop::sample::select(protocols.to_vec()), 1 => Just(json!(null))];
    let listener = prop::option::weighted(0.8, (tags(), forwards()));
    let vpc = prop_oneof![4 => Just(json!("vpc-1")), 1 => Just(json!("vpc-2"))];
    let group = prop::option::weighted(0.9, (tags(), group_name(), vpc, on()));
    let wanted = prop::option::of((wanted_protocol(), 0u8..3, prop::collection::vec(0u8..4, 0..3)));
    let targets = prop::collection::vec(target(), 0..3);
    (port, protocol, listener, group, targets, wanted).prop_map(|(port, protocol, listener, group, targets, wanted)| {
        Unit { port, protocol, listener, group, targets, wanted }
    })
}

fn wanted_protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![4 => Just(Protocol::Tcp), 1 => Just(Protocol::Udp), 1 => Just(Protocol::TcpUdp)]
}

fn forwards() -> impl Strategy<Value = Forwards> {
    let some = || prop::collection::vec(0usize..5, 0..3);
    prop_oneof![
        6 => Just(Forwards::Own),
        2 => some().prop_map(Forwards::To),
        2 => some().prop_map(Forwards::InConfig),
        1 => Just(Forwards::InBoth),
        1 => Just(Forwards::Nowhere),
    ]
}

fn group_name() -> impl Strategy<Value = GroupName> {
    prop_oneof![
        6 => Just(GroupName::Right),
        1 => "(20417|22|0|\\+22|70000|x)?(-tcp(-[0-9a-f]{6})?)?".prop_map(GroupName::Near),
        1 => Just(GroupName::Other),
    ]
}

fn on() -> impl Strategy<Value = On> {
    prop_oneof![4 => Just(On::This), 1 => Just(On::Another), 1 => Just(On::None)]
}

fn target() -> impl Strategy<Value = Value> {
    let pod = (0u8..4).prop_map(|host| json!(format!("10.244.0.{host}")));
    let id = prop_oneof![4 => pod, 1 => Just(json!("i-01")), 1 => said()];
    let port = prop::sample::select(vec![json!(6379), json!(6379), json!(6379), json!(0), json!(70000), json!(null)]);
    let state = prop::sample::select(vec![json!("healthy"), json!("draining"), json!("new"), json!(null)]);
    (id, port, state)
        .prop_map(|(id, port, state)| json!({"Target": {"Id": id, "Port": port}, "TargetHealth": {"State": state}}))
}

/// Ours, of another cluster or load balancer, and similar ones.
fn tags() -> impl Strategy<Value = Tags> {
    let whole = |claim: u8| [json!("team"), json!(format!("claim-{claim}")), json!("")];
    let name = || lb_name().to_string();
    let cluster = prop::sample::select(vec!["Cluster", "cluster ", "cluster2", "", "other"]);
    prop_oneof![
        8 => (0u8..3).prop_map(move |claim| Some(tagged("cluster", &name(), whole(claim)))),
        2 => [said(), said(), said()].prop_map(move |owner| Some(tagged("cluster", &name(), owner))),
        1 => cluster.prop_map(move |cluster| Some(tagged(cluster, &name(), whole(0)))),
        1 => "[A-Za-z0-9-]{1,3}".prop_map(move |more| Some(tagged("cluster", &(name() + &more), whole(0)))),
        1 => Just(Some(json!([]))),
        1 => Just(None),
    ]
}

fn tagged(cluster: &str, load_balancer: &str, owner: [Value; 3]) -> Value {
    let [namespace, claim, port] = owner;
    json!([
        {"Key": "sharedlb.dev/cluster", "Value": cluster},
        {"Key": "sharedlb.dev/class", "Value": "default"},
        {"Key": "sharedlb.dev/load-balancer", "Value": load_balancer},
        {"Key": "sharedlb.dev/namespace", "Value": namespace},
        {"Key": "sharedlb.dev/claim", "Value": claim},
        {"Key": "sharedlb.dev/port", "Value": port},
        {"Key": "team", "Value": "network"},
    ])
}

/// Any words.
fn said() -> impl Strategy<Value = Value> {
    let long = Just(json!("\n\u{1b}[2J".repeat(400)));
    prop_oneof![3 => odd().prop_map(|odd| json!(text(&odd))), 1 => long]
}

fn load_balancer() -> impl Strategy<Value = Option<(Tags, Value)>> {
    let told = (
        prop::sample::select(vec![json!("active"), json!("provisioning"), json!("failed"), json!("new"), json!(null)]),
        said(),
        prop_oneof![3 => Just(json!("slb.elb.eu-central-1.amazonaws.com")), 1 => said()],
        prop::collection::vec(Just(json!({"ZoneName": "eu-central-1a"})), 0..4),
    );
    let told = told.prop_map(|(state, reason, dns, zones)| {
        json!({
            "LoadBalancerArn": LB, "LoadBalancerName": lb_name().to_string(), "DNSName": dns, "Type": "network",
            "State": {"Code": state, "Reason": reason}, "AvailabilityZones": zones, "SecurityGroups": ["sg-2"],
        })
    });
    prop::option::weighted(0.9, (tags(), told))
}

fn limit() -> impl Strategy<Value = Value> {
    let names = [
        "listeners-per-network-load-balancer",
        "targets-per-availability-zone-per-network-load-balancer",
        "targets-per-network-load-balancer",
    ];
    (prop::sample::select(names.to_vec()), odd()).prop_map(|(name, max)| json!({"Name": name, "Max": text(&max)}))
}

fn paging() -> impl Strategy<Value = Paging> {
    prop_oneof![
        6 => Just(Paging::Whole),
        3 => (1usize..4).prop_map(Paging::Of),
        1 => Just(Paging::Circle),
        1 => Just(Paging::Endless),
    ]
}

fn fault() -> impl Strategy<Value = Fault> {
    let codes = "AccessDenied Throttling LoadBalancerNotFound ListenerNotFound TargetGroupNotFound DuplicateListener \
                 TooManyListeners TooManyTargets TooManyTargetGroups ResourceInUse InvalidTarget ValidationError \
                 OperationNotPermitted ExpiredToken InternalFailure DuplicateTargetGroupName";
    let known = prop::sample::select(codes.split_whitespace().collect::<Vec<_>>()).prop_map(|code| json!(code));
    let refused =
        (prop::sample::select(vec![400u16, 403, 404, 500, 503]), prop_oneof![3 => known, 1 => said()], said());
    let nonsense = (prop::sample::select(vec![200u16, 400, 502]), said());
    prop_oneof![
        4 => refused.prop_map(|(status, code, message)| {
            Fault::Refused { status, code: text(&code), message: text(&message) }
        }),
        1 => nonsense.prop_map(|(status, body)| Fault::Nonsense(status, text(&body))),
        1 => Just(Fault::Empty),
        1 => Just(Fault::Unreached),
    ]
}

impl Unit {
    fn key(&self) -> Option<ListenerKey> {
        let port =
            self.port.as_u64().and_then(|port| u16::try_from(port).ok()).and_then(|port| port.try_into().ok())?;
        let protocol = match self.protocol.as_str()? {
            "TCP" => Protocol::Tcp,
            "UDP" => Protocol::Udp,
            "TCP_UDP" => Protocol::TcpUdp,
            _ => return None,
        };
        Some(ListenerKey { port, protocol })
    }

    /// The desired listener of its number, if it has one.
    fn wanted(&self, at: usize) -> Option<(ListenerKey, Listener)> {
        let (protocol, claim, hosts) = self.wanted.as_ref()?;
        let other = u16::try_from(20000 + at).unwrap().try_into().unwrap();
        let port = self.key().map_or(other, |key| key.port);
        let owner = Owner { namespace: "team".into(), claim: format!("claim-{claim}").into(), port: "".into() };
        let backend = |host: &u8| Backend {
            address: format!("10.244.0.{host}").parse().unwrap(),
            port: 6379.try_into().unwrap(),
            pod: None,
            node: None,
            provider_id: Some(format!("aws:///eu-central-1a/i-0{host}").into()),
            transport: None,
        };
        let backends: BackendSet = hosts.iter().map(backend).collect();
        let session_affinity = (claim % 2 == 1).then(SessionAffinity::default);
        let options = ListenerOptions::new([], session_affinity);
        Some((ListenerKey { port, protocol: *protocol }, Listener { options, ..Listener::new(owner, backends) }))
    }

    fn listener(&self, at: usize) -> Option<Value> {
        let (_, forwards) = self.listener.as_ref()?;
        let group = |at: &usize| json!({"TargetGroupArn": format!("arn:group/{at}"), "Weight": 1});
        let action = |at: &usize| json!({"Type": "forward", "TargetGroupArn": format!("arn:group/{at}")});
        let in_config = |to: &[usize]| {
            let groups: Vec<Value> = to.iter().map(group).collect();
            json!({"Type": "forward", "ForwardConfig": {"TargetGroups": groups}})
        };
        let actions = match forwards {
            Forwards::Own => vec![action(&at)],
            Forwards::To(to) => to.iter().map(action).collect(),
            Forwards::InConfig(to) => vec![in_config(to)],
            Forwards::InBoth => {
                let mut both = in_config(&[at]);
                both["TargetGroupArn"] = action(&at)["TargetGroupArn"].clone();
                vec![both]
            }
            Forwards::Nowhere => vec![json!({"Type": "fixed-response"})],
        };
        Some(json!({
            "ListenerArn": format!("arn:listener/{at}"), "LoadBalancerArn": LB, "Port": self.port, "Protocol": self.protocol,
            "DefaultActions": actions,
        }))
    }

    fn group(&self, at: usize, settings: &Settings) -> Option<Value> {
        let (_, name, vpc, on) = self.group.as_ref()?;
        let right = self.key().map(|key| names::group_name(settings, &lb_name(), key));
        let name = match name {
            GroupName::Right => right.unwrap_or_else(|| names::group_prefix(&lb_name())),
            GroupName::Near(rest) => format!("{}{rest}", names::group_prefix(&lb_name())),
            GroupName::Other => format!("theirs-{at}"),
        };
        let on = match on {
            On::This => json!([LB]),
            On::Another => json!(["arn:lb/other"]),
            On::None => json!([]),
        };
        Some(json!({
            "TargetGroupArn": format!("arn:group/{at}"), "TargetGroupName": name, "VpcId": vpc, "LoadBalancerArns": on,
            "HealthCheckProtocol": "TCP", "HealthCheckPort": "traffic-port", "HealthCheckIntervalSeconds": 30,
            "HealthCheckTimeoutSeconds": 10, "HealthyThresholdCount": 5, "UnhealthyThresholdCount": 2,
            "Targets": self.targets,
        }))
    }
}

fn world(settings: &Settings, units: &[Unit], load_balancer: Option<(Tags, Value)>, limits: &[Value]) -> Value {
    let units = || units.iter().enumerate();
    let on = units().filter(|_| load_balancer.is_some());
    let listeners: Vec<Value> = on.filter_map(|(at, unit)| unit.listener(at)).collect();
    let groups: Vec<Value> = units().filter_map(|(at, unit)| unit.group(at, settings)).collect();
    let of_listener = units().filter_map(|(at, unit)| Some((format!("arn:listener/{at}"), unit.listener.clone()?.0?)));
    let of_group = units().filter_map(|(at, unit)| Some((format!("arn:group/{at}"), unit.group.clone()?.0?)));
    let of_lb = load_balancer.iter().filter_map(|(tags, _)| Some((LB.to_owned(), tags.clone()?)));
    let tags = of_lb.chain(of_listener).chain(of_group);
    let tags: Vec<Value> = tags.map(|(arn, tags)| json!({"ResourceArn": arn, "Tags": tags})).collect();
    json!({
        "DescribeLoadBalancers": {"LoadBalancers": load_balancer.map(|(_, told)| told).into_iter().collect::<Vec<_>>()},
        "DescribeLoadBalancerAttributes": {"Attributes": [{"Key": "load_balancing.cross_zone.enabled", "Value": "false"}]},
        "DescribeListeners": {"Listeners": listeners},
        "DescribeTargetGroups": {"TargetGroups": groups},
        "DescribeTags": {"TagDescriptions": tags},
        "DescribeAccountLimits": {"Limits": limits},
    })
}

/// Whether an object has all tags that make it ours.
pub(super) fn is_ours(world: &Value, arn: &str) -> bool {
    tells(world, arn, &[("sharedlb.dev/cluster", "cluster"), ("sharedlb.dev/load-balancer", lb_name().as_str())])
}

/// Whether AWS returns all these tags for it.
pub(super) fn tells(world: &Value, arn: &str, tags: &[(&str, &str)]) -> bool {
    list(world, "DescribeTags", "TagDescriptions")
        .filter(|of| of["ResourceArn"].is_string() && text(&of["ResourceArn"]) == arn)
        .any(|of| {
            let told: Vec<&Value> = of["Tags"].as_array().into_iter().flatten().collect();
            tags.iter()
                .all(|(key, value)| told.iter().any(|tag| text(&tag["Key"]) == *key && text(&tag["Value"]) == *value))
        })
}

/// The target groups that foreign listeners forward to.
pub(super) fn used_by_others(world: &Value) -> BTreeSet<String> {
    let others =
        list(world, "DescribeListeners", "Listeners").filter(|found| !is_ours(world, &text(&found["ListenerArn"])));
    let actions = others.flat_map(|found| found["DefaultActions"].as_array().into_iter().flatten());
    let groups = actions.flat_map(|action| {
        let in_config = action["ForwardConfig"]["TargetGroups"].as_array().into_iter().flatten();
        in_config.chain([action]).map(|of| text(&of["TargetGroupArn"]))
    });
    groups.filter(|arn| !arn.is_empty()).collect()
}
