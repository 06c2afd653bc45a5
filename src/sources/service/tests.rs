//! Services as the API has them, and what becomes of them write by write.

mod addresses;
mod limits;

use std::sync::Arc;

use serde_json::{Value, json};
use sharedlb_crds::{CLAIM_FINALIZER, Reason};

use super::super::simulation::World;
use super::*;

const SOURCE: Services = Services { unclassed: true };

/// A Service `web` with this spec, besides what every one has.
fn service(annotations: Value, spec: Value) -> Value {
    let mut full = json!({
        "type": "LoadBalancer", "loadBalancerClass": "sharedlb.dev/shared", "selector": {"app": "web"},
        "ports": [{"name": "http", "port": 80, "targetPort": "http"}],
    });
    for (field, value) in spec.as_object().unwrap() {
        full[field] = value.clone();
    }
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "web", "annotations": annotations, "finalizers": ["team.dev/theirs"]},
        "spec": full,
        "status": {"conditions": [{"type": "team.dev/Theirs", "status": "True", "reason": "Theirs", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
    })
}

fn plain() -> Value {
    service(json!({}), json!({}))
}

fn two_ports() -> Value {
    let ports = json!([{"name": "http", "port": 80, "targetPort": "http"}, {"name": "more", "port": 81}]);
    service(json!({}), json!({"ports": ports}))
}

fn dns() -> Value {
    let ports = json!([
        {"name": "dns", "port": 53, "targetPort": 5353, "protocol": "UDP"},
        {"name": "dns-tcp", "port": 53, "targetPort": 5353, "protocol": "TCP"},
    ]);
    service(json!({}), json!({"ports": ports}))
}

/// A Service with one port more than [`plain`], which cannot be shared.
fn with_sctp() -> Value {
    let ports =
        json!([{"name": "http", "port": 80, "targetPort": "http"}, {"name": "sctp", "port": 5060, "protocol": "SCTP"}]);
    service(json!({}), json!({"ports": ports}))
}

/// A Service with so many ports, of these numbers.
fn many(numbers: impl Iterator<Item = u16>) -> Value {
    let ports: Vec<Value> = numbers.map(|n| json!({"name": format!("p{n}"), "port": n})).collect();
    service(json!({}), json!({ "ports": ports }))
}

fn assigned() -> Value {
    service(json!({"sharedlb.dev/assign-ports": "true"}), json!({}))
}

fn unclassed(class: &str) -> Value {
    service(json!({"sharedlb.dev/class": class}), json!({"loadBalancerClass": null}))
}

/// Everything that a Service may be, one of which may become any other.
fn variants() -> Vec<(&'static str, Value)> {
    let type_ = |type_: &str| service(json!({}), json!({"type": type_, "loadBalancerClass": null}));
    vec![
        ("plain", plain()),
        ("two ports", two_ports()),
        ("renumbered", service(json!({}), json!({"ports": [{"name": "http", "port": 8080}]}))),
        ("TCP and UDP", dns()),
        ("assigned", assigned()),
        ("an address", service(json!({"sharedlb.dev/address": "10.0.0.1"}), json!({}))),
        ("source ranges", service(json!({}), json!({"loadBalancerSourceRanges": ["192.0.2.0/24"]}))),
        ("all clients", service(json!({}), json!({"loadBalancerSourceRanges": ["0.0.0.0/0", "::/0"]}))),
        ("session affinity", service(json!({}), json!({"sessionAffinity": "ClientIP"}))),
        ("SCTP", service(json!({}), json!({"ports": [{"port": 80, "protocol": "SCTP"}]}))),
        ("TCP and SCTP", with_sctp()),
        ("local", service(json!({}), json!({"externalTrafficPolicy": "Local"}))),
        ("a class by annotation", unclassed("shared")),
        ("another class by annotation", unclassed("other")),
        ("no class", service(json!({}), json!({"loadBalancerClass": null}))),
        ("another's", service(json!({}), json!({"loadBalancerClass": "somebody.else/lb"}))),
        ("ClusterIP", type_("ClusterIP")),
    ]
}

