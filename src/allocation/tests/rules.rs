//! Which claim gets which port.

use super::*;

// Pass 1: held stays held.

#[test]
fn what_is_held_stays_held_while_name_protocol_and_number_allow_it() {
    for asked in [None, Some(20005)] {
        let held = claim("a", 1).asks("x", Protocol::Tcp, asked).holds(0, "x", tcp(20005));
        assert_eq!(slots(&run(&[held], &existing(1), &policy())[0]), [(0, "x", tcp(20005))]);
    }
}

#[test]
fn a_port_that_changes_its_transport_or_asks_for_another_number_is_dropped() {
    let changed = [claim("a", 1).asks("x", Protocol::Udp, None), claim("a", 1).number("x", 443)];
    for now in changed {
        let result = &run(&[now.holds(0, "x", tcp(20005))], &existing(1), &policy())[0];
        assert_eq!(result.dropped, [tcp(20005)]);
        assert_eq!(slots(result).len(), 1, "and it gets another: {result:?}");
    }
}

#[test]
fn added_ports_must_fit_on_the_claims_own_load_balancer_or_are_refused_alone() {
    let neighbours = (0..3).map(|n| claim(&format!("n{n}"), 0).any("x").holds(0, "x", tcp(20000 + n)));
    let growing = claim("a", 1).any("old").any("new").holds(0, "old", tcp(20005));
    let claims: Vec<ClaimRequest> = neighbours.chain([growing]).collect();
    let result = &run(&claims, &existing(2), &policy())[3];
    assert_eq!(slots(result), [(0, "old", tcp(20005))], "load balancer 1 has room, but a claim is never moved");
    assert_eq!(reasons(result), [("new", Some(Reason::PoolExhausted))]);
}

#[test]
fn a_claim_with_an_option_that_the_class_lacks_gets_nothing_new_and_keeps_what_it_holds() {
    let of_v6 = ListenerOption::SourceRangesBeside(IpFamily::V6);
    for option in [ListenerOption::SourceRanges, of_v6, ListenerOption::SessionAffinity] {
        let policy = Policy { lacking: vec![LackingOption { option, instead: "do without" }], ..policy() };
        let asks = |claim: ClaimRequest| claim.excluding("10.0.0.0/8").with_affinity();
        let new = asks(claim("new", 1).any("x"));
        let held = asks(claim("held", 2).any("x").any("added").holds(0, "x", tcp(20005)));
        let result = run(&[new, held], &existing(1), &policy);
        assert_eq!(slots(&result[0]), []);
        assert_eq!(reasons(&result[0]), [("x", Some(Reason::Unsupported))]);
        assert_eq!(slots(&result[1]), [(0, "x", tcp(20005))]);
        assert_eq!(reasons(&result[1]), [("added", Some(Reason::Unsupported))]);
        assert!(result[1].refused[0].1.message("default").ends_with(": do without"));
    }
}

#[test]
fn a_port_that_becomes_tcp_udp_stays_tcp_while_the_class_lacks_an_option() {
    let lacking = LackingOption { option: ListenerOption::SessionAffinity, instead: "do without" };
    let policy = Policy { lacking: vec![lacking], ..policy() };
    let edited = claim("a", 1).asks("x", Protocol::TcpUdp, None).holds(0, "x", tcp(20005)).with_affinity();
    let result = &run(&[edited], &existing(1), &policy)[0];
    assert_eq!(slots(result), [(0, "x", tcp(20005))]);
    assert_eq!(reasons(result), [("x", Some(Reason::Unsupported))]);
}

#[test]
fn source_ranges_of_the_family_of_the_addresses_are_not_refused() {
    let of_v4 = LackingOption { option: ListenerOption::SourceRangesBeside(IpFamily::V4), instead: "" };
    let policy = Policy { lacking: vec![of_v4], ..policy() };
    let both = claim("a", 1).any("x").excluding("10.0.0.0/8");
    assert_eq!(slots(&run(&[both], &existing(1), &policy)[0]).len(), 1);
}

