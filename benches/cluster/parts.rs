//! The parts of the bench, and the choice of those that are run.

use anyhow::anyhow;
use clap::ValueEnum;

/// Names the parts that are run, separated by commas. All are, if it is not set.
const CHOICE: &str = "BENCH_PARTS";

/// Parts that share a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum Group {
    Load,
    Traffic,
    Vip,
    Aws,
    /// It has no parts.
    Soak,
}

/// A part of the bench: figures that are measured together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum Part {
    /// New claims of classes with few claims
    Few,
    /// New Services
    Services,
    /// The number of writes for claims and Services
    Writes,
    /// Many Services at once
    BurstServices,
    /// New claims of a class with a tenth of all claims
    Tenth,
    /// Many claims at once, in the same class
    Burst,
    /// New claims of a class with all claims
    Full,
    /// Changes of endpoints, where there are all claims; so for those that follow
    Endpoints,
    /// New claims of small classes while a large one is edited
    OtherClass,
    /// Memory, restarts, and a time without changes
    Steady,
    /// A class that all its claims wait for
    AllChange,
    /// New claims, until a client has an answer
    Open,
    /// Many claims at once, until all have answered
    BurstReady,
    /// New ports at virtual addresses with few ports
    VipFew,
    /// New ports at a virtual address with many ports
    VipMany,
    /// Many claims at once, at the rates of AWS
    Aws,
}

impl Part {
    fn group(self) -> Group {
        match self {
            Self::Few
            | Self::Services
            | Self::Writes
            | Self::BurstServices
            | Self::Tenth
            | Self::Burst
            | Self::Full
            | Self::Endpoints
            | Self::OtherClass
            | Self::Steady
            | Self::AllChange => Group::Load,
            Self::Open | Self::BurstReady => Group::Traffic,
            Self::VipFew | Self::VipMany => Group::Vip,
            Self::Aws => Group::Aws,
        }
    }
}

/// The parts that are run.
#[derive(Debug)]
pub(crate) struct Chosen(Vec<Part>);

impl Chosen {
    /// Those that `BENCH_PARTS` names.
    ///
    /// # Errors
    /// If there is no part of such a name.
    pub(crate) fn from_environment() -> anyhow::Result<Self> {
        match std::env::var(CHOICE) {
            Ok(names) => {
                let parts = names.split(',').map(|name| named("part", name.trim()));
                parts.collect::<anyhow::Result<_>>().map(Self).map_err(|error| error.context(CHOICE))
            }
            Err(_) => Ok(Self(Part::value_variants().to_vec())),
        }
    }

    /// Whether this part is run.
    pub(crate) fn has(&self, part: Part) -> bool {
        self.0.contains(&part)
    }

    /// Whether any of these is run.
    pub(crate) fn has_any(&self, parts: &[Part]) -> bool {
        parts.iter().any(|part| self.has(*part))
    }

    /// Whether any part of this group is run.
    pub(crate) fn has_any_of(&self, group: Group) -> bool {
        self.0.iter().any(|part| part.group() == group)
    }
}

/// The value of this name. `what` says what it is, for the error.
///
/// # Errors
/// If there is none; it lists those that there are.
pub(crate) fn named<T: ValueEnum>(what: &str, name: &str) -> anyhow::Result<T> {
    T::from_str(name, false).map_err(|_| {
        let known: Vec<String> = T::value_variants().iter().map(name_of).collect();
        anyhow!("there is no {what} {name:?}; there are {}", known.join(", "))
    })
}

/// The name of a value.
pub(crate) fn name_of<T: ValueEnum>(value: &T) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}
