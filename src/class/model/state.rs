//! What there is in the model: the API, the load balancers, and the controllers
//! with all that they know. Small, and without times, messages and numbers that
//! only grow, so that states which behave alike are equal.

use std::collections::BTreeSet;
use std::sync::Arc;

use sharedlb_crds::Reason;

use crate::load_balancer::model::{ByPort, Clients, Memories, Numbered, Reported, There};

/// A front port of a load balancer, counted from zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Slot {
    pub(super) lb: u8,
    pub(super) port: u8,
}

/// One version of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Claim {
    /// Its resourceVersion. Only the order of those that are known to anybody counts.
    pub(super) version: u8,
    /// Its uid: how many of its name were there before
    pub(super) born: u8,
    /// The port that it insists on
    pub(super) asks: Option<u8>,
    /// The clients that it wants to be served
    pub(super) clients: Clients,
    pub(super) deleting: bool,
    pub(super) finalizer: bool,
    pub(super) status: Status,
}

/// A claim's status, without its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Status {
    pub(super) held: Option<Slot>,
    /// Whether its ingress lists the port
    pub(super) opened: bool,
    pub(super) address: bool,
    /// Whether it is of the claim's generation
    pub(super) current: bool,
    /// Allocated, Programmed and Ready
    pub(super) said: [Option<(Truth, Reason)>; 3],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Truth {
    True,
    False,
    Unknown,
}

/// What the class' status says of each load balancer.
pub(super) type Lbs = [Option<Listed>; 2];

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Listed {
    pub(super) released: ByPort<Record>,
    /// Whether it is empty, and has been for the delay
    pub(super) empty: Option<bool>,
}

/// A port that was given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Record {
    pub(super) claim: u8,
    /// Whether the delay is over
    pub(super) cooled: bool,
}

/// The status of the class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Class {
    pub(super) version: u8,
    pub(super) lbs: Lbs,
}

/// What a class knows, and has in flight: all that its next step depends on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Known {
    pub(super) claims: [Option<KnownClaim>; 3],
    pub(super) lbs: Lbs,
    pub(super) outcomes: [Option<Heard>; 2],
    pub(super) plans: [Option<Plans>; 2],
    /// Whether a write to the class is in flight
    pub(super) class_write: bool,
    /// Writes to claims in flight for which the class waits, also to claims that are gone
    pub(super) gives: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct KnownClaim {
    /// Without its version
    pub(super) claim: Claim,
    pub(super) in_flight: bool,
    /// Whether it has changed since the decision that waits to be recorded
    pub(super) disturbed: bool,
}

/// The plan that an LB loop was handed last, and those before it that matter.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Plans {
    pub(super) current: Numbered,
    pub(super) in_flight: InFlightPlans,
}

/// What the steps of one reconcile ask for, and make of the class.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Stepped {
    /// Writes to claims, each with whether the class waits for the answer
    pub(super) writes: [Option<(What, bool)>; 3],
    pub(super) class_write: Option<Lbs>,
    /// Whether the follow-up of the decision waits for it
    pub(super) records: bool,
    pub(super) plans: [Option<Plans>; 2],
    pub(super) outcomes: [Option<Heard>; 2],
}

/// A write to the class that is in flight.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct ClassWrite {
    pub(super) version: u8,
    pub(super) lbs: Lbs,
    /// What the decision was made of, whose follow-up waits for the answer
    pub(super) recorded: Option<Arc<Known>>,
}

/// A write to a claim, on this version of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Write {
    pub(super) version: u8,
    pub(super) born: u8,
    pub(super) what: What,
    /// Whether the class waits for the answer
    pub(super) gives: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum What {
    Status(Status),
    /// Our finalizer goes on.
    Protect,
    /// Our finalizer goes off.
    LetGo,
}

/// A write that a controller waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Pending {
    Sent(Write),
    /// The answer is on its way; `None`: it failed, as far as the controller will know
    Answered {
        born: u8,
        written: Option<Claim>,
        gives: bool,
    },
}

/// What a watch is about to report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Event {
    Put(Claim),
    Gone { born: u8 },
}

