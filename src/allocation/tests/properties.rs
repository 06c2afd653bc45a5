//! Properties of every assignment.

use crate::kubernetes::ObjectKey;
use proptest::prelude::*;

use super::*;

/// Any claims, in any state that a status may be tampered into.
fn claims() -> impl Strategy<Value = Vec<ClaimRequest>> {
    let protocol = || prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp), Just(Protocol::TcpUdp)];
    let port = (prop_oneof![Just("x"), Just("y"), Just("z")], protocol(), prop::option::of(19998u16..20012), 1u32..6);
    let held = (0u32..4, prop_oneof![Just("x"), Just("y")], protocol(), 19998u16..20012, any::<bool>());
    let one = (
        0i64..3,
        prop_oneof![Just("team-a"), Just("team-b")],
        prop::collection::vec(port, 1..3),
        prop::collection::vec(held, 0..3),
        prop::bool::weighted(0.2),
    );
    prop::collection::vec(one, 0..12).prop_map(|raw| {
        raw.into_iter()
            .enumerate()
            .map(|(n, (created, namespace, ports, held, is_affine))| {
                let mut made = claim(&format!("c{n}"), created).of(namespace);
                if is_affine {
                    made = made.with_affinity();
                }
                for (name, protocol, port, targets) in ports {
                    if made.ports.iter().all(|known| &*known.name != name) {
                        made = made.asks(name, protocol, port).with_targets(targets);
                    }
                }
                for (index, name, protocol, port, opened) in held {
                    made = made
                        .holding(index, HeldSlot { name: name.into(), key: key(port, protocol), opened, target: None });
                }
                made
            })
            .collect()
    })
}

fn load_balancers() -> impl Strategy<Value = LoadBalancers> {
    let foreign = prop::collection::btree_set(
        (19998u16..20012, prop_oneof![Just(Transport::Tcp), Just(Transport::Udp)])
            .prop_map(|(port, transport)| FrontPort { port: number(port), transport }),
        0..3,
    );
    let released = (0usize..12, 19998u16..20012, any::<bool>()).prop_map(|(n, port, open)| Released {
        key: tcp(port),
        claim: ObjectKey { namespace: "team-a".into(), name: format!("c{n}").into() },
        open,
        targets: 1,
    });
    let one = (foreign, prop::collection::vec(released, 0..3)).prop_map(|(foreign, released)| LoadBalancerState {
        foreign,
        released,
        ..Default::default()
    });
    prop::collection::vec(one, 0..3).prop_map(|all| (0..).zip(all).collect())
}

