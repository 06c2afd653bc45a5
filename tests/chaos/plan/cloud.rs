//! What is done at AWS, and what goes wrong there.

use super::Dice;

/// What the load balancers' owner does to what the controller has at AWS, by hand.
/// Which of them it is, is counted among those that are there then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CloudDeed {
    DeleteBalancer {
        nth: u64,
    },
    DeleteListener {
        nth: u64,
    },
    /// Has a listener of ours lead to a target group of its own.
    PointElsewhere {
        nth: u64,
    },
    /// Has a listener of ours lead to the target group of another one of ours.
    Cross {
        nth: u64,
        other: u64,
    },
    Deregister {
        nth: u64,
    },
    /// Registers a target of nobody with a target group of ours.
    Register {
        nth: u64,
    },
    /// The same with a target of another target group of ours.
    RegisterOther {
        nth: u64,
        other: u64,
    },
    /// Opens a listener of its own on a load balancer of ours.
    AddListener {
        nth: u64,
        number: u64,
    },
    /// Deletes a listener of ours, and opens one of its own with that number.
    TakePort {
        nth: u64,
    },
    /// Deletes the listeners that are theirs from a load balancer of ours.
    RemoveOwnListeners {
        nth: u64,
    },
    /// Takes our tag off something, and puts it back after so many milliseconds.
    Untag {
        nth: u64,
        lasting: u64,
    },
}

/// What goes wrong at AWS. Times are in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CloudFault {
    /// Calls are rationed as AWS does.
    Ration { lasting: u64 },
    /// So many calls are throttled, whatever came before.
    Throttle { calls: u64, lasting: u64 },
    /// So many calls are answered with an error of AWS, and do nothing.
    Fail { calls: u64, lasting: u64 },
    /// So many calls that change something are not permitted.
    Deny { calls: u64, lasting: u64 },
    /// So many calls that change something are carried out, and never answered.
    LoseAnswers { calls: u64, lasting: u64 },
    /// So many calls do not arrive.
    Unreachable { calls: u64, lasting: u64 },
    /// Every call takes so long.
    Slow { by: u64, lasting: u64 },
    /// What is made takes so long to be ready, and what is not used any more to be
    /// free.
    Provision { by: u64, lasting: u64 },
}

pub(super) fn deed(dice: &mut Dice) -> CloudDeed {
    let (nth, other) = (dice.below(1000), dice.below(1000));
    match dice.below(100) {
        0..4 => CloudDeed::DeleteBalancer { nth },
        4..16 => CloudDeed::DeleteListener { nth },
        16..22 => CloudDeed::PointElsewhere { nth },
        22..32 => CloudDeed::Cross { nth, other },
        32..40 => CloudDeed::Deregister { nth },
        40..46 => CloudDeed::Register { nth },
        46..54 => CloudDeed::RegisterOther { nth, other },
        54..70 => CloudDeed::AddListener { nth, number: other },
        70..78 => CloudDeed::TakePort { nth },
        78..92 => CloudDeed::RemoveOwnListeners { nth },
        _ => CloudDeed::Untag { nth, lasting: dice.between(200, 1500) },
    }
}

pub(super) fn deck(dice: &mut Dice) -> Vec<CloudFault> {
    let mut lasting = || dice.between(400, 2500);
    let [ration, throttle, fail, deny, lose, unreachable, slow, provision] = std::array::from_fn(|_| lasting());
    let mut calls = || dice.between(1, 8);
    vec![
        CloudFault::Ration { lasting: ration },
        CloudFault::Throttle { calls: calls(), lasting: throttle },
        CloudFault::Fail { calls: calls(), lasting: fail },
        CloudFault::Deny { calls: calls(), lasting: deny },
        CloudFault::LoseAnswers { calls: calls(), lasting: lose },
        CloudFault::Unreachable { calls: calls(), lasting: unreachable },
        CloudFault::Slow { by: dice.between(20, 400), lasting: slow },
        CloudFault::Provision { by: dice.between(200, 3000), lasting: provision },
    ]
}

impl CloudFault {
    /// For how long it is planned.
    pub(super) fn lasts(self) -> u64 {
        match self {
            Self::Ration { lasting }
            | Self::Throttle { lasting, .. }
            | Self::Fail { lasting, .. }
            | Self::Deny { lasting, .. }
            | Self::LoseAnswers { lasting, .. }
            | Self::Unreachable { lasting, .. }
            | Self::Slow { lasting, .. }
            | Self::Provision { lasting, .. } => lasting,
        }
    }
}