/// What a controller knows of a claim, and does about it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct View {
    pub(super) known: Option<Claim>,
    /// Uids that are known to be deleted, a bit for each
    pub(super) deleted: u8,
    pub(super) coming: Vec<Event>,
    pub(super) write: Option<Pending>,
    /// Whether it has changed since the decision that waits to be recorded
    pub(super) disturbed: bool,
}

/// The LB loop of one load balancer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Loop {
    /// The plan that it is to take up, and those before it
    pub(super) plans: Plans,
    /// The plan that it is at work on
    pub(super) taken: Option<Numbered>,
    pub(super) memories: Memories,
    /// Whether the class loop has not taken its last outcome in
    pub(super) unheard: bool,
}

/// A `class::in_flight_plans::InFlightPlans`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct InFlightPlans {
    pub(super) dropped: ByPort<u8>,
    pub(super) existing: u8,
}

/// An outcome, as the class loop has taken it in.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Heard {
    pub(super) reported: Reported,
    /// Ports that were planned since, and whether the load balancer was to exist
    pub(super) since: ([bool; 3], bool),
}

/// One process.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Controller {
    pub(super) claims: [View; 3],
    pub(super) class: Class,
    pub(super) outcomes: [Option<Heard>; 2],
    pub(super) loops: [Option<Loop>; 2],
    pub(super) class_write: Option<ClassWrite>,
}

/// How much may still go wrong, and be done by users.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Budget {
    pub(super) crashes: u8,
    /// Answers that are lost, of the API and of load balancers
    pub(super) lost: u8,
    /// Times that a load balancer changes no options
    pub(super) unchanged: u8,
    /// Deletions, creations and edits
    pub(super) users: u8,
    /// Whether a second controller may start
    pub(super) second: u8,
}

/// What went wrong on the way here, although no single state shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Wrong {
    /// A claim lost a slot that it still wants.
    Moved,
    /// A slot went from a claim under our finalizer, unrecorded.
    Unrecorded,
    /// A port was given to another claim before its cool-down was over.
    CoolDownIgnored,
    /// A listener was closed, or led elsewhere, whose claim holds it and wants it.
    Cut,
}

/// Everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct State {
    pub(super) claims: [Option<Claim>; 3],
    pub(super) class: Class,
    pub(super) there: [There; 2],
    pub(super) controllers: [Option<Arc<Controller>>; 2],
    /// Writes of a process that is gone, which may still arrive
    pub(super) strays: [Option<Write>; 3],
    pub(super) left: Budget,
    /// How many claims of each name there have been
    pub(super) born: [u8; 3],
    /// The claims that were ever edited
    pub(super) edited: [bool; 3],
    /// The ports where a claim wants few clients, and was closed or served no others since. (Where
    /// a claim is edited three times, that is noted too early: a plan from between two of
    /// the edits may still be carried out.)
    pub(super) excluding: [ByPort<u8>; 2],
    /// The ports that cool down, each with the claim that released it last
    pub(super) cooling_down: [ByPort<u8>; 2],
    pub(super) wrong: BTreeSet<Wrong>,
}

impl Class {
    /// The record of this slot.
    pub(super) fn record(&self, slot: Slot) -> Option<Record> {
        self.lbs[usize::from(slot.lb)]?.released[usize::from(slot.port)]
    }
}

impl Controller {
    /// The number of every plan of this load balancer that still matters.
    fn numbers(&mut self, lb: usize, each: &mut impl FnMut(&mut u8)) {
        self.outcomes[lb].iter_mut().for_each(|heard| each(&mut heard.reported.plan.number));
        if let Some(lb_loop) = &mut self.loops[lb] {
            each(&mut lb_loop.plans.current.number);
            lb_loop.taken.iter_mut().for_each(|plan| each(&mut plan.number));
            lb_loop.memories.last_reported.iter_mut().for_each(|reported| each(&mut reported.plan.number));
            lb_loop.plans.in_flight.dropped.iter_mut().flatten().for_each(&mut *each);
            each(&mut lb_loop.plans.in_flight.existing);
        }
    }
}

