//! Shared VPC: network, subnetwork and firewall rules are in a host project.

use std::collections::BTreeMap;

use http::Method;
use serde_json::{Value, json};
use sharedlb_providers::conformance::Peer as _;
use sharedlb_providers::gcp::{Scheme, Settings};
use sharedlb_providers::{Address, Applied, Error, Provider as _};

use crate::cloud::Cloud;
use crate::faults::attempt;
use crate::foreign::delete;
use crate::steps::{converge, is_as_wanted, lb, listener, observe, tcp};
use crate::{Test, tests};

pub(crate) const TESTS: &[(&str, Test)] = tests![
    firewall_rules_are_in_the_host_project_and_all_else_is_in_the_own_one,
    an_internal_load_balancer_has_an_address_of_the_hosts_subnetwork,
    the_commands_for_an_admin_of_the_host_project_open_change_and_delete_the_ports,
    a_missing_permission_in_the_host_project_is_named_with_it,
];

/// The project of the network.
pub(crate) const HOST: &str = "host-project";

fn rule(suffix: &str) -> String {
    format!("global/firewalls/{}-{suffix}", lb(0))
}

async fn firewall_rules_are_in_the_host_project_and_all_else_is_in_the_own_one(cloud: &Cloud) {
    let provider = cloud.provider().await;
    converge(&*provider, 0, [(tcp(20000), listener("a", [1]))]).await;
    let project_of = |object: &Value| {
        let link = object["selfLink"].as_str().and_then(|link| link.split_once("/projects/"));
        link.and_then(|(_, path)| path.split('/').next()).map(str::to_owned)
    };
    let own = cloud.project.layout().project;
    for (path, object) in cloud.objects() {
        let expected = if path.starts_with("global/firewalls/") { HOST } else { own.as_str() };
        assert_eq!(project_of(&object).as_deref(), Some(expected), "{path}");
    }
    let network = format!("projects/{HOST}/global/networks/net");
    let allow = cloud.project.objects("firewalls")[&rule("allow")].clone();
    assert!(allow["network"].as_str().is_some_and(|link| link.ends_with(&network)), "{allow}");

    let after = [(tcp(20001), listener("b", [2]))];
    converge(&*provider, 0, after.clone()).await;
    assert_eq!(cloud.project.objects("firewalls")[&rule("allow")]["allowed"][0]["ports"], json!(["20001"]));
    is_as_wanted(&*cloud.provider().await, after).await;
    delete(&*provider, &lb(0)).await;
    assert!(cloud.objects().is_empty());
}

async fn an_internal_load_balancer_has_an_address_of_the_hosts_subnetwork(cloud: &Cloud) {
    let provider = cloud.provider_with(Settings { scheme: Scheme::Internal, ..cloud.settings() });
    let listeners = [(tcp(20000), listener("a", [1]))];
    for permission in ["compute.addresses.createInternal", "compute.addresses.useInternal", "compute.subnetworks.use"] {
        cloud.project.withdraw(permission);
        let why = refusal(attempt(&provider, &listeners).await);
        assert!(why.contains(permission), "{permission}: {why}");
        cloud.project.grant_all();
        let applied = converge(&provider, 0, listeners.clone()).await;
        let [Address::Ip(ip)] = applied.addresses.as_slice() else { panic!("{applied:?}") };
        assert!(cloud.project.layout().internal.contains(ip), "{ip}");
        let subnetwork = format!("projects/{HOST}/regions/europe-west9/subnetworks/nodes");
        for kind in ["addresses", "forwardingRules"] {
            let object = cloud.only(kind);
            assert!(object["subnetwork"].as_str().is_some_and(|link| link.ends_with(&subnetwork)), "{object}");
        }
        cloud.project.withdraw("compute.addresses.deleteInternal");
        let refused = provider.delete(&lb(0)).await;
        let Err(Error::Refused(why)) = &refused else { panic!("{refused:?}") };
        assert!(format!("{why:#}").contains("compute.addresses.deleteInternal"), "{why:#}");
        cloud.project.grant_all();
        delete(&provider, &lb(0)).await;
    }
}

