//! What is done when, drawn from a seed. The same seed gives the same plan; how
//! long each act takes, and so what it meets, differs from run to run.

mod cloud;
mod team;

use std::time::Duration;

pub(crate) use cloud::{CloudDeed, CloudFault};
pub(crate) use team::{HandSlice, Reshape, Target, TeamAct};

/// The teams, each with a namespace.
pub(crate) const TEAMS: u64 = 3;
/// The claims of a team.
pub(crate) const CLAIMS: u64 = 11;
/// The Services of a team that share a load balancer.
pub(crate) const SERVICES: u64 = 5;
/// The Services of something else that take node ports.
pub(crate) const HOGS: u64 = 4;
/// The classes.
pub(crate) const CLASSES: u64 = 4;

/// Something to be done at a time, counted from the beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step<A> {
    pub(crate) at: Duration,
    pub(crate) act: A,
}

/// Everything that is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// What each team does.
    pub(crate) teams: Vec<Vec<Step<TeamAct>>>,
    /// What the cluster's administrator does to classes.
    pub(crate) admin: Vec<Step<AdminAct>>,
    /// What the load balancers' owner does by hand.
    pub(crate) owner: Vec<Step<Deed>>,
    pub(crate) faults: Vec<Step<Fault>>,
    /// What their owner does at AWS.
    pub(crate) cloud_owner: Vec<Step<CloudDeed>>,
    /// What goes wrong at AWS.
    pub(crate) cloud_faults: Vec<Step<CloudFault>>,
}

/// What the administrator does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AdminAct {
    /// Gives the class one of its settings.
    Edit { class: u64, setting: u64 },
    /// Deletes the last class.
    Delete,
    /// Makes it again.
    Create,
    /// Has a Service of something else take node ports.
    TakeNodePorts { nth: u64 },
    /// Deletes that Service.
    FreeNodePorts { nth: u64 },
}

/// What the load balancers' owner does to one of them, by hand. Which Service,
/// port or slice it is, is counted among those that are there then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    DeleteService {
        nth: u64,
    },
    DeleteSlice {
        nth: u64,
    },
    EmptySlice {
        nth: u64,
    },
    /// Adds an endpoint of nobody to a slice.
    AddAddress {
        nth: u64,
    },
    RemovePort {
        nth: u64,
        port: u64,
    },
    /// Removes a port of ours, and adds one of its own with that number.
    TakePort {
        nth: u64,
        port: u64,
    },
    /// Gives a port of ours another name.
    RenamePort {
        nth: u64,
        port: u64,
    },
    AddPort {
        nth: u64,
        number: u64,
    },
    /// Removes the ports that are theirs.
    RemoveOwnPorts {
        nth: u64,
    },
    ChangeType {
        nth: u64,
    },
    /// Takes our label off, and puts it back after so many milliseconds.
    Disown {
        nth: u64,
        lasting: u64,
    },
    DropAnnotation {
        nth: u64,
    },
}

/// What befalls the controller, the API server and what is between them. Times
/// are in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Kill {
        down: u64,
    },
    /// After so many writes, of the last of which it never learns.
    KillAtWrite {
        writes: u64,
        down: u64,
    },
    /// After so many calls of AWS that change something, of the last of which it
    /// never learns. `done`: whether AWS carries that one out.
    KillAtCall {
        calls: u64,
        done: bool,
        down: u64,
    },
    Stop {
        down: u64,
    },
    Freeze {
        lasting: u64,
    },
    CutOff {
        lasting: u64,
    },
    RestartApiServer {
        down: u64,
    },
    RestartEtcd {
        down: u64,
    },
    ExpireWatches,
    BreakWatches,
    Delay {
        by: u64,
        lasting: u64,
    },
    StaleLists {
        lasting: u64,
    },
    LoseAnswers {
        every: u64,
        lasting: u64,
    },
    Conflicts {
        every: u64,
        lasting: u64,
    },
    Compact,
}