#[test]
fn of_two_holders_of_a_slot_the_older_keeps_it_and_the_younger_reports_it_and_gets_another() {
    let older = claim("older", 1).any("x").holds(0, "x", tcp(20005));
    let younger = claim("younger", 2).any("x").holds(0, "x", tcp(20005));
    let result = run(&[younger, older], &existing(1), &policy());
    assert_eq!(slots(&result[1]), [(0, "x", tcp(20005))]);
    assert_eq!(result[0].lost, [tcp(20005)]);
    assert_eq!(slots(&result[0]).len(), 1);
    assert_ne!(slots(&result[0])[0].2, tcp(20005));
}

#[test]
fn of_two_claims_that_hold_a_foreign_port_one_keeps_it() {
    let foreign = BTreeSet::from([FrontPort { port: number(20005), transport: Transport::Tcp }]);
    let lbs = LoadBalancers::from([(0, LoadBalancerState { foreign, ..Default::default() })]);
    let hold = |name, created| claim(name, created).any("x").holds(0, "x", tcp(20005));
    let result = run(&[hold("older", 1), hold("younger", 2)], &lbs, &policy());
    assert_eq!(slots(&result[0]), [(0, "x", tcp(20005))], "it was open before: it is never moved");
    assert_ne!(slots(&result[1])[0].2, tcp(20005));
}

#[test]
fn a_status_that_names_a_reserved_port_or_a_load_balancer_beyond_the_maximum_holds_nothing() {
    for (index, port) in [(0, 22), (4_000_000, 20001)] {
        let tampered = claim("a", 1).any("x").holds(index, "x", tcp(port));
        let result = &run(&[tampered], &existing(1), &policy())[0];
        let (index, _, key) = slots(result)[0];
        assert_eq!(index, 0);
        assert!(policy().dynamic.contains(key.port));
    }
}

#[test]
fn narrowing_ranges_maximum_quota_and_namespaces_moves_no_claim() {
    let held = claim("a", 1).any("x").number("y", 6379).holds(1, "x", tcp(20005)).holds(1, "y", tcp(6379));
    let narrow = Policy {
        dynamic: ranges(&[(30000, 30001)]),
        requestable: ranges(&[(80, 80)]),
        max: 1,
        listeners: 1,
        ports_per_namespace: 1,
        namespaces: Some(BTreeSet::new()),
        ..policy()
    };
    let result = &run(&[held], &existing(2), &narrow)[0];
    assert_eq!(slots(result), [(1, "x", tcp(20005)), (1, "y", tcp(6379))]);
    assert_eq!(result.refused, []);
}

// Pass 2: asked for by number.

#[test]
fn a_number_goes_to_the_first_load_balancer_where_it_is_free_and_then_to_the_next_up_to_the_maximum() {
    let claims: Vec<ClaimRequest> = (0..3).map(|n| claim(&format!("c{n}"), n).number("x", 6379)).collect();
    let result = run(&claims, &existing(1), &policy());
    assert_eq!(slots(&result[0]), [(0, "x", tcp(6379))]);
    assert_eq!(slots(&result[1]), [(1, "x", tcp(6379))]);
    assert_eq!(reasons(&result[2]), [("x", Some(Reason::PortTaken))]);
    assert_eq!(
        message(&result[2]),
        "port 6379/TCP is taken on load balancers 0 and 1; class default may have 2 load balancers: \
         ask for another port, or leave port out to have one assigned"
    );
}

#[test]
fn requested_numbers_are_assigned_before_dynamic_ones() {
    let any = claim("older", 1).any("x");
    let wants = preferred(&any.id, "x", &dynamic()).unwrap();
    let by_number = claim("younger", 2).number("x", wants.get());
    let result = run(&[any, by_number], &existing(1), &policy());
    assert_eq!(slots(&result[1]), [(0, "x", tcp(wants.get()))]);
    assert_ne!(slots(&result[0])[0].2.port, wants);
}

#[test]
fn a_new_claim_gets_all_its_ports_on_one_load_balancer_or_none() {
    let taken = claim("other", 1).number("x", 443).holds(0, "x", tcp(443));
    let both = claim("a", 2).number("plain", 80).number("tls", 443);
    let result = run(&[taken.clone(), both.clone()], &existing(1), &policy());
    assert_eq!(slots(&result[1]), [(1, "plain", tcp(80)), (1, "tls", tcp(443))]);

    let result = run(&[taken, both], &existing(1), &Policy { max: 1, ..policy() });
    assert_eq!(slots(&result[1]), []);
    assert_eq!(reasons(&result[1]), [("tls", Some(Reason::PortTaken))], "80 was not the failure");
}

