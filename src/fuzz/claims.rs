//! Claims.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kube::api::DynamicObject;
use proptest::prelude::*;
use serde_json::Value;
use sharedlb_crds::{Reason, TargetKind};
use sharedlb_providers::{Address, IpFamily, ListenerKey};

use super::mutate::near;
use super::{claim_json, classes, config, is_fit};
use crate::api::claim::ClaimObject;
use crate::api::companion_name;
use crate::class::companion;
use crate::class::render::{self, IdleFamily, Programmed, Served, Unallocated, Verdict};
use crate::load_balancer::outcome::Failure;

/// The claim, if it is one at all: metadata that can't be read is no object of the
/// API server.
fn parse(object: &Value) -> Option<ClaimObject> {
    serde_json::from_value::<DynamicObject>(object.clone()).ok().map(|object| ClaimObject::parse(&object))
}

fn held(claim: &ClaimObject) -> Vec<(u32, String, ListenerKey)> {
    let slots = claim.request.held.iter().flat_map(|held| held.slots.iter().map(|slot| (held.index, slot)));
    slots.map(|(index, slot)| (index, slot.name.to_string(), slot.key)).collect()
}

fn neighbours() -> Vec<Arc<ClaimObject>> {
    [("older", 20002), ("younger", 20004)].map(|(name, port)| Arc::new(parse(&claim_json(name, port)).unwrap())).into()
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn whatever_a_claim_asks_for_what_it_holds_stays_known(object in near(claim_json("redis", 20000), "/spec")) {
        let (before, now) = (parse(&claim_json("redis", 20000)).unwrap(), parse(&object).unwrap());
        prop_assert_eq!(held(&now), held(&before));
        prop_assert!(!now.unparsable);
        prop_assert!(now.spec.as_ref().err().is_none_or(|error| is_fit([error.clone()])));
        for targets in [TargetKind::Pod, TargetKind::Node] {
            _ = companion::desired(&now, targets, None);
        }
        prop_assert!(companion_name::key(&now.meta).name.len() <= 63);
    }

    #[test]
    fn whatever_a_status_says_besides_its_slots_are_known(
        object in prop_oneof![
            near(claim_json("redis", 20000), "/status/conditions"),
            near(claim_json("redis", 20000), "/status/loadBalancer"),
            near(claim_json("redis", 20000), "/status/summary"),
            near(claim_json("redis", 20000), "/status/observedGeneration"),
            near(claim_json("redis", 20000), "/status/address"),
        ],
    ) {
        let (before, now) = (parse(&claim_json("redis", 20000)).unwrap(), parse(&object).unwrap());
        prop_assert_eq!(held(&now), held(&before));
        prop_assert!(!now.unparsable);
    }

    #[test]
    fn a_status_that_can_be_read_holds_what_it_names_and_nothing_else(object in near(claim_json("redis", 20000), "/status")) {
        let now = parse(&object).unwrap();
        let named = object["status"]["ports"].as_array().cloned().unwrap_or_default();
        if !now.unparsable && object["status"]["loadBalancerIndex"].is_u64() {
            let ports: Vec<u64> = named.iter().filter_map(|port| port["port"].as_u64()).collect();
            let found: Vec<u64> = held(&now).iter().map(|(.., key)| u64::from(key.port.get())).collect();
            prop_assert_eq!(found, ports);
        }
    }

    #[test]
    fn a_malformed_claim_changes_no_other_claim(
        object in prop_oneof![near(claim_json("redis", 20000), ""), near(claim_json("redis", 20000), "/metadata")],
    ) {
        let Some(odd) = parse(&object) else { return Ok(()) };
        let mut claims = neighbours();
        claims.push(Arc::new(odd.clone()));
        let (assignments, _) = classes::decided(&classes::class_json(), &claims);
        for (claim, got) in claims.iter().zip(&assignments) {
            let Some(got) = got else { continue };
            if claim.meta.key.name.starts_with("older") || claim.meta.key.name.starts_with("younger") {
                let granted = got.granted.iter().flat_map(|held| held.slots.iter().map(|slot| slot.key)).collect::<Vec<_>>();
                let before: Vec<_> = held(claim).into_iter().map(|(.., key)| key).collect();
                prop_assert_eq!(granted, before);
            }
        }
        let mut taken = BTreeMap::new();
        for (claim, got) in claims.iter().zip(&assignments) {
            let slots = got.iter().filter_map(|got| got.granted.as_ref());
            for (index, slot) in slots.flat_map(|held| held.slots.iter().map(|slot| (held.index, slot))) {
                for port in slot.key.front_ports() {
                    let other = taken.insert((index, port), &claim.meta.key);
                    prop_assert!(other.is_none(), "{port} of {index} went to {other:?} and {:?}", claim.meta.key);
                }
            }
        }
    }

    #[test]
    fn statuses_are_short_and_can_be_parsed(
        object in near(claim_json("redis", 20000), ""), said in "\\PC{0,40}|(.|\n|\u{1b}){0,3000}", heard in any::<bool>(),
    ) {
        let Some(claim) = parse(&object) else { return Ok(()) };
        let verdict = Verdict {
            held: claim.request.held.clone(),
            refused: heard.then(|| Unallocated { reason: None, message: said.clone() }),
            programmed: if heard {
                let why = Failure { reason: Reason::NoBackends, message: said.clone().into() };
                let idle = IdleFamily { port: "b".into(), family: IpFamily::V4, why: said };
                Programmed::Served(Served {
                    without_backends: vec![("a".into(), Some(why))],
                    idle_families: vec![idle],
                    ..Served::default()
                })
            } else {
                Programmed::Unknown
            },
            addresses: heard.then(|| [Address::parse("10.0.0.1")].into()),
            open: BTreeSet::new(),
        };
        let status = render::status(&claim, Some("default"), &verdict, jiff::Timestamp::UNIX_EPOCH);
        let said = status.conditions.iter().map(|condition| condition.message.clone()).chain(status.summary.clone());
        prop_assert!(is_fit(said), "{status:?}");
        let mut written = object.clone();
        written["status"] = serde_json::to_value(&status).unwrap();
        let again = parse(&written).unwrap();
        prop_assert!(!again.unparsable);
        prop_assert_eq!(held(&again), held(&claim));
    }
}