/// The edit that makes it of any other, with what the API server does besides.
fn becomes(world: &mut World<Services>, wanted: &Value) {
    let mut spec = json!({
        "loadBalancerClass": null, "loadBalancerSourceRanges": null, "externalTrafficPolicy": null, "ports": null,
        "sessionAffinity": null,
    });
    merge(&mut spec, &wanted["spec"]);
    let mut annotations = json!({
        "sharedlb.dev/assign-ports": null, "sharedlb.dev/address": null, "sharedlb.dev/class": null,
    });
    merge(&mut annotations, &wanted["metadata"]["annotations"]);
    world.edit(&json!({"metadata": {"annotations": annotations}, "spec": spec}));
    if wanted["spec"]["type"] != "LoadBalancer" {
        world.edit(&json!({"status": {"loadBalancer": null}}));
    }
}

fn merge(into: &mut Value, from: &Value) {
    for (key, value) in from.as_object().into_iter().flatten() {
        into[key] = value.clone();
    }
}

fn settled(service: Value) -> World<Services> {
    World::new(Arc::new(SOURCE), service).settled()
}

fn status(world: &World<Services>) -> &Value {
    &world.object.as_ref().unwrap()["status"]
}

fn ingress(world: &World<Services>) -> &Value {
    &status(world)["loadBalancer"]["ingress"]
}

fn condition<'a>(world: &'a World<Services>, kind: &str) -> &'a Value {
    let kind = format!("sharedlb.dev/{kind}");
    status(world)["conditions"].as_array().unwrap().iter().find(|one| one["type"] == *kind).unwrap_or(&Value::Null)
}

#[test]
fn first_comes_the_claim_then_the_status_with_the_finalizer() {
    let world = settled(plain());
    assert_eq!(world.done, ["create", "status"]);
    let claim = world.claim.as_ref().unwrap();
    assert_eq!(claim["metadata"]["name"], "service-web");
    assert_eq!(
        claim["spec"],
        json!({"className": "shared", "serviceName": "web", "ports": [
            {"name": "http", "protocol": "TCP", "port": 80, "targetPort": 80},
        ]})
    );
    let service = world.object.as_ref().unwrap();
    assert_eq!(service["metadata"]["finalizers"], json!(["team.dev/theirs", FINALIZER]));
    assert_eq!(service["metadata"]["annotations"], json!({"sharedlb.dev/claim": "service-web"}));
    assert_eq!(
        status(&world)["loadBalancer"]["ingress"],
        json!([{"ip": "10.0.0.1", "ipMode": "Proxy", "ports": [{"port": 80, "protocol": "TCP"}]}])
    );
    assert_eq!(condition(&world, "Ready")["status"], "True");
    assert_eq!(world.events, ["Ready"]);
    let claim = world.claim.as_ref().unwrap();
    assert_eq!(claim["metadata"]["finalizers"], json!([CLAIM_FINALIZER]));
}

#[test]
fn the_claim_of_a_service_is_created_with_its_finalizer() {
    let mut world = World::new(Arc::new(SOURCE), plain());
    assert!(world.source_step());
    assert_eq!(world.claim.unwrap()["metadata"]["finalizers"], json!([CLAIM_FINALIZER]));
}

#[test]
fn a_waiting_claim_is_reported_only_after_a_while() {
    let mut world = World::new(Arc::new(SOURCE), plain());
    world.is_slow = true;
    let mut world = world.settled();
    assert_eq!(world.done, ["create", "wait", "status"]);
    assert_eq!(condition(&world, "Ready")["reason"], "Pending");
    assert_eq!(world.object.as_ref().unwrap()["metadata"]["finalizers"], json!(["team.dev/theirs", FINALIZER]));
    assert!(world.events.is_empty(), "{:?}", world.events);
    world.is_slow = false;
    let world = world.settled();
    assert_eq!(world.done, ["create", "wait", "status", "status"]);
    assert_eq!(condition(&world, "Ready")["status"], "True");
    assert_eq!(world.events, ["Ready"]);
}

#[test]
fn a_service_that_stops_being_ready_reports_it_at_once() {
    let mut world = settled(plain());
    world.is_slow = true;
    world.done.clear();
    becomes(&mut world, &two_ports());
    let world = world.settled();
    assert_eq!(world.done, ["correct", "status"]);
    assert_eq!(condition(&world, "Ready")["reason"], "Pending");
    assert_eq!(ingress(&world)[0]["ports"].as_array().unwrap().len(), 1, "what is open stays there to be read");
}

#[test]
fn whatever_is_edited_at_whatever_moment_all_ends_where_a_fresh_one_would() {
    for (from, before) in variants() {
        for (to, after) in variants() {
            let fresh = settled(after.clone()).seen();
            for (at, mut world) in World::new(Arc::new(SOURCE), before.clone()).on_the_way().into_iter().enumerate() {
                becomes(&mut world, &after);
                assert_eq!(world.restarted().settled().seen(), fresh, "{from} became {to} after {at} steps");
            }
        }
    }
}