#[test]
fn a_number_outside_the_requestable_ranges_or_reserved_by_the_provider_is_not_allowed() {
    let policy = Policy { requestable: ranges(&[(1, 1023)]), ..policy() };
    for (port, reason) in [(22, Some(Reason::PortNotAllowed)), (1024, Some(Reason::PortNotAllowed))] {
        let result = &run(&[claim("a", 1).number("x", port)], &existing(1), &policy)[0];
        assert_eq!(reasons(result), [("x", reason)]);
        assert_eq!(slots(result), []);
    }
}

#[test]
fn a_foreign_port_is_taken_and_counts_as_a_listener() {
    let foreign = BTreeSet::from([FrontPort { port: number(8080), transport: Transport::Tcp }]);
    let lbs = LoadBalancers::from([(0, LoadBalancerState { foreign, ..Default::default() })]);
    let one = Policy { max: 1, ..policy() };
    assert_eq!(reasons(&run(&[claim("a", 1).number("x", 8080)], &lbs, &one)[0]), [("x", Some(Reason::PortTaken))]);
    let four: Vec<ClaimRequest> = (0..4).map(|n| claim(&format!("c{n}"), n).any("x")).collect();
    let result = run(&four, &lbs, &one);
    assert_eq!(reasons(&result[3]), [("x", Some(Reason::PoolExhausted))]);
}

// Pass 3: the rest.

#[test]
fn a_claim_deleted_and_created_again_gets_its_port_back_also_in_a_new_cluster() {
    let first = slots(&run(&[claim("redis", 1).any("x")], &existing(1), &policy())[0])[0].2;
    let again = slots(&run(&[claim("redis", 99).any("x")], &LoadBalancers::new(), &policy())[0])[0].2;
    assert_eq!(first, again);
    // Written down: the same in every version of this program.
    assert_eq!(first, tcp(20007));
}

#[test]
fn a_preferred_port_that_is_taken_gives_way_to_the_next_free_one_and_wraps() {
    let all = Policy { listeners: 100, max: 1, ..policy() };
    let claims: Vec<ClaimRequest> = (0..11).map(|n| claim(&format!("c{n:02}"), n).any("x")).collect();
    let result = run(&claims, &existing(1), &all);
    let given: BTreeSet<u16> = result.iter().flat_map(slots).map(|(_, _, key)| key.port.get()).collect();
    assert_eq!(given, (20000..=20009).collect());
    assert_eq!(reasons(&result[10]), [("x", Some(Reason::PoolExhausted))]);
    assert!(
        message(&result[10]).starts_with("no port of spec.ports.dynamic is free on load balancer 0;"),
        "{}",
        message(&result[10])
    );
}

#[test]
fn load_balancer_0_is_filled_first_and_a_new_one_is_opened_only_when_no_other_has_room() {
    let claims: Vec<ClaimRequest> = (0..9).map(|n| claim(&format!("c{n}"), n).any("x")).collect();
    let result = run(&claims, &existing(1), &policy());
    let indices: Vec<Option<u32>> = result.iter().map(|got| got.granted.as_ref().map(|held| held.index)).collect();
    assert_eq!(indices, [Some(0), Some(0), Some(0), Some(0), Some(1), Some(1), Some(1), Some(1), None]);
    assert_eq!(
        message(&result[8]),
        "4 of 4 listeners are held on load balancers 0 and 1; class default may have 2 load balancers: \
         delete a claim, or ask the admin to raise spec.loadBalancers.max"
    );

    // Load balancer 0 was removed when it was empty; 1 has room, so 0 is not made again.
    let only_1 = LoadBalancers::from([(1, LoadBalancerState::default())]);
    let result = run(&[claim("a", 1).any("x")], &only_1, &policy());
    assert_eq!(result[0].granted.as_ref().unwrap().index, 1);
}

#[test]
fn a_burst_opens_as_many_load_balancers_as_it_needs_in_one_run() {
    let claims: Vec<ClaimRequest> = (0..20).map(|n| claim(&format!("c{n:02}"), n).any("x")).collect();
    let result = run(&claims, &LoadBalancers::new(), &Policy { max: 5, ..policy() });
    assert_eq!(result.iter().filter_map(|got| got.granted.as_ref()).map(|held| held.index).max(), Some(4));
    assert!(result.iter().all(|got| got.refused.is_empty()));
}