impl Claim {
    /// Whether it is still content with the slot that it holds.
    pub(super) fn wants(&self, slot: Slot) -> bool {
        !self.deleting && self.asks.is_none_or(|port| port == slot.port)
    }
}

impl State {
    /// Renumbers versions, and forgets what no longer matters.
    pub(super) fn normalize(&mut self) {
        for claim in 0..3 {
            for controller in self.controllers.iter_mut().flatten() {
                let view = &controller.claims[claim];
                let under_way = match view.write {
                    Some(Pending::Sent(write)) => 1 << write.born,
                    Some(Pending::Answered { born, .. }) => 1 << born,
                    None => 0,
                };
                let recording = controller.class_write.as_ref().is_some_and(|write| write.recorded.is_some());
                if view.disturbed && !recording {
                    Arc::make_mut(controller).claims[claim].disturbed = false;
                }
                let view = &controller.claims[claim];
                if view.deleted & !under_way != 0 {
                    Arc::make_mut(controller).claims[claim].deleted &= under_way;
                }
            }
            let mut used = BTreeSet::new();
            self.versions(claim, &mut |version| _ = used.insert(*version));
            if used.iter().enumerate().any(|(rank, version)| rank != usize::from(*version)) {
                let ranks: Vec<u8> = used.into_iter().collect();
                self.versions(claim, &mut |version| {
                    *version = u8::try_from(ranks.binary_search(version).unwrap()).unwrap();
                });
            }
        }
        self.renumber_plans();
        let mut used = BTreeSet::from([self.class.version]);
        for controller in self.controllers.iter().flatten() {
            used.insert(controller.class.version);
            used.extend(controller.class_write.as_ref().map(|write| write.version));
        }
        let rank = |version: u8| u8::try_from(used.iter().position(|used| *used == version).unwrap()).unwrap();
        self.class.version = rank(self.class.version);
        for controller in self.controllers.iter_mut().flatten() {
            if controller.class.version != rank(controller.class.version) {
                let controller = Arc::make_mut(controller);
                controller.class.version = rank(controller.class.version);
            }
            let sent = controller.class_write.as_ref().map(|write| write.version);
            if let Some(sent) = sent.filter(|sent| *sent != rank(*sent))
                && let Some(write) = &mut Arc::make_mut(controller).class_write
            {
                write.version = rank(sent);
            }
        }
    }

    /// Renumbers the plans of every load balancer.
    fn renumber_plans(&mut self) {
        for controller in self.controllers.iter_mut().flatten() {
            for lb in 0..2 {
                let mut used = BTreeSet::new();
                Arc::make_mut(controller).numbers(lb, &mut |number| _ = used.insert(*number));
                let ranks: Vec<u8> = used.into_iter().collect();
                Arc::make_mut(controller).numbers(lb, &mut |number| {
                    *number = u8::try_from(ranks.binary_search(number).unwrap()).unwrap();
                });
            }
        }
    }

    /// A version of this claim above all that there are.
    pub(super) fn next_version(&mut self, claim: usize) -> u8 {
        let mut next = 0;
        self.versions(claim, &mut |version| next = next.max(*version + 1));
        next
    }

    /// Every version of a claim that anybody knows.
    fn versions(&mut self, claim: usize, each: &mut impl FnMut(&mut u8)) {
        self.claims[claim].iter_mut().for_each(|claim| each(&mut claim.version));
        self.strays[claim].iter_mut().for_each(|write| each(&mut write.version));
        for controller in self.controllers.iter_mut().flatten() {
            let view = &mut Arc::make_mut(controller).claims[claim];
            view.known.iter_mut().for_each(|known| each(&mut known.version));
            for event in &mut view.coming {
                if let Event::Put(claim) = event {
                    each(&mut claim.version);
                }
            }
            match &mut view.write {
                Some(Pending::Sent(write)) => each(&mut write.version),
                Some(Pending::Answered { written: Some(written), .. }) => each(&mut written.version),
                _ => {}
            }
        }
    }
}
