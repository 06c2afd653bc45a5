//! How long one run of `assign` takes with 10,000 claims on 10 load balancers.
//!
//! A class is gone through as a whole for each change of it, so a run has to be
//! short beside a write to the API: this bench fails where it takes 10 ms.

use std::collections::{BTreeMap, BTreeSet};
use std::hint::black_box;
use std::num::NonZeroU16;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::Criterion;
use sharedlb::{Assignment, ClaimRequest, HeldSlot, LoadBalancerState, Policy, PortRequest, PortSet, assign};
use sharedlb_kubernetes::ObjectKey;
use sharedlb_providers::Protocol;

const CLAIMS: u16 = 10_000;
const LOAD_BALANCERS: u32 = 10;
const NAMESPACES: u16 = 20;
const LIMIT: Duration = Duration::from_millis(10);

fn main() -> ExitCode {
    let new = all_new();
    let settled = settled_but_one(&new);
    let measured =
        [measure("assign: 10,000 claims, one of them new", &settled), measure("assign: 10,000 claims, all new", &new)];
    if measured.iter().all(|quickest| *quickest < LIMIT) {
        return ExitCode::SUCCESS;
    }
    eprintln!("the quickest runs took {measured:?}, which shall be below {LIMIT:?}");
    ExitCode::FAILURE
}

/// Measures a run, and returns how long the quickest of some took: what counts
/// on a machine that may have other things to do.
fn measure(what: &str, claims: &[ClaimRequest]) -> Duration {
    let (load_balancers, policy) = (Arc::new(load_balancers()), Arc::new(policy()));
    let claims: Vec<&ClaimRequest> = claims.iter().collect();
    let run = || assign(black_box(&claims), black_box(&load_balancers), black_box(&policy)).0;
    assert!(run().iter().all(|each| each.granted.is_some()), "{what}: every claim has a port");

    let mut criterion = Criterion::default().configure_from_args();
    criterion.bench_function(what, |bencher| bencher.iter(run));
    criterion.final_summary();
    (0..20).map(|_| duration_of(run)).min().unwrap_or_default()
}

fn duration_of(run: impl Fn() -> Vec<Assignment>) -> Duration {
    let started = Instant::now();
    black_box(run());
    started.elapsed()
}

/// Claims of which none has a port yet.
fn all_new() -> Vec<ClaimRequest> {
    let claim = |number: u16| ClaimRequest {
        id: ObjectKey {
            namespace: format!("team-{}", number % NAMESPACES).into(),
            name: format!("claim-{number}").into(),
        },
        created: number.into(),
        address: None,
        ports: vec![PortRequest { name: "".into(), protocol: Protocol::Tcp, number: None, target: None, targets: 0 }],
        options: Some(Arc::default()),
        held: None,
    };
    (0..CLAIMS).map(claim).collect()
}

/// The same claims after they were given their ports, but for the youngest.
fn settled_but_one(new: &[ClaimRequest]) -> Vec<ClaimRequest> {
    let given = assign(&new.iter().collect::<Vec<_>>(), &Arc::new(load_balancers()), &Arc::new(policy())).0;
    let mut claims: Vec<ClaimRequest> =
        new.iter().zip(given).map(|(claim, given)| ClaimRequest { held: given.granted, ..claim.clone() }).collect();
    for held in claims.iter_mut().filter_map(|claim| claim.held.as_mut()) {
        held.slots = held.slots.iter().map(|slot| HeldSlot { opened: true, ..slot.clone() }).collect();
    }
    if let Some(youngest) = claims.last_mut() {
        youngest.held = None;
    }
    claims
}

fn load_balancers() -> BTreeMap<u32, LoadBalancerState> {
    (0..LOAD_BALANCERS).map(|index| (index, LoadBalancerState::default())).collect()
}

/// A class that the claims fill to the last listener.
fn policy() -> Policy {
    Policy {
        dynamic: ports(20_000, 29_999),
        requestable: ports(1, u16::MAX),
        reserved: BTreeSet::new(),
        max: LOAD_BALANCERS,
        cordoned: BTreeSet::new(),
        addresses: Arc::default(),
        listeners: u32::from(CLAIMS) / LOAD_BALANCERS,
        max_listeners: u32::MAX,
        targets: None,
        ports_per_namespace: 1_000_000,
        namespaces: None,
        protocols: Protocol::ALL.into(),
        tcp_and_udp_share_a_number: true,
        lacking: Vec::new(),
        listeners_for_tcp_udp: 2,
    }
}

fn ports(first: u16, last: u16) -> PortSet {
    let port = |number| NonZeroU16::new(number).unwrap_or(NonZeroU16::MIN);
    PortSet::of_ranges(&[port(first)..=port(last)])
}