#[test]
fn more_ports_than_any_load_balancer_can_have_say_so() {
    let wide = (0..5).fold(claim("wide", 1), |claim, n| claim.any(&format!("p{n}")));
    let result = &run(&[wide], &existing(1), &policy())[0];
    assert_eq!(slots(result), []);
    assert!(
        message(result).starts_with("5 listeners are asked for, and at most 4 fit on load balancers 0 and 1"),
        "{}",
        message(result)
    );
}

#[test]
fn a_claim_of_64_ports_gets_all_of_them() {
    let roomy = Policy { listeners: 64, dynamic: ranges(&[(20000, 20063)]), ..policy() };
    let wide = (0..64).fold(claim("wide", 1), |claim, n| claim.any(&format!("p{n}")));
    let result = &run(&[wide], &existing(1), &roomy)[0];
    assert_eq!(slots(result).len(), 64);
}

// Protocols and capacity.

#[test]
fn tcp_and_udp_have_one_number_each_where_the_provider_can_and_one_together_where_not() {
    let both = [claim("t", 1).number("x", 53), claim("u", 2).asks("x", Protocol::Udp, Some(53))];
    for (shared, udp) in [(true, 0), (false, 1)] {
        let result = run(&both, &existing(2), &Policy { tcp_and_udp_share_a_number: shared, ..policy() });
        assert_eq!(slots(&result[1]), [(udp, "x", key(53, Protocol::Udp))]);
    }
}

#[test]
fn tcp_udp_takes_one_number_in_both_and_as_many_listeners_as_the_provider_says() {
    let dns = |n: i64| claim(&format!("dns{n}"), n).asks("x", Protocol::TcpUdp, None);
    let tcp_of_53 = claim("tcp", 9).number("x", 53);
    let udp_of_53 = claim("udp", 9).asks("x", Protocol::Udp, Some(53));
    let first = claim("first", 1).asks("x", Protocol::TcpUdp, Some(53));
    let one = Policy { max: 1, ..policy() };
    let result = run(&[first, tcp_of_53, udp_of_53], &existing(1), &one);
    assert_eq!(reasons(&result[1]), [("x", Some(Reason::PortTaken))]);
    assert_eq!(reasons(&result[2]), [("x", Some(Reason::PortTaken))]);

    for (listeners, fit) in [(1, 4), (2, 2)] {
        let claims: Vec<ClaimRequest> = (0..5).map(dns).collect();
        let result = run(&claims, &existing(1), &Policy { listeners_for_tcp_udp: listeners, ..one.clone() });
        assert_eq!(result.iter().filter(|got| got.granted.is_some()).count(), fit);
    }
}

#[test]
fn a_protocol_that_the_provider_has_not_is_unsupported() {
    let policy = Policy { protocols: [Protocol::Tcp].into(), ..policy() };
    let result = &run(&[claim("a", 1).asks("x", Protocol::Udp, None)], &existing(1), &policy)[0];
    assert_eq!(reasons(result), [("x", Some(Reason::Unsupported))]);
}

#[test]
fn the_providers_own_limit_counts_where_it_is_lower_than_the_class() {
    let lbs = LoadBalancers::from([(
        0,
        LoadBalancerState { capacity: Capacity { listeners: Some(1), targets: None }, ..Default::default() },
    )]);
    let result = run(&[claim("a", 1).any("x"), claim("b", 2).any("x")], &lbs, &policy());
    assert_eq!(result[0].granted.as_ref().unwrap().index, 0);
    assert_eq!(result[1].granted.as_ref().unwrap().index, 1);
}

// Who may.

#[test]
fn a_namespace_that_is_not_allowed_gets_nothing_new() {
    let policy = Policy { namespaces: Some(BTreeSet::from(["team-b".into()])), ..policy() };
    let result = run(&[claim("a", 1).any("x"), claim("b", 2).of("team-b").any("x")], &existing(1), &policy);
    assert_eq!(reasons(&result[0]), [("x", Some(Reason::NotPermitted))]);
    assert_eq!(slots(&result[1]).len(), 1);
}