async fn the_commands_for_an_admin_of_the_host_project_open_change_and_delete_the_ports(cloud: &Cloud) {
    for permission in ["create", "update", "delete"] {
        cloud.project.withdraw(&format!("compute.firewalls.{permission}"));
    }
    let provider = cloud.provider().await;
    for (numbers, allowed) in [(vec![20000], "20000"), (vec![20000, 20001], "20000-20001"), (vec![20001], "20001")] {
        let listeners: Vec<_> = numbers.iter().map(|number| (tcp(*number), listener("a", [1]))).collect();
        _ = attempt(&*provider, &listeners).await;
        run_commands(cloud, &refusal(attempt(&*provider, &listeners).await));
        let applied = attempt(&*provider, &listeners).await.expect("nothing is left to do");
        assert_eq!(applied.unconfigured, None);
        let observed = observe(&*cloud.provider().await, 0).await;
        assert!(observed.unserved.is_empty(), "{observed:?}");
        assert_eq!(cloud.project.objects("firewalls")[&rule("allow")]["allowed"][0]["ports"], json!([allowed]));
    }
    assert_eq!(cloud.project.objects("firewalls").len(), 3);
    let left = provider.delete(&lb(0)).await.expect_err("the rules are left");
    assert!(format!("{left:#}").contains(HOST), "{left:#}");
}

async fn a_missing_permission_in_the_host_project_is_named_with_it(cloud: &Cloud) {
    let listeners = [(tcp(20000), listener("a", [1]))];
    for permission in [
        "compute.firewalls.create",
        "compute.firewalls.get",
        "compute.globalOperations.get",
        "compute.networks.updatePolicy",
        "compute.networks.use",
        "compute.subnetworks.use",
    ] {
        cloud.project.withdraw(permission);
        let provider = cloud.provider().await;
        let why = refusal(attempt(&*provider, &listeners).await);
        assert!(why.contains(permission) && why.contains(&format!("project {HOST}")), "{permission}: {why}");
        cloud.project.grant_all();
        converge(&*provider, 0, listeners.clone()).await;
        delete(&*provider, &lb(0)).await;
    }
}

/// Why the load balancer as a whole is not as desired.
fn refusal(result: Result<Applied, Error>) -> String {
    match result {
        Err(error) | Ok(Applied { unconfigured: Some(error), .. }) => format!("{error:#}"),
        Ok(applied) => panic!("nothing is refused: {applied:?}"),
    }
}

/// Does what an admin of the host project does with a message: runs its commands of gcloud.
fn run_commands(cloud: &Cloud, message: &str) {
    let (_, commands) = message.split_once("in full): ").unwrap_or_else(|| panic!("there are no commands: {message}"));
    for command in commands.split(" && ") {
        let words = shlex::split(command).expect("a shell takes it");
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let ["gcloud", "compute", "firewall-rules", verb, name, flags @ ..] = words.as_slice() else {
            panic!("{command}")
        };
        let flags: BTreeMap<&str, &str> = flags
            .iter()
            .map(|flag| flag.strip_prefix("--").and_then(|flag| flag.split_once('=')).expect("--FLAG=VALUE"))
            .collect();
        run_command(cloud, verb, name, &flags);
    }
}

/// Calls what gcloud calls for a command.
fn run_command(cloud: &Cloud, verb: &str, name: &str, flags: &BTreeMap<&str, &str>) {
    assert_eq!(flags["project"], HOST);
    let path = format!("global/firewalls/{name}");
    if verb == "delete" {
        cloud.by_hand(&Method::DELETE, &path, Value::Null);
        return;
    }
    let list = |flag| flags.get(flag).map(|values| values.split(',').collect::<Vec<_>>()).unwrap_or_default();
    let mut ports: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for entry in list("rules") {
        let (protocol, port) = entry.split_once(':').unwrap_or((entry, ""));
        ports.entry(protocol).or_default().extend(Some(port).filter(|port| !port.is_empty()));
    }
    let entries: Vec<Value> =
        ports.iter().map(|(protocol, ports)| json!({"IPProtocol": protocol, "ports": ports})).collect();
    let mut body = json!({
        "name": name,
        "priority": flags["priority"].parse::<u16>().expect("it is a priority"),
        "sourceRanges": list("source-ranges"),
        "destinationRanges": list("destination-ranges"),
        "targetTags": list("target-tags"),
        "description": flags["description"],
    });
    if verb == "create" {
        body["network"] = json!(format!("projects/{HOST}/global/networks/{}", flags["network"]));
        body["direction"] = json!(flags["direction"]);
        body[if flags["action"] == "ALLOW" { "allowed" } else { "denied" }] = json!(entries);
        cloud.by_hand(&Method::POST, "global/firewalls", body);
    } else {
        let denies = cloud.project.objects("firewalls")[&path].get("denied").is_some();
        body[if denies { "denied" } else { "allowed" }] = json!(entries);
        cloud.by_hand(&Method::PATCH, &path, body);
    }
}