impl Plan {
    /// The plan of this seed for so long.
    pub(crate) fn draw(seed: u64, lasting: Duration) -> Self {
        let mut dice = Dice(seed);
        Self {
            teams: (0..TEAMS).map(|_| steps(&mut dice, lasting, (15, 85), team::act)).collect(),
            admin: steps(&mut dice, lasting, (500, 1800), admin_act),
            owner: steps(&mut dice, lasting, (200, 900), deed),
            faults: faults(&mut dice, lasting, deck, Fault::lasts),
            cloud_owner: steps(&mut dice, lasting, (250, 900), cloud::deed),
            cloud_faults: faults(&mut dice, lasting, cloud::deck, CloudFault::lasts),
        }
    }
}

/// What a plan has to have so that everything that teams do to each other occurs in it:
/// parts of what the acts are called in the code.
const NEEDED: [&str; 24] = [
    "Create {",
    "Delete {",
    "EditPorts",
    "Select",
    "AddPod",
    "RemovePod",
    "SetReady",
    "Relabel",
    "DeleteOwnService",
    "CreateService",
    "DeleteService",
    "EditService",
    "Covet",
    "Reshape {",
    "ReshapeService",
    "Rename",
    "Reorder",
    "Unname",
    "Add }",
    "Both",
    "Hold",
    "LetGo",
    "RemoveSlices",
    "ReplaceNamespace",
];

impl Plan {
    /// What of all that teams and the administrator do does not occur within this time.
    pub(crate) fn lacks(&self, within: Duration) -> Vec<String> {
        let acts = self.teams.iter().flatten().filter(|step| step.at < within);
        let acts: Vec<String> = acts.map(|step| format!("{:?}", step.act)).collect();
        let has = |part: &&&str| !acts.iter().any(|act| act.contains(**part));
        let mut lacking: Vec<String> = NEEDED.iter().filter(has).map(|part| (*part).to_owned()).collect();
        for (of, forged) in [(Target::Service(2), false), (Target::Named, false), (Target::Service(0), true)] {
            let is = |act: &TeamAct| {
                matches!(act, TeamAct::WriteSlice { slice, .. }
                    if slice.of == of && slice.forged == forged && (forged || slice.neighbour.is_some()))
            };
            let mut acts = self.teams.iter().flatten().filter(|step| step.at < within);
            if !acts.any(|step| is(&step.act)) {
                lacking.push(format!("an EndpointSlice by hand for {of:?}"));
            }
        }
        let mut admin = self.admin.iter().filter(|step| step.at < within);
        if !admin.any(|step| matches!(step.act, AdminAct::TakeNodePorts { .. })) {
            lacking.push("node ports that are taken".to_owned());
        }
        lacking
    }
}

/// Acts with so many milliseconds between them.
fn steps<A>(dice: &mut Dice, lasting: Duration, (from, to): (u64, u64), act: fn(&mut Dice) -> A) -> Vec<Step<A>> {
    let (mut steps, mut at) = (Vec::new(), Duration::ZERO);
    loop {
        at += Duration::from_millis(dice.between(from, to));
        if at >= lasting {
            return steps;
        }
        steps.push(Step { at, act: act(dice) });
    }
}

fn admin_act(dice: &mut Dice) -> AdminAct {
    match dice.below(20) {
        0..11 => AdminAct::Edit { class: dice.below(CLASSES), setting: dice.below(5) },
        11 => AdminAct::Delete,
        12..14 => AdminAct::Create,
        14..18 => AdminAct::TakeNodePorts { nth: dice.below(HOGS) },
        _ => AdminAct::FreeNodePorts { nth: dice.below(HOGS) },
    }
}

