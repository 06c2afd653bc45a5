use std::collections::BTreeSet;

use super::*;
use crate::gcp::fixture::settings;
use crate::gcp::found::{FoundGroup, Read};
use crate::gcp::nodes::Nodes;
use crate::gcp::objects::{self, Firewall};
use crate::gcp::settings::{Managed, Scheme, Settings};
use crate::gcp::wanted::wanted;
use crate::model::{FrontPort, LbName};

/// Compute Engine, as far as the plan sees it: it carries out every step at once.
struct Engine {
    settings: Settings,
    name: LbName,
    nodes: Nodes,
    ports: BTreeSet<FrontPort>,
    found: Found,
}

impl Engine {
    fn new(settings: Settings) -> Self {
        let name = LbName::new("default", 0, "cluster", "uid");
        let (nodes, ports) = (nodes(&[("a", &["n1", "n2"]), ("b", &["n3"])]), ports(&["80/TCP", "81/TCP", "53/UDP"]));
        Self { settings, name, nodes, ports, found: Found::default() }
    }

    fn names(&self) -> Names<'_> {
        let address = self.settings.address_names.first();
        Names { settings: &self.settings, name: &self.name, address: address.map(String::as_str) }
    }

    fn steps(&self) -> Vec<Step> {
        let ip = self.found.ip();
        next(&wanted(self.names(), self.nodes.clone(), ip, &self.ports), &self.found, &BTreeSet::new())
    }

    /// Carries out all steps until there are none left. Returns them, one round a line.
    fn converge(&mut self) -> Vec<String> {
        self.repeat(|engine| engine.steps())
    }

    fn delete(&mut self) -> Vec<String> {
        self.repeat(|engine| teardown(engine.names(), &engine.found))
    }

    fn repeat(&mut self, steps: impl Fn(&Self) -> Vec<Step>) -> Vec<String> {
        let mut rounds = Vec::new();
        loop {
            let steps = steps(self);
            if steps.is_empty() {
                return rounds;
            }
            rounds.push(steps.iter().map(|step| self.carry_out(step)).collect::<Vec<_>>().join(", "));
            assert!(rounds.len() < 20, "it has no end: {rounds:#?}");
        }
    }

    fn carry_out(&mut self, Step { object, action }: &Step) -> String {
        let there = self.value(object);
        let (verb, body) = match action {
            Action::Insert(body) => {
                assert_eq!(there, None, "the {object} exists");
                let mut body = body.clone();
                if *object == Object::Address {
                    body["address"] = json!("203.0.113.10");
                }
                ("insert", Some(body))
            }
            Action::Patch(patch) => {
                let mut body = there.expect("it exists");
                for (key, value) in patch.as_object().expect("an object") {
                    body[key] = value.clone();
                }
                ("patch", Some(body))
            }
            Action::SetLabels(labels) => {
                let mut body = there.expect("it exists");
                body["labels"] = labels["labels"].clone();
                ("label", Some(body))
            }
            Action::Attach(instances) => {
                let group = self.group(object);
                assert!(instances.iter().all(|instance| group.instances.insert(instance.clone())));
                return format!("attach to {object}");
            }
            Action::Detach(instances) => {
                let group = self.group(object);
                assert!(instances.iter().all(|instance| group.instances.remove(instance)));
                return format!("detach from {object}");
            }
            Action::Delete => ("delete", None),
        };
        self.take(object, body);
        format!("{verb} {object}")
    }

    fn group(&mut self, object: &Object) -> &mut FoundGroup {
        let Object::Group(zone) = object else { panic!("{object} has no instances") };
        self.found.groups.get_mut(zone).expect("the group exists")
    }

    fn value(&self, object: &Object) -> Option<Value> {
        let Found { address, health_check, groups, backend_service, forwarding_rule, firewalls, .. } = &self.found;
        match object {
            Object::Address => address.as_ref().map(value),
            Object::HealthCheck => health_check.as_ref().map(value),
            Object::Group(zone) => groups.get(zone).map(|found| value(&found.group)),
            Object::BackendService => backend_service.as_ref().map(value),
            Object::ForwardingRule => forwarding_rule.as_ref().map(value),
            Object::Firewall(rule) => firewalls.get(rule).map(value),
        }
    }

    fn take(&mut self, object: &Object, body: Option<Value>) {
        fn parse<T: serde::de::DeserializeOwned>(body: Option<Value>) -> Option<T> {
            body.map(|body| serde_json::from_value(body).expect("an object"))
        }
        let read = match object {
            Object::Address => Read::Address(parse(body)),
            Object::HealthCheck => Read::HealthCheck(parse(body)),
            Object::Group(zone) => {
                let found = parse(body).map(|group| FoundGroup { group, instances: BTreeSet::new() });
                Read::Group(zone.clone(), found)
            }
            Object::BackendService => Read::BackendService(parse(body)),
            Object::ForwardingRule => Read::ForwardingRule(parse(body)),
            Object::Firewall(rule) => Read::Firewall(*rule, parse(body)),
        };
        let (settings, name) = (self.settings.clone(), self.name.clone());
        let address = settings.address_names.first().map(String::as_str);
        self.found.take(Names { settings: &settings, name: &name, address }, read);
    }
}

