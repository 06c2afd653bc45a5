use serde_json::{Value, json};

use super::*;

/// A spec with these ranges of addresses.
fn spec(provider: &str, load_balancers: Value, ranges: &[(&str, &str)]) -> SharedLBClassSpec {
    let ranges: Vec<Value> = ranges.iter().map(|(min, max)| json!({"min": min, "max": max})).collect();
    let spec = json!({"provider": {provider: {}}, "loadBalancers": load_balancers, "addresses": ranges});
    serde_json::from_value(spec).unwrap()
}

fn vip(ranges: &[(&str, &str)]) -> SharedLBClassSpec {
    spec("vip", json!({"min": 1, "max": 10}), ranges)
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// The addresses that the load balancers of a new class get.
fn assigned(spec: &SharedLBClassSpec) -> Vec<Vec<IpAddr>> {
    assign(spec, &BTreeMap::new()).to_vec()
}

fn refused(spec: &SharedLBClassSpec) -> String {
    refusal(spec, &BTreeMap::new()).expect("it is refused")
}

const IPV4: (&str, &str) = ("203.0.113.10", "203.0.113.11");

#[test]
fn each_load_balancer_has_the_address_of_its_index_over_all_ranges() {
    let spec = vip(&[IPV4, ("203.0.113.250", "203.0.113.250")]);
    let expected = [["203.0.113.10"], ["203.0.113.11"], ["203.0.113.250"]];
    assert_eq!(assigned(&spec), expected.map(|of_one| ips(&of_one)));
    assert_eq!(load_balancers(&spec), Some(3));
    assert_eq!(refusal(&spec, &BTreeMap::new()), None);
}

#[test]
fn each_load_balancer_has_one_address_of_each_family_and_that_of_the_first_range_comes_first() {
    let ranges = [("2001:db8::a", "2001:db8::a"), IPV4, ("2001:db8::f", "2001:db8::f")];
    let expected = [["2001:db8::a", "203.0.113.10"], ["2001:db8::f", "203.0.113.11"]];
    assert_eq!(assigned(&vip(&ranges)), expected.map(|of_one| ips(&of_one)));
    assert_eq!(refusal(&vip(&ranges), &BTreeMap::new()), None);
}

#[test]
fn a_range_of_the_whole_internet_is_as_cheap_as_any() {
    let mut spec = vip(&[("2001:db8::", "2001:db8::ffff:ffff:ffff:ffff")]);
    assert_eq!(assigned(&spec).len(), 10);
    spec.load_balancers.max = u32::MAX;
    assert_eq!(assigned(&spec).len(), 1000, "what got past the schema does not fill the memory");
    let all = vip(&[("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), ("0.0.0.0", "255.255.255.255")]);
    assert_eq!(load_balancers(&all), Some(u32::MAX));
    assert_eq!(assigned(&all)[9], ips(&["::9", "0.0.0.9"]));
    assert_eq!(refusal(&all, &BTreeMap::new()), None, "there are enough of both");
}

#[test]
fn ranges_that_are_mistaken_are_refused_with_what_to_do() {
    assert!(refused(&vip(&[("203.0.113.11", "203.0.113.10")])).contains("swap min and max"));
    let twice = refused(&vip(&[IPV4, ("203.0.113.11", "203.0.113.19")]));
    assert!(twice.contains("203.0.113.11 is in two ranges: remove it"), "{twice}");
}

#[test]
fn fewer_addresses_than_there_are_always_load_balancers_are_refused() {
    let mut spec = vip(&[IPV4]);
    spec.load_balancers.min = 3;
    let message = refused(&spec);
    assert!(message.contains("for 2 load balancers, and loadBalancers.min is 3"), "{message}");
    assert!(message.contains("lower min to 2"), "{message}");
}

#[test]
fn a_family_with_fewer_addresses_than_the_other_is_refused_unless_there_are_enough_load_balancers() {
    let mut spec = vip(&[IPV4, ("2001:db8::", "2001:db8::ffff")]);
    let message = refused(&spec);
    assert!(message.contains("2 addresses are IPv4, and 10 or more are IPv6"), "{message}");
    assert!(message.contains("set loadBalancers.max to 2"), "{message}");
    spec.load_balancers.max = 2;
    assert_eq!(refusal(&spec, &BTreeMap::new()), None);
}

#[test]
fn a_service_requests_one_address_so_that_two_families_are_refused_and_the_requested_ones_stay() {
    let spec = spec("service", json!({"max": 10}), &[IPV4, ("2001:db8::a", "2001:db8::a")]);
    let message = refused(&spec);
    assert!(message.contains("the provider service requests one address") && message.contains("ipFamilyPolicy"));
    let expected = [["203.0.113.10"], ["203.0.113.11"], ["2001:db8::a"]];
    assert_eq!(assigned(&spec), expected.map(|of_one| ips(&of_one)), "as before it was refused");
}

#[test]
fn a_load_balancer_keeps_its_addresses_and_a_list_that_would_change_them_is_refused() {
    let kept = BTreeMap::from([(1, ips(&["203.0.113.11"]))]);
    for harmless in [&[IPV4][..], &[("203.0.113.10", "203.0.113.19")], &[IPV4, ("198.51.100.1", "198.51.100.1")]] {
        assert_eq!(refusal(&vip(harmless), &kept), None);
    }
    let shifted = vip(&[("203.0.113.11", "203.0.113.12")]);
    let message = refusal(&shifted, &kept).expect("it is refused");
    assert!(message.contains("load balancer 1 has 203.0.113.11, and would have 203.0.113.12"), "{message}");
    assert_eq!(*assign(&shifted, &kept), [ips(&["203.0.113.11"]), ips(&["203.0.113.11"])]);

    let shorter = vip(&[("203.0.113.10", "203.0.113.10")]);
    assert!(refusal(&shorter, &kept).expect("it is refused").contains("would have no address"));
    assert_eq!(*assign(&shorter, &kept), [ips(&["203.0.113.10"]), ips(&["203.0.113.11"])]);

    let of_both = vip(&[IPV4, ("2001:db8::a", "2001:db8::b")]);
    assert!(refusal(&of_both, &kept).is_some(), "another address is another name for the same ports");
}
