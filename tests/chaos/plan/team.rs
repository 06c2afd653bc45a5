//! What a team does.

use super::{CLAIMS, Dice, SERVICES, TEAMS};

/// What a team does with one of its claims, and the pods and the Service of it,
/// or with one of its Services that share a load balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TeamAct {
    Create {
        claim: u64,
        ports: u64,
    },
    Delete {
        claim: u64,
    },
    EditPorts {
        claim: u64,
        ports: u64,
    },
    /// Writes the ports of a claim in another way.
    Reshape {
        claim: u64,
        how: Reshape,
    },
    /// Sends its traffic to the pods of another claim of the team, or to its own.
    Select {
        claim: u64,
        pods_of: u64,
    },
    AddPod {
        claim: u64,
        pod: u64,
    },
    RemovePod {
        claim: u64,
        pod: u64,
    },
    SetReady {
        claim: u64,
        pod: u64,
        ready: bool,
    },
    /// Gives the pod to another claim of the team, or back.
    Relabel {
        claim: u64,
        pod: u64,
        to: u64,
    },
    /// Deletes the Service that the controller keeps beside the claim.
    DeleteOwnService {
        claim: u64,
    },
    CreateService {
        service: u64,
        ports: u64,
    },
    DeleteService {
        service: u64,
    },
    EditService {
        service: u64,
        ports: u64,
    },
    /// Gives a Service the number of a port that a claim of another team holds
    /// now: the nth of these.
    Covet {
        service: u64,
        nth: u64,
    },
    /// Writes the ports of a Service in another way.
    ReshapeService {
        service: u64,
        how: Reshape,
    },
    /// Deletes a claim that a finalizer of the team holds back from then on. The
    /// claims of the Services are counted after the team's own.
    Hold {
        claim: u64,
    },
    /// Takes the team's finalizers off all claims.
    LetGo,
    /// Writes an EndpointSlice by hand.
    WriteSlice {
        nth: u64,
        slice: HandSlice,
    },
    /// Deletes the EndpointSlices that were written by hand.
    RemoveSlices,
    /// Deletes the namespace, and makes it again once it is gone.
    ReplaceNamespace,
}

/// Another way to write the ports of a claim or a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reshape {
    /// Gives a port another name, or its name back. One without a name gets one.
    Rename { nth: u64 },
    /// Reverses the order.
    Reorder,
    /// Takes the name off the only port.
    Unname,
    /// Adds a port, so that the only one needs a name.
    Add,
    /// Has a port serve UDP as well as TCP, or TCP only.
    Both { nth: u64 },
}

/// An EndpointSlice that a team writes itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HandSlice {
    /// The Service that it says it belongs to.
    pub(crate) of: Target,
    /// Another team, to a pod of which it leads. None: to no pod at all.
    pub(crate) neighbour: Option<u64>,
    /// Whether its label says that Kubernetes' own controller writes it.
    pub(crate) forged: bool,
}

/// A Service of a team.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// One that shares a load balancer.
    Service(u64),
    /// The one that a claim names.
    Named,
    /// The one that the controller keeps beside a claim.
    Companion(u64),
}

/// What a team does next. The numbers are parts of a thousand.
pub(super) fn act(dice: &mut Dice) -> TeamAct {
    let (claim, pod) = (dice.below(CLAIMS), dice.below(2));
    match dice.below(1000) {
        0..180 => TeamAct::Create { claim, ports: dice.below(10) },
        180..280 => TeamAct::Delete { claim },
        280..400 => TeamAct::EditPorts { claim, ports: dice.below(9) },
        400..500 => TeamAct::Reshape { claim, how: reshape(dice) },
        500..550 => TeamAct::Select { claim, pods_of: if dice.below(2) == 0 { claim } else { dice.below(CLAIMS) } },
        550..620 => TeamAct::AddPod { claim, pod },
        620..655 => TeamAct::RemovePod { claim, pod },
        655..695 => TeamAct::SetReady { claim, pod, ready: dice.below(2) == 0 },
        695..725 => TeamAct::Relabel { claim, pod, to: if dice.below(2) == 0 { claim } else { dice.below(CLAIMS) } },
        725..750 => TeamAct::DeleteOwnService { claim },
        750..955 => service_act(dice),
        955..970 => TeamAct::Hold { claim: dice.below(CLAIMS + SERVICES) },
        970..978 => TeamAct::LetGo,
        978..992 => TeamAct::WriteSlice { nth: dice.below(4), slice: hand_slice(dice) },
        992..998 => TeamAct::RemoveSlices,
        _ => TeamAct::ReplaceNamespace,
    }
}

fn service_act(dice: &mut Dice) -> TeamAct {
    let service = dice.below(SERVICES);
    match dice.below(100) {
        0..18 => TeamAct::CreateService { service, ports: dice.below(6) },
        18..28 => TeamAct::DeleteService { service },
        28..48 => TeamAct::EditService { service, ports: dice.below(6) },
        48..70 => TeamAct::Covet { service, nth: dice.below(1000) },
        _ => TeamAct::ReshapeService { service, how: reshape(dice) },
    }
}

fn reshape(dice: &mut Dice) -> Reshape {
    match dice.below(10) {
        0..4 => Reshape::Rename { nth: dice.below(4) },
        4..6 => Reshape::Reorder,
        6 => Reshape::Unname,
        7 => Reshape::Add,
        _ => Reshape::Both { nth: dice.below(4) },
    }
}

fn hand_slice(dice: &mut Dice) -> HandSlice {
    let of = match dice.below(4) {
        0..2 => Target::Service(dice.below(SERVICES)),
        2 => Target::Named,
        _ => Target::Companion(dice.below(CLAIMS)),
    };
    let neighbour = dice.below(TEAMS + 1);
    HandSlice { of, neighbour: Some(neighbour).filter(|team| *team < TEAMS), forged: dice.below(3) == 0 }
}
