//! Which addresses a Service has, when, and what kube-proxy makes of them.

use super::*;

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

#[test]
fn an_address_is_written_only_together_with_the_finalizer_whatever_the_service_becomes() {
    let is_protected = |world: &World<Services>, what: &str| {
        let has_address = ingress(world).as_array().is_some_and(|entries| !entries.is_empty());
        let finalizers = world.object.as_ref().unwrap()["metadata"]["finalizers"].as_array().unwrap();
        assert!(!has_address || finalizers.contains(&json!(FINALIZER)), "{what}: {:?}", world.done);
    };
    let no_class = ("a class that cannot exist", unclassed("Shared Class"));
    for (from, before) in variants() {
        for (to, after) in variants().into_iter().chain([no_class.clone()]) {
            for (at, mut world) in World::new(Arc::new(SOURCE), before.clone()).on_the_way().into_iter().enumerate() {
                becomes(&mut world, &after);
                for world in world.restarted().on_the_way() {
                    is_protected(&world, &format!("{from} became {to} after {at} steps"));
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
fn a_service_that_is_deleted_after_its_source_was_switched_off_is_gone() {
    let left = settled(plain());
    let mut world = World::new(Arc::new(Retired), plain());
    (world.object, world.claim) = (left.object, left.claim);
    world.delete(|world| &mut world.object);
    let world = world.settled();
    assert_eq!(world.done, ["finalizer"]);
    assert_eq!(world.object.unwrap()["metadata"]["finalizers"], json!(["team.dev/theirs"]));
}

#[test]
fn the_write_that_takes_an_address_from_kube_proxy_says_how_to_do_it_by_hand() {
    let mut world = settled(plain());
    captured(&mut world);
    let service = SOURCE.parse(&serde_json::from_value(world.object.unwrap()).unwrap()).unwrap();
    let change = status::to_proxy(&service).unwrap();
    let command = "kubectl patch service web -n team --subresource=status --type=json -p \
        '[{\"op\":\"add\",\"path\":\"/status/loadBalancer/ingress/0/ipMode\",\"value\":\"Proxy\"}]'";
    assert!(change.workaround.as_ref().is_some_and(|told| told.ends_with(command)), "{:?}", change.workaround);
}

/// ServiceRequest for the deletion of the claim, which a finalizer keeps that is not ours.
fn delete_and_hold(world: &mut World<Services>) {
    world.edit_claim(&json!({"metadata": {"finalizers": [CLAIM_FINALIZER, "example.com/hold"]}}));
    world.delete(|world| &mut world.claim);
}

#[test]
fn while_its_claim_lingers_a_service_has_no_address_and_is_not_ready() {
    let mut world = settled(plain());
    (world.done, world.events) = (Vec::new(), Vec::new());
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
    assert_eq!(world.events, ["NameTaken"]);
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
