//! Properties of the selection, for any slices.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForZone,
};
use proptest::collection::{btree_set, vec};
use proptest::option;
use proptest::prelude::*;

use super::super::{Fitness, Rules, select};
use crate::Families;

/// Few addresses and zones, so that the same ones meet.
fn any_endpoint(prefix: &'static str) -> impl Strategy<Value = Endpoint> {
    let conditions = option::of((any::<Option<bool>>(), any::<Option<bool>>(), any::<Option<bool>>()));
    let zones = option::weighted(0.8, btree_set("[ab]", 0..3));
    (1..8_u8, conditions, zones).prop_map(move |(number, conditions, zones)| Endpoint {
        addresses: vec![format!("{prefix}{number}")],
        conditions: conditions.map(|(ready, serving, terminating)| EndpointConditions { ready, serving, terminating }),
        hints: zones.map(|zones| EndpointHints {
            for_zones: Some(zones.into_iter().map(|name| ForZone { name }).collect()),
            ..EndpointHints::default()
        }),
        ..Endpoint::default()
    })
}

fn any_slice() -> impl Strategy<Value = EndpointSlice> {
    let families = prop_oneof![Just(("IPv4", "10.0.0.")), Just(("IPv6", "fd00::"))];
    families.prop_flat_map(|(address_type, prefix)| {
        vec(any_endpoint(prefix), 0..5).prop_map(move |endpoints| EndpointSlice {
            address_type: address_type.to_owned(),
            endpoints,
            ports: Some(vec![EndpointPort { port: Some(8080), ..EndpointPort::default() }]),
            ..EndpointSlice::default()
        })
    })
}

fn any_rules() -> impl Strategy<Value = Rules> {
    let families =
        prop_oneof![Just(Families::PreferIpv4), Just(Families::PreferIpv6), Just(Families::Ipv4), Just(Families::Ipv6)];
    (families, option::of("[abc]")).prop_map(|(families, zone)| Rules { port: None, families, zone })
}

fn addresses(slices: &[EndpointSlice], rules: &Rules) -> BTreeSet<String> {
    select(slices, rules).unwrap().into_iter().map(|endpoint| endpoint.address.ip().to_string()).collect()
}

/// How fit each address of the families is, as the fittest of its endpoints.
fn fitness_of_each(slices: &[EndpointSlice], families: Families) -> BTreeMap<String, Fitness> {
    let wanted = |slice: &&EndpointSlice| match families {
        Families::Ipv4 => slice.address_type == "IPv4",
        Families::Ipv6 => slice.address_type == "IPv6",
        Families::PreferIpv4 | Families::PreferIpv6 => true,
    };
    let mut fitness = BTreeMap::new();
    for endpoint in slices.iter().filter(wanted).flat_map(|slice| &slice.endpoints) {
        if let Some(new) = Fitness::of(endpoint.conditions.as_ref()) {
            let known = fitness.entry(endpoint.addresses[0].clone()).or_insert(new);
            *known = new.max(*known);
        }
    }
    fitness
}

proptest! {
    #[test]
    fn only_the_fittest_endpoints_are_selected_and_some_if_any_is_fit(
        slices in vec(any_slice(), 0..5),
        rules in any_rules(),
    ) {
        let fitness = fitness_of_each(&slices, rules.families);
        let selected = addresses(&slices, &rules);
        prop_assert_eq!(selected.is_empty(), fitness.is_empty());
        for address in &selected {
            prop_assert_eq!(fitness.get(address), fitness.values().max(), "{}", address);
        }
    }

    #[test]
    fn endpoints_of_two_families_are_never_mixed(slices in vec(any_slice(), 0..5), rules in any_rules()) {
        let selected = addresses(&slices, &rules);
        let ipv6 = selected.iter().filter(|address| address.contains(':')).count();
        prop_assert!(ipv6 == 0 || ipv6 == selected.len(), "{:?}", selected);
    }

    #[test]
    fn without_a_zone_all_of_the_fittest_endpoints_of_a_family_are_selected(
        slices in vec(any_slice(), 0..5),
        families in prop_oneof![Just(Families::Ipv4), Just(Families::Ipv6)],
    ) {
        let fitness = fitness_of_each(&slices, families);
        let fittest = fitness.iter().filter(|(_, each)| Some(*each) == fitness.values().max());
        let fittest: BTreeSet<String> = fittest.map(|(address, _)| address.clone()).collect();
        prop_assert_eq!(addresses(&slices, &Rules { families, ..Rules::default() }), fittest);
    }

    #[test]
    fn a_zone_only_narrows_what_is_selected(slices in vec(any_slice(), 0..5), rules in any_rules()) {
        let everywhere = addresses(&slices, &Rules { zone: None, ..rules.clone() });
        prop_assert!(addresses(&slices, &rules).is_subset(&everywhere));
    }

    #[test]
    fn the_order_and_the_size_of_slices_change_nothing(
        slices in vec(any_slice(), 0..5),
        order in any::<prop::sample::Index>(),
        rules in any_rules(),
    ) {
        let selected = select(&slices, &rules);
        let mut others: Vec<EndpointSlice> = slices
            .iter()
            .flat_map(|slice| slice.endpoints.iter().map(|each| EndpointSlice { endpoints: vec![each.clone()], ..slice.clone() }))
            .collect();
        others.reverse();
        if !others.is_empty() {
            let by = order.index(others.len());
            others.rotate_left(by);
        }
        prop_assert_eq!(&select(&others, &rules), &selected);
        others.extend(slices);
        prop_assert_eq!(&select(&others, &rules), &selected);
    }
}