fn deed(dice: &mut Dice) -> Deed {
    let (nth, port) = (dice.below(1000), dice.below(1000));
    match dice.below(100) {
        0..5 => Deed::DeleteService { nth },
        5..18 => Deed::DeleteSlice { nth },
        18..28 => Deed::EmptySlice { nth },
        28..38 => Deed::AddAddress { nth },
        38..44 => Deed::RemovePort { nth, port },
        44..52 => Deed::TakePort { nth, port },
        52..60 => Deed::RenamePort { nth, port },
        60..72 => Deed::AddPort { nth, number: port },
        72..86 => Deed::RemoveOwnPorts { nth },
        86..90 => Deed::ChangeType { nth },
        90..95 => Deed::Disown { nth, lasting: dice.between(200, 1500) },
        _ => Deed::DropAnnotation { nth },
    }
}

/// All faults in one order, then all in another one, and so on: so that even
/// a short run has many of them.
fn faults<F: Copy>(
    dice: &mut Dice,
    lasting: Duration,
    deck: fn(&mut Dice) -> Vec<F>,
    lasts: fn(F) -> u64,
) -> Vec<Step<F>> {
    let (mut steps, mut at) = (Vec::new(), Duration::from_millis(500));
    loop {
        for fault in shuffled(dice, deck) {
            steps.push(Step { at, act: fault });
            at += Duration::from_millis(lasts(fault) + dice.between(300, 1800));
            if at >= lasting {
                return steps;
            }
        }
    }
}

/// By Fisher and Yates.
fn shuffled<F>(dice: &mut Dice, deck: fn(&mut Dice) -> Vec<F>) -> Vec<F> {
    let mut deck = deck(dice);
    for last in (1..deck.len()).rev() {
        let other = usize::try_from(dice.below(last as u64 + 1)).unwrap_or(0);
        deck.swap(last, other);
    }
    deck
}

fn deck(dice: &mut Dice) -> Vec<Fault> {
    let lasting = dice.between(300, 2000);
    let down = dice.between(0, 1200);
    vec![
        Fault::Kill { down },
        Fault::Kill { down: 0 },
        Fault::KillAtWrite { writes: dice.between(1, 12), down: dice.between(0, 500) },
        Fault::KillAtWrite { writes: dice.between(1, 40), down: 0 },
        Fault::KillAtCall { calls: dice.between(0, 6), done: true, down: dice.between(0, 500) },
        Fault::KillAtCall { calls: dice.between(0, 6), done: false, down: 0 },
        Fault::Stop { down: dice.between(0, 800) },
        Fault::Freeze { lasting: dice.between(300, 8000) },
        Fault::CutOff { lasting: dice.between(300, 3000) },
        Fault::RestartApiServer { down: dice.between(0, 800) },
        Fault::RestartEtcd { down: dice.between(0, 800) },
        Fault::ExpireWatches,
        Fault::BreakWatches,
        Fault::Delay { by: dice.between(20, 600), lasting },
        Fault::StaleLists { lasting: dice.between(300, 1500) },
        Fault::LoseAnswers { every: dice.between(2, 5), lasting: dice.between(500, 2500) },
        Fault::Conflicts { every: dice.between(2, 4), lasting: dice.between(500, 1500) },
        Fault::Compact,
    ]
}

impl Fault {
    /// For how long it is planned, without what it takes to recover.
    fn lasts(self) -> u64 {
        match self {
            Self::Kill { down }
            | Self::KillAtWrite { down, .. }
            | Self::KillAtCall { down, .. }
            | Self::Stop { down }
            | Self::RestartApiServer { down }
            | Self::RestartEtcd { down } => down,
            Self::Freeze { lasting }
            | Self::CutOff { lasting }
            | Self::Delay { lasting, .. }
            | Self::StaleLists { lasting }
            | Self::LoseAnswers { lasting, .. }
            | Self::Conflicts { lasting, .. } => lasting,
            Self::ExpireWatches | Self::BreakWatches | Self::Compact => 0,
        }
    }
}

/// Numbers that look random and follow from a seed: SplitMix64 (Steele, Lea and
/// Flood, 2014), which is written down here so that a seed means the same for
/// ever.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// 0 to `end`, without `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// `from` to `to`, without `to`.
    fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to - from)
    }
}