fn nodes(zones: &[(&str, &[&str])]) -> Nodes {
    let of_zone = |(zone, instances): &(&str, &[&str])| {
        (format!("europe-west3-{zone}").into(), instances.iter().map(ToString::to_string).collect())
    };
    zones.iter().map(of_zone).collect()
}

fn ports(ports: &[&str]) -> BTreeSet<FrontPort> {
    ports.iter().map(|port| port.parse().expect("a port")).collect()
}

fn internal() -> Settings {
    Settings { scheme: Scheme::Internal, labels: [].into(), ..settings() }
}

#[test]
fn a_load_balancer_is_created_in_the_order_in_which_objects_refer_to_each_other() {
    let mut engine = Engine::new(settings());
    let expected = [
        "insert address, insert health check, insert network endpoint group in europe-west3-a, \
         insert network endpoint group in europe-west3-b",
        "label address, attach to network endpoint group in europe-west3-a, \
         attach to network endpoint group in europe-west3-b, insert backend service, \
         insert firewall rule allow, insert firewall rule deny, insert firewall rule health",
        "insert forwarding rule",
        "label forwarding rule",
    ];
    assert_eq!(engine.converge(), expected);
    assert_eq!(engine.converge(), [] as [&str; 0], "it is as desired");
}

#[test]
fn a_load_balancer_is_deleted_in_the_reverse_order() {
    let mut engine = Engine::new(settings());
    engine.converge();
    let expected = [
        "delete forwarding rule",
        "delete address, delete backend service, delete firewall rule allow, delete firewall rule deny, delete firewall \
         rule health",
        "delete health check, delete network endpoint group in europe-west3-a, \
         delete network endpoint group in europe-west3-b",
    ];
    assert_eq!(engine.delete(), expected);
    assert!(engine.found.is_empty(engine.names()));
}

#[test]
fn an_existing_address_is_used_and_never_changed_or_deleted() {
    let mut engine = Engine::new(Settings { address_names: vec!["theirs".into()], ..settings() });
    let theirs = objects::Address { address: Some("198.51.100.7".into()), ..objects::Address::default() };
    engine.found.address = Some(theirs);
    assert!(engine.found.is_empty(engine.names()));
    let rounds = engine.converge().join(", ");
    assert!(!rounds.contains("address"), "{rounds}");
    assert_eq!(engine.found.forwarding_rule.as_ref().map(|rule| rule.ip_address.as_str()), Some("198.51.100.7"));
    let rounds = engine.delete().join(", ");
    assert!(!rounds.contains("address") && engine.found.address.is_some(), "{rounds}");
}