#[test]
fn a_namespace_gets_as_many_ports_as_its_quota_and_others_are_not_touched_by_it() {
    let policy = Policy { ports_per_namespace: 2, ..policy() };
    let claims = [claim("a", 1).any("x").any("y"), claim("b", 2).any("x"), claim("c", 3).of("other").any("x")];
    let result = run(&claims, &existing(1), &policy);
    assert_eq!(slots(&result[0]).len(), 2);
    assert_eq!(reasons(&result[1]), [("x", Some(Reason::QuotaExceeded))]);
    assert!(
        message(&result[1]).starts_with("the namespace holds 2 of 2 ports of class default"),
        "{}",
        message(&result[1])
    );
    assert_eq!(slots(&result[2]).len(), 1);
}

/// A load balancer on which these ports of claims of `team` cool down.
fn cooling(ports: &[(&str, u16)]) -> LoadBalancers {
    let released = ports.iter().map(|&(name, port)| Released {
        key: tcp(port),
        claim: claim(name, 0).id,
        open: false,
        targets: 0,
    });
    BTreeMap::from([(0, LoadBalancerState { released: released.collect(), ..Default::default() })])
}

#[test]
fn creating_and_deleting_claims_repeatedly_takes_at_most_twice_the_quota() {
    let policy = Policy { ports_per_namespace: 2, ..policy() };
    let three = cooling(&[("a", 20000), ("b", 20001), ("c", 20002)]);
    let newcomers = [claim("d", 0).any("x"), claim("e", 1).any("x"), claim("f", 2).of("others").any("x")];
    let result = run(&newcomers, &three, &policy);
    assert!(result[0].granted.is_some(), "three cool down, and four may be taken up");
    assert_eq!(reasons(&result[1]), [("x", Some(Reason::QuotaExceeded))]);
    assert!(
        message(&result[1]).starts_with("the namespace holds 1 ports of class default, 3 released ports cool down")
    );
    assert!(result[2].granted.is_some(), "another namespace has its own quota");
}

#[test]
fn a_namespace_that_has_its_quota_may_have_a_port_changed_and_a_claim_created_again() {
    let policy = Policy { ports_per_namespace: 1, ..policy() };
    let changed = claim("a", 0).number("x", 6379).holds(0, "x", tcp(20000));
    assert_eq!(slots(&run(&[changed], &existing(1), &policy)[0]), [(0, "x", tcp(6379))]);
    let again = claim("a", 0).number("x", 20000);
    let full = cooling(&[("a", 20000), ("a", 20001)]);
    assert_eq!(
        slots(&run(&[again], &full, &policy)[0]),
        [(0, "x", tcp(20000))],
        "the cool-down of what it takes back is over"
    );
}

#[test]
fn an_address_chooses_the_load_balancer_and_an_unknown_one_says_which_there_are() {
    let at = |name: &str| LoadBalancerState { addresses: vec![Address::Hostname(name.into())], ..Default::default() };
    let lbs = LoadBalancers::from([(0, at("lb-0")), (1, at("lb-1"))]);
    let result = run(&[claim("a", 1).any("x").at("lb-1"), claim("b", 2).any("x").at("lb-9")], &lbs, &policy());
    assert_eq!(result[0].granted.as_ref().unwrap().index, 1);
    assert_eq!(reasons(&result[1]), [("x", Some(Reason::AddressUnknown))]);
    assert_eq!(
        message(&result[1]),
        "no load balancer of class default has the address lb-9: ask for lb-0 or lb-1, or leave address out"
    );
}

#[test]
fn an_address_that_the_class_gives_to_a_later_load_balancer_opens_that_one() {
    let addresses = [["10.0.0.10", "fd00::10"], ["10.0.0.11", "fd00::11"]];
    let addresses = addresses.map(|of_one| of_one.map(|address| address.parse().unwrap()).to_vec());
    let policy = Policy { addresses: addresses.into(), ..policy() };
    let asked = |address| run(&[claim("a", 1).any("x").at(address)], &existing(1), &policy);
    for address in ["10.0.0.11", "fd00::11"] {
        assert_eq!(asked(address)[0].granted.as_ref().unwrap().index, 1, "by either family");
    }
    assert_eq!(
        message(&asked("fd00::12")[0]),
        "no load balancer of class default has the address fd00::12: ask for 10.0.0.10, fd00::10, 10.0.0.11 or fd00::11, or leave address out"
    );
}
