//! Applies a data path to the kernel, and keeps it there.

use std::collections::BTreeSet;

use serde_json::Value;
use sharedlb_providers::IpFamily;
use tracing::warn;

use super::DataPath;
use super::conntrack::{self, Connections};
use super::elements::Elements;
use super::listing::Listing;
use super::program::{Program, ProgramError};
use super::ruleset::{self, Difference, FAMILIES, TABLE};

/// How many calls delete connections without listing those that there are first. Most of the many front
/// ports and backends of a large change have none.
const FEW: usize = 8;

/// The programs by which the kernel is configured.
#[derive(Debug, Clone)]
pub struct Programs {
    /// `nft` 1.0.6 or newer
    pub nft: Program,
    /// `conntrack` 1.4.7 or newer
    pub conntrack: Program,
}

impl Default for Programs {
    /// The installed ones.
    fn default() -> Self {
        Self { nft: Program::new(["nft"]), conntrack: Program::new(["conntrack"]) }
    }
}

/// The data path in the kernel of this network namespace.
#[derive(Debug)]
pub struct Engine {
    programs: Programs,
    /// What was requested last; `None`: the tables are those of an earlier process
    requested: Option<DataPath>,
    /// The definitions of the tables, as they were listed when they were made; `None`: the tables
    /// have to be made
    made: Option<[Vec<Value>; 2]>,
    /// Connections that are to be forgotten as soon as the tables do not lead them any more
    orphaned: BTreeSet<Connections>,
}

impl Engine {
    /// An engine that knows nothing of the kernel yet. The tables of an earlier process stay until
    /// the first [`apply`](Self::apply), which replaces them at once.
    #[must_use]
    pub fn new(programs: Programs) -> Self {
        Self { programs, requested: None, made: None, orphaned: BTreeSet::new() }
    }

    /// Has the kernel lead connections as this data path says. When it returns, new ones do so,
    /// and those of backends that are gone are forgotten.
    ///
    /// # Errors
    /// If a program fails. A part of the changes may be carried out; the next call
    /// recreates the tables.
    pub async fn apply(&mut self, data_path: &DataPath) -> Result<(), ProgramError> {
        let orphaned = self.orphaned_by(data_path).await?;
        self.orphaned.extend(orphaned);
        let before = self.requested.replace(data_path.clone());
        match (before, self.made.take()) {
            (Some(before), Some(made)) if before.seed == data_path.seed => {
                for transaction in ruleset::changes(&before, data_path) {
                    self.load(&transaction).await?;
                }
                self.made = Some(made);
            }
            _ => self.make(data_path).await?,
        }
        self.forget_orphaned().await
    }

    /// The connections whose backends a data path does not have any more.
    async fn orphaned_by(&self, data_path: &DataPath) -> Result<BTreeSet<Connections>, ProgramError> {
        if let Some(before) = &self.requested {
            return Ok(conntrack::orphaned(before, data_path));
        }
        let mut earlier = Elements::default();
        for family in FAMILIES {
            earlier.extend(self.list(family).await?.map(|listing| listing.elements).unwrap_or_default());
        }
        Ok(&conntrack::served(&earlier) - &conntrack::served(&Elements::of(data_path)))
    }

    /// Makes both tables, in the place of what is there.
    async fn make(&mut self, data_path: &DataPath) -> Result<(), ProgramError> {
        self.load(&ruleset::install(data_path)).await?;
        let mut made = [Vec::new(), Vec::new()];
        for (family, definition) in FAMILIES.into_iter().zip(&mut made) {
            *definition = self.list(family).await?.unwrap_or_default().definition;
        }
        self.made = Some(made);
        self.orphaned.extend(unled(data_path));
        Ok(())
    }

    /// Repairs what other programs have altered in the tables. Returns whether something was.
    ///
    /// # Errors
    /// If a program fails.
    pub async fn repair(&mut self) -> Result<bool, ProgramError> {
        let (Some(requested), Some(made)) = (self.requested.clone(), &self.made) else { return Ok(false) };
        let mut elements = Elements::default();
        let mut intact = true;
        for (family, definition) in FAMILIES.into_iter().zip(made) {
            let listing = self.list(family).await?.unwrap_or_default();
            intact &= listing.definition == *definition;
            elements.extend(listing.elements);
        }
        let difference = Difference::between(&elements, &Elements::of(&requested));
        if !intact {
            warn!("another program has altered or removed the tables {TABLE}: they are recreated");
            self.make(&requested).await?;
        } else if !difference.is_empty() {
            warn!(elements = difference.len(), "another program has altered elements of the tables {TABLE}");
            self.load(&difference.script()).await?;
            self.orphaned.extend(unled(&requested));
        }
        self.forget_orphaned().await?;
        Ok(!intact || !difference.is_empty())
    }

    /// Removes both tables. The connections that there are go on.
    ///
    /// # Errors
    /// If the program fails.
    pub async fn remove(&mut self) -> Result<(), ProgramError> {
        self.made = None;
        self.load(&ruleset::removal()).await
    }

    async fn load(&self, transaction: &str) -> Result<(), ProgramError> {
        self.programs.nft.run(&["-f".to_owned(), "-".to_owned()], transaction).await.map(drop)
    }

    /// The table of a family; `None`: there is none.
    async fn list(&self, family: IpFamily) -> Result<Option<Listing>, ProgramError> {
        let arguments = ["--json", "list", "table", ruleset::name(family), TABLE].map(str::to_owned);
        match self.programs.nft.run(&arguments, "").await {
            Ok(output) => Listing::parse(family, &output).map(Some).map_err(|error| self.programs.nft.failed(&error)),
            Err(ProgramError::Failed { output, .. }) if output.contains("No such file or directory") => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Forgets what is to be forgotten. What fails stays for the next time.
    async fn forget_orphaned(&mut self) -> Result<(), ProgramError> {
        if self.orphaned.len() > FEW {
            self.drop_unconnected().await?;
        }
        while let Some(connections) = self.orphaned.first().copied() {
            self.forget(connections).await?;
            self.orphaned.remove(&connections);
        }
        Ok(())
    }

    /// Drops front ports and backends between which there are no connections.
    async fn drop_unconnected(&mut self) -> Result<(), ProgramError> {
        let mut connected = BTreeSet::new();
        for family in FAMILIES {
            let output = self.programs.conntrack.run(&conntrack::listing(family), "").await?;
            connected.extend(conntrack::listed(&output));
        }
        self.orphaned.retain(|one| !matches!(one, Connections::Served { .. }) || connected.contains(one));
        Ok(())
    }

    async fn forget(&self, connections: Connections) -> Result<(), ProgramError> {
        self.programs.forget(connections).await
    }
}

/// The connections that were led nowhere while the tables were not there, to any address.
fn unled(data_path: &DataPath) -> impl Iterator<Item = Connections> {
    let addresses = data_path.load_balancers.values().flat_map(|served| &served.addresses);
    addresses.copied().map(Connections::Unled)
}