#[test]
fn killed_between_any_two_writes_it_ends_the_same() {
    for (name, service) in variants() {
        let whole = settled(service.clone());
        for world in World::new(Arc::new(SOURCE), service).on_the_way() {
            let world = world.restarted().settled();
            assert_eq!(world.seen(), whole.seen(), "{name}");
            assert_eq!(world.done, whole.done, "{name}: nothing is done twice");
        }
    }
}

#[test]
fn deleted_at_whatever_moment_it_leaves_nothing_and_goes_last() {
    for (name, service) in variants() {
        for (at, mut world) in World::new(Arc::new(SOURCE), service).on_the_way().into_iter().enumerate() {
            // Theirs would keep it.
            world.delete(|world| &mut world.object);
            let mut world = world.restarted().settled();
            assert!(world.claim.is_none(), "{name} after {at} steps");
            let left = world.object.as_ref().unwrap();
            assert_eq!(left["metadata"]["finalizers"], json!(["team.dev/theirs"]), "{name} after {at} steps");
            world.edit(&json!({"metadata": {"finalizers": []}}));
            assert!(world.object.is_none(), "{name} after {at} steps");
        }
    }
}

#[test]
fn the_finalizer_goes_only_after_the_claim() {
    let mut world = settled(plain());
    world.done.clear();
    world.delete(|world| &mut world.object);
    assert_eq!(world.settled().done, ["status", "delete", "gone", "finalizer"]);
}

#[test]
fn without_our_mark_the_finalizer_goes_all_the_same() {
    let unmarked = json!({"metadata": {"annotations": null}});
    for mut world in World::new(Arc::new(SOURCE), plain()).on_the_way().into_iter().skip(1) {
        world.edit(&unmarked);
        world.delete(|world| &mut world.object);
        let left = world.restarted().settled().object.unwrap();
        assert_eq!(left["metadata"]["finalizers"], json!(["team.dev/theirs"]));
    }
    let mut world = settled(plain());
    world.edit(&unmarked);
    becomes(&mut world, &service(json!({}), json!({"type": "ClusterIP", "loadBalancerClass": null})));
    let left = world.restarted().settled().object.unwrap();
    assert_eq!(left["metadata"]["finalizers"], json!(["team.dev/theirs"]));
}

#[test]
fn in_another_class_it_has_no_address_until_that_gives_one() {
    let mut world = settled(unclassed("shared"));
    world.done.clear();
    becomes(&mut world, &unclassed("other"));
    assert_eq!(world.settled().done, ["status", "delete", "gone", "create", "status"]);
}

#[test]
fn foreign_changes_of_the_claim_are_corrected() {
    let whole = settled(plain()).seen();
    type Tamper = fn(&mut World<Services>);
    let tampers: [(&str, Tamper); 9] = [
        ("the claim's ports", |world| world.edit_claim(&json!({"spec": {"ports": [{"name": "x", "port": 22}]}}))),
        ("the claim's target", |world| {
            world.edit_claim(&json!({"spec": {"serviceName": null, "selector": {"app": "other"}}}));
        }),
        ("the claim's address", |world| world.edit_claim(&json!({"spec": {"address": "192.0.2.1"}}))),
        ("the claim's label", |world| world.edit_claim(&json!({"metadata": {"labels": null}}))),
        ("the claim, deleted", |world| world.delete(|world| &mut world.claim)),
        ("the finalizer", |world| world.edit(&json!({"metadata": {"finalizers": ["team.dev/theirs"]}}))),
        ("the mark", |world| world.edit(&json!({"metadata": {"annotations": null}}))),
        ("the addresses", |world| world.edit(&json!({"status": {"loadBalancer": null}}))),
        ("the conditions", |world| {
            let theirs = world.object.as_ref().unwrap()["status"]["conditions"][0].clone();
            world.edit(&json!({"status": {"conditions": [theirs]}}));
        }),
    ];
    for (what, tamper) in tampers {
        let mut world = settled(plain());
        tamper(&mut world);
        assert_eq!(world.restarted().settled().seen(), whole, "{what}");
    }
}