#[test]
fn ports_cost_one_call_however_many_they_are() {
    let mut engine = Engine::new(settings());
    engine.converge();
    engine.ports.extend(ports(&["443/TCP", "8080/TCP", "8081/TCP"]));
    assert_eq!(engine.converge(), ["patch firewall rule allow"]);
    let allowed = engine.found.firewalls[&Rule::Allow].allowed.clone().expect("it allows");
    let tcp = allowed.iter().find(|entry| entry.ip_protocol == "tcp").expect("TCP");
    assert_eq!(tcp.ports.as_deref().unwrap(), ["80-81", "443", "8080-8081"]);
    engine.ports.clear();
    assert_eq!(engine.converge(), ["delete firewall rule allow"], "without ports it would allow all");
}

#[test]
fn a_fixed_range_and_rules_of_an_admin_cost_no_call() {
    for manage in [Managed::Range(vec![20_000..=29_999]), Managed::None] {
        let mut with = settings();
        with.firewall.manage = manage;
        let mut engine = Engine::new(with);
        engine.converge();
        engine.ports.extend(ports(&["20001/TCP"]));
        assert_eq!(engine.converge(), [] as [&str; 0]);
    }
}

#[test]
fn nodes_and_zones_come_before_others_go() {
    let mut engine = Engine::new(settings());
    engine.converge();
    engine.nodes = nodes(&[("a", &["n2", "n4"]), ("c", &["n5"])]);
    let expected = [
        "attach to network endpoint group in europe-west3-a, \
         insert network endpoint group in europe-west3-c",
        "detach from network endpoint group in europe-west3-a, \
         attach to network endpoint group in europe-west3-c, patch backend service",
        "delete network endpoint group in europe-west3-b",
    ];
    assert_eq!(engine.converge(), expected);
}

#[test]
fn what_was_changed_by_hand_is_repaired() {
    let mut engine = Engine::new(settings());
    engine.converge();
    type Meddle = fn(&mut Found);
    let cases: [(Meddle, &str); 6] = [
        (|found| found.health_check.as_mut().unwrap().check_interval_sec = 60, "patch health check"),
        (|found| found.backend_service.as_mut().unwrap().backends.clear(), "patch backend service"),
        (|found| found.firewalls.get_mut(&Rule::Allow).unwrap().disabled = true, "patch firewall rule allow"),
        (
            |found| found.firewalls.get_mut(&Rule::Deny).unwrap().target_tags.push("x".into()),
            "patch firewall rule deny",
        ),
        (
            |found| found.firewalls = [].into(),
            "insert firewall rule allow, insert firewall rule deny, insert firewall rule health",
        ),
        (|found| found.forwarding_rule = None, "insert forwarding rule, label forwarding rule"),
    ];
    for (meddle, expected) in cases {
        meddle(&mut engine.found);
        assert_eq!(engine.converge().join(", "), expected);
    }
    engine.found.forwarding_rule.as_mut().unwrap().all_ports = false;
    let rounds = ["delete forwarding rule", "insert forwarding rule", "label forwarding rule"];
    assert_eq!(engine.converge(), rounds, "its ports cannot be changed");
}

#[test]
fn settings_that_can_be_changed_are_changed_in_place() {
    let mut engine = Engine::new(internal());
    engine.converge();
    engine.settings.global_access = true;
    assert_eq!(engine.converge(), ["patch forwarding rule"]);
    engine.settings.health_check.unhealthy_threshold = 5;
    assert_eq!(engine.converge(), ["patch health check"]);
    engine.settings.firewall.source_ranges = vec!["10.0.0.0/8".parse().unwrap()];
    assert_eq!(engine.converge(), ["patch firewall rule allow"]);
    engine.settings.firewall.deny_rest = false;
    assert_eq!(engine.converge(), ["delete firewall rule deny"]);
}

#[test]
fn labels_of_others_stay() {
    let mut engine = Engine::new(settings());
    engine.converge();
    let rule = engine.found.forwarding_rule.as_mut().unwrap();
    rule.labels = [("cost-center".to_owned(), "7".to_owned())].into();
    rule.label_fingerprint = Some("abc".into());
    let steps = engine.steps();
    let [Step { action: Action::SetLabels(body), .. }] = steps.as_slice() else { panic!("{steps:?}") };
    assert_eq!(*body, json!({"labels": {"cost-center": "7", "team": "edge"}, "labelFingerprint": "abc"}));
}

