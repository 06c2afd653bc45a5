//! Services as the API has them, and what becomes of them write by write.

use std::sync::Arc;

use serde_json::{Value, json};
use sharedlb_crds::Reason;

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
fn first_comes_the_finalizer_then_the_claim_then_the_status() {
    let world = settled(plain());
    assert_eq!(world.done, ["finalizer", "create", "status"]);
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
    assert_eq!(world.news, ["Allocated", "Ready"]);
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
fn what_somebody_tampers_with_is_set_right() {
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
    assert_eq!(world.done, ["finalizer", "delete", "gone", "create", "status"]);
    assert_eq!(world.claim.as_ref().unwrap()["metadata"]["ownerReferences"][0]["uid"], "another");
}

#[test]
fn a_users_claim_of_that_name_is_left_alone_and_the_service_is_told() {
    let theirs = json!({"metadata": {"name": "service-web", "namespace": "team"}, "spec": {"ports": []}});
    let mut world = World::new(Arc::new(SOURCE), plain());
    world.claim = Some(theirs.clone());
    let mut world = world.settled();
    assert_eq!(world.claim, Some(theirs));
    assert_eq!(condition(&world, "Allocated")["reason"], "NameTaken");
    assert_eq!(world.news, ["NameTaken"]);
    world.claim = None;
    assert_eq!(condition(&world.settled(), "Ready")["status"], "True");
}

#[test]
fn what_the_api_server_does_not_take_is_told() {
    let mut world = settled(plain());
    world.rejects = Some(Refusal { reason: Reason::Rejected, message: "no".to_owned() });
    becomes(&mut world, &two_ports());
    let mut world = world.settled();
    assert_eq!(condition(&world, "Allocated")["message"], "no");
    assert_eq!(condition(&world, "Programmed")["status"], "True", "what it has is served all the same");
    assert_eq!(status(&world)["loadBalancer"]["ingress"][0]["ports"].as_array().unwrap().len(), 1);
    becomes(&mut world, &plain());
    assert_eq!(world.settled().seen(), settled(plain()).seen(), "the claim is as it should be without a write");
}

const RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

#[test]
fn a_claim_whose_status_cannot_be_read_takes_no_address_away() {
    type Happens = fn(&mut World<Services>);
    let happenings: [Happens; 3] = [
        |world| becomes(world, &with_sctp()),
        |world| becomes(world, &unclassed("Shared Class")),
        |world| {
            world.rejects = Some(Refusal { reason: Reason::Rejected, message: "no".to_owned() });
            becomes(world, &two_ports());
        },
    ];
    for happens in happenings {
        let mut world = settled(unclassed("shared"));
        let before = ingress(&world).clone();
        happens(&mut world);
        world.edit_claim(&json!({"status": {"ports": "?", "conditions": "?", "loadBalancer": "?"}}));
        let mut world = world.restarted();
        while world.source_step() {
            assert_eq!(*ingress(&world), before, "{:?}", world.done);
        }
        assert!(world.claim.is_some());
    }
}

#[test]
fn source_ranges_that_keep_clients_out_are_never_ignored() {
    let ranges = json!({"loadBalancerSourceRanges": ["192.0.2.0/24"]});
    let only_v6 = json!({"loadBalancerSourceRanges": ["::/0"], "ipFamilies": ["IPv4", "IPv6"]});
    let half = json!({"loadBalancerSourceRanges": ["0.0.0.0/1"]});
    for refused in [
        service(json!({}), ranges.clone()),
        service(json!({ RANGES: "192.0.2.0/24" }), json!({})),
        service(json!({ RANGES: "192.0.2.0/24, ::/0" }), json!({})),
        // The field counts, as for Kubernetes' own helper.
        service(json!({ RANGES: "0.0.0.0/0" }), ranges),
        service(json!({}), only_v6),
        service(json!({}), half),
    ] {
        let world = settled(refused.clone());
        assert_eq!(world.done, ["status"], "{refused}");
        assert_eq!(condition(&world, "Allocated")["reason"], "Unsupported");
        assert_eq!(world.news, ["Unsupported"]);
    }
    let mut world = settled(plain());
    world.done.clear();
    world.edit(&json!({"spec": {"loadBalancerSourceRanges": ["192.0.2.0/24"]}}));
    assert_eq!(world.settled().done, ["status", "delete", "gone", "finalizer"], "what was open is closed");
}

#[test]
fn source_ranges_that_admit_all_clients_are_served() {
    for (annotations, spec) in [
        (json!({}), json!({"loadBalancerSourceRanges": ["0.0.0.0/0"]})),
        (json!({}), json!({"loadBalancerSourceRanges": ["10.0.0.0/8", " 0.0.0.0/0 ", "::/0"]})),
        (json!({}), json!({"loadBalancerSourceRanges": ["::/0"], "ipFamilies": ["IPv6"]})),
        (json!({ RANGES: "10.0.0.0/8, 0.0.0.0/0" }), json!({})),
        (json!({ RANGES: " " }), json!({})),
        (json!({ RANGES: "10.0.0.0/8" }), json!({"loadBalancerSourceRanges": ["0.0.0.0/0"]})),
    ] {
        let mut world = settled(plain());
        world.done.clear();
        let kept = (ingress(&world).clone(), world.claim.clone());
        world.edit(&json!({"metadata": {"annotations": annotations}, "spec": spec}));
        let world = world.settled();
        assert!(world.done.is_empty(), "{annotations} {spec}: {:?}", world.done);
        assert_eq!((ingress(&world).clone(), world.claim.clone()), kept);
        assert_eq!(condition(&world, "Ready")["status"], "True");
    }
}

#[test]
fn an_edit_that_adds_a_port_that_cannot_be_had_closes_nothing() {
    let mut world = settled(plain());
    (world.done, world.news) = (Vec::new(), Vec::new());
    let kept = (ingress(&world).clone(), world.claim.clone());
    becomes(&mut world, &with_sctp());
    let mut world = world.restarted().settled();
    assert_eq!((ingress(&world).clone(), world.claim.clone()), kept, "what is open stays open");
    assert_eq!(world.done, ["status"]);
    for kind in ["Allocated", "Ready"] {
        assert_eq!(condition(&world, kind)["reason"], "Unsupported");
        assert_eq!(condition(&world, kind)["message"], "port 5060: only TCP and UDP can be shared: remove it");
    }
    assert_eq!(condition(&world, "Programmed")["status"], "True");
    assert_eq!(world.news, ["Unsupported"]);
    becomes(&mut world, &plain());
    assert_eq!(world.settled().seen(), settled(plain()).seen());
}

#[test]
fn of_too_many_ports_those_that_it_has_stay() {
    let ports = |world: &World<Services>| world.claim.as_ref().unwrap()["spec"]["ports"].clone();
    let mut world = settled(many(2..=65));
    let before = (ports(&world), ingress(&world).clone());
    world.done.clear();
    // It is the first of the list.
    becomes(&mut world, &many(1..=65));
    let world = world.restarted().settled();
    assert_eq!((ports(&world), ingress(&world).clone()), before);
    assert_eq!(world.done, ["status"]);
    let message = "it has 65 ports, and at most 64 can be shared (port 1 left out): split it";
    assert_eq!(condition(&world, "Allocated")["message"], message);
    // A fresh one has the first.
    let fresh = settled(many(1..=66));
    assert_eq!(ports(&fresh), ports(&settled(many(1..=64))));
    let message = condition(&fresh, "Ready")["message"].as_str().unwrap();
    assert!(message.ends_with("(ports 65, 66 left out): split it"), "{message}");
}

#[test]
fn what_is_left_out_is_told_beside_what_else_is_wrong() {
    let mut world = World::new(Arc::new(SOURCE), with_sctp());
    world.rejects = Some(Refusal { reason: Reason::Rejected, message: "no".to_owned() });
    let world = world.settled();
    assert_eq!(condition(&world, "Allocated")["reason"], "Rejected");
    assert_eq!(condition(&world, "Allocated")["message"], "no; port 5060: only TCP and UDP can be shared: remove it");
}

#[test]
fn a_class_whose_name_is_misspelt_closes_nothing() {
    let mut world = settled(unclassed("shared"));
    (world.done, world.news) = (Vec::new(), Vec::new());
    let kept = (ingress(&world).clone(), world.claim.clone());
    becomes(&mut world, &unclassed("Shared Class"));
    let mut world = world.restarted().settled();
    assert_eq!((ingress(&world).clone(), world.claim.clone()), kept);
    assert_eq!(
        (world.done.as_slice(), world.news.as_slice()),
        (&["status".to_owned()][..], &["Rejected".to_owned()][..])
    );
    assert_eq!(condition(&world, "Ready")["status"], "False");
    becomes(&mut world, &unclassed("other"));
    assert_eq!(world.settled().seen(), settled(unclassed("other")).seen());
    let fresh = settled(unclassed("Shared Class"));
    assert!(fresh.claim.is_none() && condition(&fresh, "Allocated")["reason"] == "Rejected");
}

#[test]
fn what_is_not_carried_out_is_told_once_and_stays_to_be_read() {
    let policies = json!({"externalTrafficPolicy": "Local", "sessionAffinity": "ClientIP"});
    let world = settled(service(json!({}), policies)).restarted().settled();
    assert_eq!(world.news, ["Allocated", "Ready", "ExternalTrafficPolicy"]);
    let told = condition(&world, "Honoured")["message"].as_str().unwrap();
    assert!(told.contains("externalTrafficPolicy Local") && told.contains("sessionAffinity ClientIP"), "{told}");
}

/// Requires that kube-proxy is to leave every address of the Service alone.
fn is_captured_nowhere(world: &World<Services>, what: &str) {
    for entry in ingress(world).as_array().into_iter().flatten() {
        assert_eq!(entry["ipMode"], "Proxy", "{what}: {entry}");
    }
}

#[test]
fn kube_proxy_is_never_given_an_address_of_ours_whatever_the_service_becomes() {
    for (from, before) in variants() {
        for (to, after) in variants() {
            for (at, mut world) in World::new(Arc::new(SOURCE), before.clone()).on_the_way().into_iter().enumerate() {
                is_captured_nowhere(&world, from);
                becomes(&mut world, &after);
                for world in world.restarted().on_the_way() {
                    is_captured_nowhere(&world, &format!("{from} became {to} after {at} steps"));
                }
            }
        }
    }
}

/// As an earlier version left it: kube-proxy captures what comes to the ports of
/// the Service's spec at its address.
fn captured(world: &mut World<Services>) {
    let entry = json!({"ip": "10.0.0.1", "ipMode": "VIP", "ports": [{"port": 80, "protocol": "TCP"}]});
    world.edit(&json!({"status": {"loadBalancer": {"ingress": [entry]}}}));
}

#[test]
fn an_address_that_an_earlier_version_left_to_kube_proxy_is_taken_from_it_first() {
    type Happens = fn(&mut World<Services>);
    let happenings: [(&str, Happens); 8] = [
        ("nothing", |_| {}),
        ("its claim cannot be read", |world| world.edit_claim(&json!({"status": {"ports": "?", "conditions": "?"}}))),
        ("its claim has no verdict yet", |world| world.edit_claim(&json!({"spec": {"ports": [{"port": 81}]}}))),
        ("its claim is gone", |world| world.claim = None),
        ("its ports are edited", |world| becomes(world, &two_ports())),
        ("it is deleted", |world| world.delete(|world| &mut world.object)),
        ("its class cannot exist", |world| becomes(world, &unclassed("Shared Class"))),
        ("it says that it is no Service of a user", |world| {
            world.edit(&json!({"metadata": {"labels": {MANAGED_BY_LABEL: MANAGED_BY}, "annotations": null}}));
        }),
    ];
    for (what, happens) in happenings {
        let mut world = settled(plain());
        captured(&mut world);
        happens(&mut world);
        world.done.clear();
        let mut world = world.restarted();
        assert!(world.step(), "{what}");
        assert_eq!(world.done, ["status"], "{what}");
        is_captured_nowhere(&world, what);
        is_captured_nowhere(&world.settled(), what);
    }
}

#[test]
fn a_source_that_is_switched_off_takes_addresses_from_kube_proxy_and_does_nothing_else() {
    let retired = |service: Value| World::new(Arc::new(Retired), service);
    let mut left = settled(plain());
    let untouched = left.object.clone().unwrap();
    captured(&mut left);
    let mut world = retired(plain());
    (world.object, world.claim) = (left.object.clone(), left.claim.clone());
    let mut world = world.settled();
    assert_eq!(world.done, ["status"]);
    assert_eq!((&world.claim, &world.object.as_ref().unwrap()["status"]), (&left.claim, &untouched["status"]));
    // What a controller has served since then is that controller's.
    let theirs = json!({"status": {"loadBalancer": {"ingress": [{"ip": "10.0.0.9", "ipMode": "VIP"}]}}});
    let mut others = unclassed("shared");
    others["status"] = untouched["status"].clone();
    merge(&mut others["status"], &theirs["status"]);
    assert!(retired(others).settled().done.is_empty());
    assert!(retired(plain()).settled().done.is_empty());
    world.object = None;
    world.done.clear();
    let world = world.settled();
    assert!(world.claim.is_some() && world.done.is_empty(), "{:?}", world.done);
}

#[test]
fn the_write_that_takes_an_address_from_kube_proxy_says_how_to_do_it_by_hand() {
    let mut world = settled(plain());
    captured(&mut world);
    let service = SOURCE.parse(&serde_json::from_value(world.object.unwrap()).unwrap()).unwrap();
    let change = status::to_proxy(&service).unwrap();
    let command = "kubectl patch service web -n team --subresource=status --type=json -p \
        '[{\"op\":\"add\",\"path\":\"/status/loadBalancer/ingress/0/ipMode\",\"value\":\"Proxy\"}]'";
    assert!(change.otherwise.as_ref().is_some_and(|told| told.ends_with(command)), "{:?}", change.otherwise);
}

/// Asks for the deletion of the claim, which a finalizer keeps that is not ours.
fn delete_and_hold(world: &mut World<Services>) {
    world.edit_claim(&json!({"metadata": {"finalizers": [sharedlb_crds::CLAIM_FINALIZER, "example.com/hold"]}}));
    world.delete(|world| &mut world.claim);
}

#[test]
fn while_its_claim_lingers_a_service_has_no_address_and_is_not_ready() {
    let mut world = settled(plain());
    (world.done, world.news) = (Vec::new(), Vec::new());
    delete_and_hold(&mut world);
    let mut world = world.restarted().settled();
    assert_eq!(world.done, ["status", "released"], "first the address goes");
    assert_eq!(*ingress(&world), json!([]));
    for kind in ["Allocated", "Ready"] {
        assert_eq!(
            (&condition(&world, kind)["status"], &condition(&world, kind)["reason"]),
            (&json!("False"), &json!("NameTaken"))
        );
    }
    let message = condition(&world, "Ready")["message"].as_str().unwrap();
    assert!(message.contains("finalizer example.com/hold keeps it: remove the finalizer"), "{message}");
    assert_eq!(world.news, ["NameTaken"]);
    // Nor does an edit give it one.
    becomes(&mut world, &two_ports());
    let mut world = world.settled();
    assert_eq!(*ingress(&world), json!([]));
    world.edit_claim(&json!({"metadata": {"finalizers": []}}));
    assert_eq!(world.settled().seen(), settled(two_ports()).seen());
}

#[test]
fn no_service_has_an_address_while_its_claim_is_going_whatever_becomes_of_the_service() {
    for (from, before) in variants() {
        for (to, after) in variants() {
            let mut world = settled(before.clone());
            if world.claim.is_none() {
                continue;
            }
            delete_and_hold(&mut world);
            becomes(&mut world, &after);
            let world = world.restarted().settled();
            let addresses = ingress(&world).as_array().map_or(0, Vec::len);
            assert_eq!(addresses, 0, "{from} became {to}");
            assert_ne!(condition(&world, "Ready")["status"], "True", "{from} became {to}");
        }
    }
}

#[test]
fn a_claim_that_vanishes_takes_the_address_with_it_before_there_is_another() {
    let mut world = settled(plain());
    world.done.clear();
    world.claim = None;
    let mut world = world.restarted();
    assert!(world.step());
    assert_eq!((world.done.as_slice(), ingress(&world)), (&["status".to_owned()][..], &json!([])));
    assert_eq!(condition(&world, "Ready")["reason"], "Pending");
    assert_eq!(world.settled().done, ["status", "create", "status"]);
}

#[test]
fn a_label_does_not_hide_a_service_that_was_given_something() {
    let mut labelled = plain();
    labelled["metadata"]["labels"] = json!({MANAGED_BY_LABEL: MANAGED_BY});
    let mut world = World::new(Arc::new(SOURCE), plain());
    let mut steps = 0;
    while world.step() {
        steps += 1;
        let mut hiding = world.clone();
        hiding.edit(&json!({"metadata": {"labels": {MANAGED_BY_LABEL: MANAGED_BY}}}));
        becomes(&mut hiding, &service(json!({}), json!({"type": "ClusterIP", "loadBalancerClass": null})));
        let left = hiding.restarted().settled();
        assert!(left.claim.is_none(), "after {steps} steps");
        let left = left.object.unwrap();
        assert_eq!(left["metadata"]["finalizers"], json!(["team.dev/theirs"]), "after {steps} steps");
        assert_eq!(left["status"]["loadBalancer"]["ingress"].as_array().map_or(0, Vec::len), 0, "after {steps} steps");
    }
    assert!(settled(labelled).done.is_empty(), "it never was one");
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
