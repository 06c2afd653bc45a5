//! A class whose state is data: its object, its claims and its outcomes.

use super::*;

/// A class and its claims, and what its LB loops have reported.
pub(super) struct World {
    pub(super) spec: Value,
    pub(super) deleting: bool,
    /// Targets for each load balancer, if they are counted, and those of each port
    pub(super) targets: Option<(u32, u32)>,
    /// Whether Kubernetes has listed the pods
    pub(super) listed: bool,
    /// Whether listeners can have neither source ranges nor session affinity
    pub(super) lacking: bool,
    pub(super) status: SharedLBClassStatus,
    pub(super) claims: Vec<ClaimFixture>,
    pub(super) outcomes: BTreeMap<u32, Outcome>,
    pub(super) abandoned: Vec<ClaimFixture>,
    pub(super) now: Timestamp,
}

impl World {
    pub(super) fn new(claims: Vec<ClaimFixture>) -> Self {
        let now = "2026-02-01T00:00:00Z".parse().unwrap();
        let (status, outcomes) = (SharedLBClassStatus::default(), BTreeMap::new());
        Self {
            spec: json!({}),
            deleting: false,
            targets: None,
            listed: true,
            lacking: false,
            status,
            claims,
            outcomes,
            abandoned: Vec::new(),
            now,
        }
    }

    pub(super) fn with(mut self, spec: Value) -> Self {
        self.spec = spec;
        self
    }

    pub(super) fn provider() -> Arc<dyn Provider> {
        Arc::new(Memory::new(Cloud::default()))
    }

    /// Decides, and takes over the class' status.
    pub(super) fn decide(&mut self) -> Decision {
        let class = class(self.spec.clone(), &self.status, self.deleting);
        let spec = class.spec.clone().unwrap();
        let claims: Vec<_> = self.claims.iter().map(ClaimFixture::build).collect();
        let mut policy =
            policy(&spec, &Self::provider().capabilities(), assign(&spec, &BTreeMap::new()), std::iter::empty());
        policy.targets = self.targets.map(|(limit, _)| limit);
        if self.lacking {
            policy.lacking = lacking(&spec, &Capabilities::new(50));
        }
        let counted = self.targets.map(|(_, of_each)| {
            let count = |claim: &Arc<ClaimObject>| {
                let mut request = claim.request.clone();
                request.ports.iter_mut().for_each(|port| port.targets = of_each);
                CountedRequest { request, known: self.listed }
            };
            claims.iter().map(count).collect()
        });
        let (decision, _) = decide(&Facts {
            class: &class,
            spec: &spec,
            policy: Arc::new(policy),
            suspended: None,
            confined_to: None,
            claims: claims.iter().collect(),
            counted,
            targets_closing: 0,
            outcomes: &self.outcomes,
            abandoned: &self
                .abandoned
                .iter()
                .map(ClaimFixture::build)
                .flat_map(|claim| AbandonedSlot::of(&claim).collect::<Vec<_>>())
                .collect::<Vec<_>>(),
            now: self.now,
        });
        self.status = decision.status.clone();
        decision
    }

    /// The load balancer 0 was last seen with these listeners, when these claims
    /// were planned on it.
    pub(super) fn seen(&mut self, planned: &[ClaimFixture], open: &[(u16, &str)]) {
        let planned = planned.iter().map(|claim| {
            let claim = claim.build();
            Planned::of(&claim, claim.request.held.clone().unwrap().slots)
        });
        let listener = |&(port, name): &(u16, &str)| {
            let owner = Owner { namespace: "team".into(), claim: name.into(), port: "x".into() };
            (tcp(port), ListenerOutcome { open: true, backends: true, ..ListenerOutcome::closed(&owner) })
        };
        let outcome = Outcome {
            plan: Arc::new(Plan::new(Self::provider(), 0, Some(planned.collect()))),
            since: MaybeOpen::default(),
            exists: Some(true),
            addresses: [Address::parse("10.0.0.1")].into(),
            no_address: None,
            capacity: ProviderCapacity::default(),
            foreign: BTreeSet::new(),
            listeners: Arc::new(open.iter().map(listener).collect()),
            failure: None,
            recreated: 0,
        };
        self.outcomes.insert(0, outcome);
    }

    /// The load balancer 0 waits for its address for too long.
    pub(super) fn without_address(&mut self) {
        let outcome = self.outcomes.get_mut(&0).unwrap();
        outcome.addresses = Arc::default();
        let message = "load balancer 0 of class default has no address yet: ask the admin".into();
        outcome.no_address = Some(Failure { reason: Reason::AddressNotAssigned, message });
    }

    pub(super) fn later(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
    }

    pub(super) fn released(&self) -> Vec<(u16, &str)> {
        let all = self.status.load_balancers.iter().flat_map(|lb| &lb.released);
        all.map(|entry| (entry.port.get(), entry.claim.as_str())).collect()
    }
}