#[test]
fn a_foreign_object_is_noted_and_is_no_part_of_the_load_balancer() {
    let mut engine = Engine::new(settings());
    engine.converge();
    let theirs = Firewall { description: Some("theirs".into()), ..Firewall::default() };
    engine.take(&Object::Firewall(Rule::Deny), Some(value(&theirs)));
    assert_eq!(engine.found.foreign, [Object::Firewall(Rule::Deny)].into());
    let rounds = engine.delete().join(", ");
    assert!(!rounds.contains("firewall rule deny"), "{rounds}");
}

#[test]
fn an_object_is_the_same_by_its_url_and_by_its_path() {
    let url = "https://www.googleapis.com/compute/v1/projects/p/global/networks/n";
    assert!(covers(Some(&json!(url)), &json!("projects/p/global/networks/n")));
    assert!(!covers(Some(&json!(url)), &json!("projects/p/global/networks/m")));
    assert!(covers(Some(&json!(["b", "a"])), &json!(["a", "b"])));
    assert!(!covers(Some(&json!(["a", "b", "c"])), &json!(["a", "b"])));
    assert!(covers(None, &json!([])) && covers(None, &json!(false)) && !covers(None, &json!("x")));
}

#[test]
fn without_rights_to_firewalls_everything_else_goes_on() {
    let mut engine = Engine::new(settings());
    engine.found.firewalls_denied = Some(crate::Error::Refused("denied".into()));
    let rounds = engine.converge().join(", ");
    assert!(!rounds.contains("firewall") && engine.found.serving().is_some(), "{rounds}");
    assert!(!engine.found.admits(&engine.settings, ports(&["80/TCP"])), "nobody knows what the network allows");
}

#[test]
fn the_firewall_denies_before_packets_arrive() {
    let mut engine = Engine::new(settings());
    engine.converge();
    engine.found.forwarding_rule = None;
    engine.found.firewalls.clear();
    let rounds = engine.converge();
    assert!(rounds[0].contains("insert firewall rule deny") && !rounds[0].contains("forwarding rule"), "{rounds:?}");
    assert_eq!(rounds[1], "insert forwarding rule");
    // One that is switched off denies nothing.
    engine.found.forwarding_rule = None;
    engine.found.firewalls.get_mut(&Rule::Deny).unwrap().disabled = true;
    assert_eq!(engine.converge()[..2], ["patch firewall rule deny", "insert forwarding rule"]);
}

#[test]
fn a_zone_whose_group_cannot_be_created_keeps_no_other_zone_from_serving() {
    let mut engine = Engine::new(settings());
    engine.converge();
    engine.nodes = nodes(&[("a", &["n1"]), ("b", &["n3"]), ("c", &["n5"]), ("d", &["n6"])]);
    let failed = BTreeSet::from([Object::Group("europe-west3-d".into())]);
    let mut rounds = Vec::new();
    loop {
        let wanted = wanted(engine.names(), engine.nodes.clone(), engine.found.ip(), &engine.ports);
        let steps = next(&wanted, &engine.found, &failed);
        if steps.is_empty() {
            break;
        }
        rounds.extend(steps.iter().map(|step| engine.carry_out(step)));
    }
    assert!(rounds.contains(&"patch backend service".to_owned()), "{rounds:?}");
    let backends = &engine.found.backend_service.as_ref().unwrap().backends;
    assert_eq!(backends.len(), 3, "{backends:?}");
}

#[test]
fn rules_that_the_class_no_longer_wants_are_deleted() {
    let mut engine = Engine::new(settings());
    engine.converge();
    engine.settings.firewall.manage = Managed::None;
    assert_eq!(
        engine.converge(),
        ["delete firewall rule allow, delete firewall rule deny, delete firewall rule health"]
    );
}
