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
            world.rejects = Some(Problem { reason: Reason::Rejected, message: "no".to_owned() });
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
fn source_ranges_go_to_the_claim() {
    let field = |ranges: &[&str]| json!({"loadBalancerSourceRanges": ranges});
    let only_v6 = |ranges: &[&str]| json!({"loadBalancerSourceRanges": ranges, "ipFamilies": ["IPv6"]});
    for (annotation, spec, expected) in [
        ("", field(&["192.0.2.0/24"]), json!(["192.0.2.0/24"])),
        ("", field(&[" 192.0.2.0/24 ", "fd00::/8"]), json!(["192.0.2.0/24", "fd00::/8"])),
        ("", field(&["::/0"]), json!(["::/0"])),
        ("", only_v6(&["::/0"]), json!(null)),
        ("", only_v6(&["fd00::/8"]), json!(["fd00::/8"])),
        ("192.0.2.0/24, fd00::/8", json!({}), json!(["192.0.2.0/24", "fd00::/8"])),
        (" ", json!({}), json!(null)),
        // The field counts, as for Kubernetes' own helper.
        ("0.0.0.0/0", field(&["192.0.2.0/24"]), json!(["192.0.2.0/24"])),
    ] {
        let annotated =
            |world: &World<Services>| world.claim.as_ref().unwrap()["spec"]["loadBalancerSourceRanges"].clone();
        let wanted = service(json!({ RANGES: annotation }), spec);
        let fresh = settled(wanted.clone());
        assert_eq!(annotated(&fresh), expected, "{wanted}");
        let mut edited = settled(plain());
        edited.edit(&json!({"metadata": {"annotations": wanted["metadata"]["annotations"]}, "spec": wanted["spec"]}));
        let mut edited = edited.settled();
        assert_eq!(annotated(&edited), expected, "{wanted}");
        edited.edit(&json!({
            "metadata": {"annotations": {RANGES: null}}, "spec": {"loadBalancerSourceRanges": null, "ipFamilies": null},
        }));
        assert_eq!(annotated(&edited.settled()), json!(null), "{wanted}");
    }
}

#[test]
fn the_clients_of_source_ranges_that_cannot_be_read_are_not_served() {
    let of_claim = |world: &World<Services>| world.claim.as_ref().unwrap()["spec"]["loadBalancerSourceRanges"].clone();
    let is_said = |world: &World<Services>, reason: &str| {
        assert_eq!(condition(world, "Allocated")["reason"], reason);
        assert_eq!(condition(world, "Ready")["reason"], reason);
        let message = condition(world, "Allocated")["message"].as_str().unwrap();
        assert!(message.starts_with("source range office is not a range of addresses"), "{message}");
    };
    let fresh = settled(service(json!({ RANGES: "10.0.0.0/8, office" }), json!({})));
    assert_eq!(of_claim(&fresh), json!(["10.0.0.0/8"]));
    is_said(&fresh, "Unsupported");
    let mut world = settled(plain());
    world.edit(&json!({"spec": {"loadBalancerSourceRanges": ["office", "10.0.0.0/8", "home"]}}));
    let mut world = world.settled();
    assert_eq!(of_claim(&world), json!(["10.0.0.0/8"]), "it does not stay open to all clients");
    is_said(&world, "Unsupported");
    let message = condition(&world, "Allocated")["message"].as_str().unwrap();
    assert!(message.contains("(and 1 more)"), "{message}");
    // A claim without ranges would admit all clients.
    world.edit(&json!({"spec": {"loadBalancerSourceRanges": ["office"]}}));
    let world = world.settled();
    assert!(world.claim.is_none(), "{:?}", world.claim);
    is_said(&world, "Rejected");
    let fresh = settled(service(json!({ RANGES: "office" }), json!({})));
    assert!(fresh.claim.is_none());
    is_said(&fresh, "Rejected");
}

#[test]
fn session_affinity_goes_to_the_claim() {
    let claim_of = |spec: Value| settled(service(json!({}), spec)).claim.unwrap()["spec"].clone();
    let of_timeout = |seconds: u32| json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": seconds}}});
    let spec = claim_of(of_timeout(60));
    assert_eq!(spec["sessionAffinity"], "ClientIP");
    assert_eq!(spec["sessionAffinityConfig"], json!({"clientIP": {"timeoutSeconds": 60}}));
    assert_eq!(claim_of(json!({"sessionAffinity": "None"}))["sessionAffinity"], json!(null));
    let mut world = settled(service(json!({}), of_timeout(60)));
    world.edit(&json!({"spec": {"sessionAffinity": "None", "sessionAffinityConfig": null}}));
    let spec = world.settled().claim.unwrap()["spec"].clone();
    assert_eq!((&spec["sessionAffinity"], &spec["sessionAffinityConfig"]), (&json!(null), &json!(null)));
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
fn of_too_many_source_ranges_the_clients_of_the_last_ones_are_not_served() {
    let with_ranges = |ranges: Vec<String>| {
        let mut service = plain();
        service["spec"]["loadBalancerSourceRanges"] = json!(ranges);
        service
    };
    let of_claim = |world: &World<Services>| world.claim.as_ref().unwrap()["spec"]["loadBalancerSourceRanges"].clone();
    let apart = |count: u8| (0..count).map(|number| format!("10.{number}.1.0/24")).collect::<Vec<_>>();
    let mut world = settled(plain());
    becomes(&mut world, &with_ranges(apart(66)));
    let world = world.settled();
    assert_eq!(of_claim(&world).as_array().unwrap().len(), 64, "it does not stay open to all clients");
    let message = condition(&world, "Allocated")["message"].as_str().unwrap();
    assert!(message.contains("the clients in the last 2 are not served: merge some of them"), "{message}");

    // Ranges that fit once they are merged are all there.
    let neighbours = (0..=255).map(|number| format!("10.0.{number}.0/24")).collect();
    let world = settled(with_ranges(neighbours));
    assert_eq!(of_claim(&world), json!(["10.0.0.0/16"]));
    assert_eq!(condition(&world, "Ready")["status"], "True");
}

#[test]
fn left_out_ports_are_reported_beside_other_problems() {
    let mut world = World::new(Arc::new(SOURCE), with_sctp());
    world.rejects = Some(Problem { reason: Reason::Rejected, message: "no".to_owned() });
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