fn policies() -> impl Strategy<Value = Policy> {
    let limits = (1u32..8, prop::option::of(1u32..16));
    let affinity = LackingOption { option: ListenerOption::SessionAffinity, instead: "do without" };
    let listeners = (any::<bool>(), 1u32..3, any::<bool>());
    let load_balancers = (1u32..4, prop::option::of(0u32..3));
    (load_balancers, limits, 1u32..12, listeners).prop_map(move |(count, (listeners, targets), quota, flags)| {
        let ((max, cordoned), (share, two, lacks)) = (count, flags);
        Policy {
            lacking: lacks.then_some(affinity).into_iter().collect(),
            max,
            cordoned: cordoned.into_iter().collect(),
            listeners,
            targets,
            ports_per_namespace: quota,
            tcp_and_udp_share_a_number: share,
            listeners_for_tcp_udp: two,
            ..policy()
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn slots_are_distinct_and_in_range(claims in claims(), lbs in load_balancers(), policy in policies()) {
        let result = run(&claims, &lbs, &policy);
        let mut seen: HashMap<(u32, u16, Transport), &ObjectKey> = HashMap::new();
        for (claim, got) in claims.iter().zip(&result) {
            for (index, name, slot) in slots(got) {
                let request = claim.ports.iter().find(|port| &*port.name == name).unwrap();
                // One that cannot have the other transport stays as it is, and is refused.
                let is_refused = got.refused.iter().any(|(refused, _)| &**refused == name);
                prop_assert!(request.protocol == slot.protocol || is_refused);
                match request.number {
                    Some(number) => prop_assert_eq!(number, slot.port),
                    None => {
                        let held = claim.held.iter().flat_map(|held| held.slots.iter()).any(|held| held.key.port == slot.port);
                        prop_assert!(held || policy.dynamic.contains(slot.port));
                    }
                }
                let transports: &[Transport] =
                    if policy.tcp_and_udp_share_a_number { slot.protocol.transports() } else { &[Transport::Tcp, Transport::Udp] };
                for &transport in transports {
                    let other = seen.insert((index, slot.port.get(), transport), &claim.id);
                    prop_assert!(other.is_none(), "{slot} of load balancer {index} went to {other:?} and {}", claim.id);
                }
            }
        }
    }

    #[test]
    fn a_cordoned_load_balancer_gets_no_new_number(claims in claims(), lbs in load_balancers(), policy in policies()) {
        for (claim, got) in claims.iter().zip(run(&claims, &lbs, &policy)) {
            for (index, _, slot) in slots(&got).into_iter().filter(|(index, ..)| policy.cordoned.contains(index)) {
                let held = claim.held.iter().filter(|held| held.index == index).flat_map(|held| held.slots.iter());
                let numbers: BTreeSet<u16> = held.map(|held| held.key.port.get()).collect();
                prop_assert!(numbers.contains(&slot.port.get()), "{slot} is new on load balancer {index}");
            }
        }
    }

    #[test]
    fn every_port_is_either_granted_or_refused(claims in claims(), lbs in load_balancers(), policy in policies()) {
        for (claim, got) in claims.iter().zip(run(&claims, &lbs, &policy)) {
            let granted: BTreeSet<String> = slots(&got).iter().map(|(_, name, _)| (*name).to_owned()).collect();
            for (name, _) in &got.refused {
                let asked = claim.ports.iter().find(|port| port.name == *name).unwrap();
                let stays = |&(_, slot, key): &(u32, &str, ListenerKey)| slot == &**name && key.protocol != asked.protocol;
                prop_assert!(!granted.contains(&**name) || slots(&got).iter().any(stays));
            }
            // A claim that gets nothing at all names the ports that were in the way.
            let decided: BTreeSet<String> =
                granted.iter().cloned().chain(got.refused.iter().map(|(name, _)| name.to_string())).collect();
            let complete = decided.len() == claim.ports.len();
            prop_assert!(complete || (granted.is_empty() && !got.refused.is_empty()), "{claim:?} {got:?}");
        }
    }

    #[test]
    fn the_result_does_not_depend_on_the_order_of_the_input(
        claims in claims().prop_shuffle(), lbs in load_balancers(), policy in policies(),
    ) {
        let mut sorted = claims.clone();
        sorted.sort_by(|a, b| a.id.cmp(&b.id));
        let by_id = |claims: &[ClaimRequest]| -> BTreeMap<ObjectKey, Assignment> {
            claims.iter().map(|claim| claim.id.clone()).zip(run(claims, &lbs, &policy)).collect()
        };
        prop_assert_eq!(by_id(&claims), by_id(&sorted));
    }

    // Where ports that were given back still take up room, a claim that was
    // refused may fit a moment later: so either there is room, or nothing is
    // given back.
    #[test]
    fn running_it_again_on_its_own_result_changes_nothing(
        claims in claims(), lbs in load_balancers(), policy in policies(), tight in any::<bool>(),
    ) {
        let (claims, lbs, policy) = if tight {
            let new = claims.into_iter().map(|claim| ClaimRequest { held: None, ..claim }).collect();
            let lbs = lbs.into_iter().map(|(index, lb)| (index, LoadBalancerState { released: Vec::new(), ..lb })).collect();
            (new, lbs, policy)
        } else {
            (claims, lbs, Policy { listeners: 1000, targets: None, ports_per_namespace: 1000, ..policy })
        };
        let first = run(&claims, &lbs, &policy);
        let settled = with_status(&claims, &first);
        // What was dropped cools down on the load balancer where it was held, and of two
        // claims that say they held the same it cools down for the older.
        let mut lbs: LoadBalancers = lbs;
        let mut by_age: Vec<_> = claims.iter().zip(&first).collect();
        by_age.sort_by_key(|(claim, _)| (claim.created, &claim.id));
        for (claim, got) in by_age {
            for &key in &got.dropped {
                let index = claim.held.as_ref().unwrap().index;
                let released = Released { key, claim: claim.id.clone(), open: true, targets: 1 };
                lbs.entry(index).or_default().released.push(released);
            }
        }
        let second = run(&settled, &lbs, &policy);
        // Two statuses that name one slot are set right first; what that makes free is
        // assigned the next time.
        let held = claims.iter().filter_map(|claim| claim.held.as_ref());
        let ports = held.flat_map(|held| {
            held.slots.iter().flat_map(|slot| slot.key.front_ports()).map(|port| (held.index, port))
        });
        let mut named = BTreeSet::new();
        let was_held_twice = ports.filter(|port| !named.insert(*port)).count() > 0;
        for (claim, (first, second)) in claims.iter().zip(first.iter().zip(&second)) {
            if !was_held_twice || first.granted.is_some() {
                prop_assert_eq!(&first.granted, &second.granted, "{:?} {:?}", claim, first.refused);
            }
            prop_assert_eq!(&second.dropped, &vec![]);
            prop_assert_eq!(&second.lost, &vec![]);
        }
    }

    #[test]
    fn a_newcomer_moves_no_claim(claims in claims(), newcomer in claims(), lbs in load_balancers(), policy in policies()) {
        let settled = with_status(&claims, &run(&claims, &lbs, &policy));
        let without = run(&settled, &lbs, &policy);
        let newcomers = newcomer.into_iter().enumerate().map(|(n, mut claim)| {
            claim.id.name = format!("new{n}").into();
            claim.created = -1;
            claim.held = None;
            claim
        });
        let all: Vec<ClaimRequest> = settled.iter().cloned().chain(newcomers).collect();
        for ((claim, without), after) in settled.iter().zip(&without).zip(run(&all, &lbs, &policy)) {
            let held = |slot: &HeldSlot| claim.held.iter().any(|held| held.slots.contains(slot));
            for slot in without.granted.iter().flat_map(|held| held.slots.iter()).filter(|slot| held(slot)) {
                prop_assert!(after.granted.iter().flat_map(|held| held.slots.iter()).any(|now| now == slot));
            }
            let index = |got: &Assignment| got.granted.as_ref().map(|held| held.index);
            prop_assert!(claim.held.is_none() || index(without) == index(&after));
        }
    }

    // What is held stays held, however much that is: so only who gets something
    // new is looked at.
    #[test]
    fn new_ports_stay_within_the_quota_including_cooling_ports(
        claims in claims(), lbs in load_balancers(), policy in policies(),
    ) {
        let result = run(&claims, &lbs, &policy);
        // A slot that a claim holds does not cool down, whichever claim released it; nor does the
        // rest of a number that has one listener.
        let blocked = |key: ListenerKey| match policy.tcp_and_udp_share_a_number {
            true => key,
            false => ListenerKey { protocol: Protocol::TcpUdp, ..key },
        };
        let all_held: BTreeSet<(u32, FrontPort)> = result
            .iter()
            .flat_map(slots)
            .flat_map(|(index, _, key)| blocked(key).front_ports().map(move |port| (index, port)))
            .collect();
        for namespace in ["team-a", "team-b"] {
            let of: Vec<_> = claims.iter().zip(&result).filter(|(claim, _)| &*claim.id.namespace == namespace).collect();
            let held: BTreeSet<(u32, ListenerKey)> =
                of.iter().flat_map(|(_, got)| slots(got)).map(|(index, _, key)| (index, key)).collect();
            let new = of.iter().any(|(claim, got)| {
                // TCP_UDP that becomes TCP is no new port.
                let before = claim.held.iter().flat_map(|held| held.slots.iter()).map(|slot| slot.key.port).collect::<Vec<_>>();
                slots(got).iter().any(|(.., key)| !before.contains(&key.port))
            });
            let released = lbs.iter().flat_map(|(&index, lb)| lb.released.iter().map(move |released| (index, released)));
            let released = released.filter(|(_, released)| &*released.claim.namespace == namespace);
            let mut cooling: BTreeSet<(u32, ListenerKey)> = released.map(|(index, released)| (index, released.key)).collect();
            for (claim, got) in &of {
                let index = claim.held.as_ref().map_or(0, |held| held.index);
                // TCP_UDP that becomes TCP gives the rest of its number back, also after
                // others were admitted.
                let narrowed = |key: &ListenerKey| slots(got).iter().any(|(on, _, new)| *on == index && new.port == key.port);
                let given_back = got.dropped.iter().filter(|key| !narrowed(key));
                cooling.extend(given_back.map(|&key| (index, key)));
            }
            let quota = policy.ports_per_namespace as usize;
            prop_assert!(!new || held.len() <= quota, "{held:?} of {quota}");
            // Where two statuses name one port, it cools down once, for one of the two.
            let others = claims.iter().zip(&result).filter(|(claim, _)| &*claim.id.namespace != namespace);
            let of_others: BTreeSet<(u32, FrontPort)> = others.flat_map(|(claim, got)| {
                let index = claim.held.as_ref().map_or(0, |held| held.index);
                got.dropped.iter().flat_map(|key| key.front_ports()).map(move |port| (index, port))
            }).collect();
            let mut free: BTreeSet<(u32, FrontPort)> = cooling.iter()
                .flat_map(|(index, key)| key.front_ports().map(move |port| (*index, port)))
                .filter(|port| !all_held.contains(port) && !of_others.contains(port))
                .collect();
            let mut widest: Vec<_> = cooling.iter().collect();
            widest.sort_by_key(|(_, key)| std::cmp::Reverse(key.front_ports().count()));
            let cools = |(index, key): &&(u32, ListenerKey)| {
                key.front_ports().filter(|port| free.remove(&(*index, *port))).count() > 0
            };
            let all = held.len() + widest.into_iter().filter(cools).count();
            prop_assert!(!new || all <= 2 * quota, "{held:?} and {cooling:?} of {quota}");
        }
    }

    #[test]
    fn a_newcomer_exceeds_the_target_limit_only_alone_on_its_load_balancer(
        claims in claims(), lbs in load_balancers(), policy in policies(),
    ) {
        let result = run(&claims, &lbs, &policy);
        for index in 0..4 {
            let there: Vec<_> = claims.iter().zip(&result)
                .filter(|(_, got)| got.granted.as_ref().is_some_and(|held| held.index == index)).collect();
            let new = there.iter().any(|(claim, _)| claim.held.is_none());
            let held: u32 = there.iter().flat_map(|(claim, got)| slots(got).into_iter().map(move |slot| (claim, slot)))
                .map(|(claim, (_, name, key))| {
                    let port = claim.ports.iter().find(|port| &*port.name == name).unwrap();
                    policy.room_for(key.protocol, port.targets).targets
                })
                .sum();
            let limit = policy.targets.unwrap_or(u32::MAX);
            prop_assert!(!new || there.len() == 1 || held <= limit, "{held} of {limit} on {index}: {there:?}");
        }
    }

    #[test]
    fn what_was_opened_stays_held_however_many_targets_it_gets(
        claims in claims(), lbs in load_balancers(), policy in policies(), more in 1u32..1000,
    ) {
        let settled = with_status(&claims, &run(&claims, &lbs, &policy)).into_iter().map(ClaimRequest::opened);
        let settled: Vec<ClaimRequest> = settled.collect();
        let grown: Vec<ClaimRequest> = settled.iter().map(|claim| claim.clone().with_targets(more)).collect();
        for (before, after) in settled.iter().zip(run(&grown, &lbs, &policy)) {
            // A port that could not be split or have both transports before may now.
            let opened = after.granted.iter().flat_map(|held| held.slots.iter()).filter(|slot| slot.opened);
            let open: BTreeSet<FrontPort> = opened.flat_map(|slot| slot.key.front_ports()).collect();
            for slot in before.held.iter().flat_map(|held| held.slots.iter()) {
                prop_assert!(slot.key.front_ports().all(|port| open.contains(&port)));
            }
        }
    }
}