#[test]
fn a_claim_of_an_earlier_service_of_that_name_is_replaced() {
    let earlier = settled(plain());
    let mut world = World::new(Arc::new(SOURCE), plain());
    world.edit(&json!({"metadata": {"uid": "another"}}));
    world.claim = earlier.claim;
    let world = world.settled();
    assert_eq!(world.done, ["delete", "gone", "create", "status"]);
    assert_eq!(world.claim.as_ref().unwrap()["metadata"]["ownerReferences"][0]["uid"], "another");
}

#[test]
fn a_users_claim_of_that_name_is_not_changed_and_the_service_reports_it() {
    let theirs = json!({"metadata": {"name": "service-web", "namespace": "team"}, "spec": {"ports": []}});
    let mut world = World::new(Arc::new(SOURCE), plain());
    world.claim = Some(theirs.clone());
    let mut world = world.settled();
    assert_eq!(world.claim, Some(theirs));
    assert_eq!(condition(&world, "Allocated")["reason"], "NameTaken");
    assert_eq!(world.events, ["NameTaken"]);
    world.claim = None;
    assert_eq!(condition(&world.settled(), "Ready")["status"], "True");
}

#[test]
fn a_refusal_of_the_api_server_is_reported() {
    let mut world = settled(plain());
    world.rejects = Some(Problem { reason: Reason::Rejected, message: "no".to_owned() });
    becomes(&mut world, &two_ports());
    let mut world = world.settled();
    assert_eq!(condition(&world, "Allocated")["message"], "no");
    assert_eq!(condition(&world, "Programmed")["status"], "True", "what it has is served all the same");
    assert_eq!(status(&world)["loadBalancer"]["ingress"][0]["ports"].as_array().unwrap().len(), 1);
    becomes(&mut world, &plain());
    assert_eq!(world.settled().seen(), settled(plain()).seen(), "the claim is as it should be without a write");
}

#[test]
fn unsupported_fields_are_reported_once_and_stay_in_the_condition() {
    let world = settled(service(json!({}), json!({"externalTrafficPolicy": "Local"}))).restarted().settled();
    assert_eq!(world.events, ["Ready", "ExternalTrafficPolicy"]);
    let told = condition(&world, "Honoured")["message"].as_str().unwrap();
    assert!(told.contains("externalTrafficPolicy Local"), "{told}");
}

#[test]
fn a_host_name_has_no_mode() {
    let mut world = settled(plain());
    let mut claim = world.claim.clone().unwrap();
    claim["status"]["loadBalancer"]["ingress"][0] = json!({"hostname": "lb.example.com", "ports": [{"port": 80}]});
    world.claim = Some(claim);
    let seen = world.settled().seen();
    assert_eq!(
        seen["object"]["status"]["loadBalancer"]["ingress"],
        json!([{"hostname": "lb.example.com", "ports": [{"port": 80, "protocol": "TCP"}]}])
    );
}

#[test]
fn services_that_are_not_ours_are_not_even_known() {
    let parse = |source: Services, service: Value| source.parse(&serde_json::from_value(service).unwrap()).is_some();
    let strict = Services { unclassed: false };
    assert!(parse(strict, plain()));
    assert!(!parse(strict, unclassed("shared")));
    assert!(parse(SOURCE, unclassed("shared")));
    assert!(!parse(SOURCE, unclassed("")));
    assert!(!parse(SOURCE, service(json!({}), json!({"loadBalancerClass": null}))));
    assert!(!parse(SOURCE, service(json!({}), json!({"loadBalancerClass": "somebody.else/lb"}))));
    let theirs = service(json!({}), json!({"type": "ClusterIP", "loadBalancerClass": null}));
    assert!(!parse(SOURCE, theirs.clone()));
    let mut with_a_clouds_finalizer = theirs;
    with_a_clouds_finalizer["metadata"]["finalizers"] = json!([FINALIZER]);
    assert!(!parse(SOURCE, with_a_clouds_finalizer), "every cloud's controller uses it");
    let mut own = unclassed("shared");
    own["metadata"]["labels"] = json!({MANAGED_BY_LABEL: MANAGED_BY});
    assert!(!parse(SOURCE, own), "a load balancer of ours");
}

#[test]
fn an_address_by_annotation_wins_over_the_old_field() {
    let address = |annotations: Value| {
        let world = settled(service(annotations, json!({"loadBalancerIP": "10.0.0.1"})));
        world.claim.unwrap()["spec"]["address"].clone()
    };
    assert_eq!(address(json!({})), "10.0.0.1");
    assert_eq!(address(json!({"sharedlb.dev/address": "lb.example.com"})), "lb.example.com");
}
