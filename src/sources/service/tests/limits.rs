//! What a Service may not have, or not in full.

use super::*;

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
        assert_eq!(world.events, ["Unsupported"]);
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
    (world.done, world.events) = (Vec::new(), Vec::new());
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
    assert_eq!(world.events, ["Unsupported"]);
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
    (world.done, world.events) = (Vec::new(), Vec::new());
    let kept = (ingress(&world).clone(), world.claim.clone());
    becomes(&mut world, &unclassed("Shared Class"));
    let mut world = world.restarted().settled();
    assert_eq!((ingress(&world).clone(), world.claim.clone()), kept);
    assert_eq!(
        (world.done.as_slice(), world.events.as_slice()),
        (&["status".to_owned()][..], &["Rejected".to_owned()][..])
    );
    assert_eq!(condition(&world, "Ready")["status"], "False");
    becomes(&mut world, &unclassed("other"));
    assert_eq!(world.settled().seen(), settled(unclassed("other")).seen());
    let fresh = settled(unclassed("Shared Class"));
    assert!(fresh.claim.is_none() && condition(&fresh, "Allocated")["reason"] == "Rejected");
}
