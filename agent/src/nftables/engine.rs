//! Applies a data path to the kernel, and keeps it there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroU16;

use sharedlb_providers::{IpFamily, LbName};
use tracing::warn;

use super::conntrack::{self, Connections};
use super::elements::Elements;
use super::listing::Listing;
use super::program::{Program, ProgramError};
use super::records::RecordKey;
use super::ruleset::{self, FAMILIES, TABLE};
use super::tables::{self, Damage, Tables};
use super::{DataPath, ServedLoadBalancer};

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
    /// What the tables shall have; `None`: what an earlier process has left in them
    requested: Option<DataPath>,
    /// Whether the tables have it, as far as is known
    made: bool,
    /// Connections that are to be forgotten as soon as the tables do not lead them any more
    orphaned: BTreeSet<Connections>,
    /// Whether the connections of an earlier process are among them
    compared: bool,
}

/// What the tables have at the moment.
#[derive(Debug)]
pub(super) struct Observation {
    /// The recorded load balancers
    pub(super) load_balancers: BTreeMap<LbName, ServedLoadBalancer>,
    /// The [version](ruleset::version) of the rules; `None`: another program has altered them
    pub(super) rules: Option<u64>,
    /// Elements that another program has altered
    pub(super) damage: Damage,
    /// Ports that still have connections to backends that they do not lead to any more
    pub(super) orphaned: BTreeSet<(IpAddr, NonZeroU16)>,
}

impl Observation {
    /// Whether another program has altered elements that are of no listener of a load balancer.
    pub(super) fn is_damaged_elsewhere(&self) -> bool {
        let has = |address| self.load_balancers.values().any(|served| served.addresses.contains(address));
        self.damage.elsewhere || !self.damage.ports.iter().all(|(address, _)| has(address))
    }
}

impl Engine {
    /// An engine that knows nothing of the kernel yet. The tables of an earlier process stay, and
    /// lead connections as before, until something is applied.
    #[must_use]
    pub fn new(programs: Programs) -> Self {
        Self { programs, requested: None, made: false, orphaned: BTreeSet::new(), compared: false }
    }

    /// Has the kernel lead connections as this data path says. When it returns, new ones do so,
    /// and those of backends that are gone are forgotten.
    ///
    /// # Errors
    /// If a program fails. The tables have all of the change or nothing of it.
    pub async fn apply(&mut self, data_path: &DataPath) -> Result<(), ProgramError> {
        self.take_over(data_path.seed).await?;
        self.change(data_path.load_balancers.clone()).await?;
        self.forget_orphaned().await
    }

    /// Has the tables be what is requested, in the form of this version: at first, the load
    /// balancers that an earlier process has left in them. Tables that are so stay as they are.
    /// Returns whether they had to be made.
    ///
    /// # Errors
    /// If a program fails.
    pub(super) async fn take_over(&mut self, seed: u32) -> Result<bool, ProgramError> {
        if self.made && self.requested.as_ref().is_some_and(|requested| requested.seed == seed) {
            return Ok(false);
        }
        let tables = self.read().await?;
        let before = self.requested.take().map(|requested| requested.load_balancers);
        let load_balancers = before.unwrap_or_else(|| tables.load_balancers());
        let requested = self.requested.insert(DataPath { seed, load_balancers }).clone();
        self.made = tables.have(&requested);
        if self.made {
            return Ok(false);
        }
        self.make(&requested, &tables.former_backends(&requested)).await?;
        Ok(true)
    }

    /// The load balancers that are requested.
    pub(super) fn load_balancers(&self) -> BTreeMap<LbName, ServedLoadBalancer> {
        self.requested.clone().unwrap_or_default().load_balancers
    }

    /// Changes the load balancers, after [`take_over`](Self::take_over). Connections of backends
    /// that are gone are still remembered.
    ///
    /// # Errors
    /// If a program fails. The tables have all of the change or nothing of it.
    pub(super) async fn change(
        &mut self,
        load_balancers: BTreeMap<LbName, ServedLoadBalancer>,
    ) -> Result<(), ProgramError> {
        let Some(before) = &self.requested else { return Ok(()) };
        let after = DataPath { seed: before.seed, load_balancers };
        let transaction = ruleset::change(before, &after);
        let orphaned = conntrack::orphaned(before, &after);
        if !transaction.is_empty() {
            self.made = false;
            self.load(&transaction).await?;
            self.made = true;
        }
        self.requested = Some(after);
        self.orphaned.extend(orphaned);
        Ok(())
    }

    /// Makes both tables, in the place of what is there.
    async fn make(&mut self, requested: &DataPath, former_backends: &Elements) -> Result<(), ProgramError> {
        self.load(&ruleset::install(requested, former_backends)).await?;
        let mut records = Elements::default();
        for family in FAMILIES {
            let listing = self.list(family).await?.unwrap_or_default();
            records.add_record(RecordKey::of_rules(family), &tables::of_rules(requested.seed, &listing));
        }
        self.load(&ruleset::additions(&records)).await?;
        self.made = true;
        self.orphaned.extend(unled(requested));
        Ok(())
    }

    /// Repairs what other programs have altered in the tables. Returns whether something was.
    ///
    /// # Errors
    /// If a program fails.
    pub async fn repair(&mut self) -> Result<bool, ProgramError> {
        let Some(seed) = self.requested.as_ref().map(|requested| requested.seed) else { return Ok(false) };
        self.made = false;
        let repaired = self.take_over(seed).await?;
        if repaired {
            warn!("another program has altered or removed the tables {TABLE}: they are recreated");
        }
        self.forget_orphaned().await?;
        Ok(repaired)
    }

    /// What the tables have. What is wrong with them is repaired by the next
    /// [`take_over`](Self::take_over) and [`forget_orphaned`](Self::forget_orphaned).
    ///
    /// # Errors
    /// If a program fails.
    pub(super) async fn observe(&mut self, seed: u32) -> Result<Observation, ProgramError> {
        let tables = self.read().await?;
        let load_balancers = tables.load_balancers();
        let recorded = || DataPath { seed, load_balancers: load_balancers.clone() };
        self.made = tables.have(self.requested.get_or_insert_with(recorded));
        let damage = if self.made { Damage::default() } else { tables.damage(seed) };
        self.compare_connections(&load_balancers, &tables.connections()).await?;
        let port = |connections: &Connections| match connections {
            Connections::Served { address, port, .. } => Some((*address, port.port)),
            Connections::To(_) | Connections::Unled(_) => None,
        };
        let orphaned = self.orphaned.iter().filter_map(port).collect();
        Ok(Observation { load_balancers, rules: tables.rules, damage, orphaned })
    }

    async fn read(&self) -> Result<Tables, ProgramError> {
        let [v4, v6] = FAMILIES;
        Ok(Tables::of([self.list(v4).await?, self.list(v6).await?]))
    }

    /// Removes both tables. The connections that there are go on.
    ///
    /// # Errors
    /// If the program fails.
    pub async fn remove(&mut self) -> Result<(), ProgramError> {
        self.made = false;
        self.requested = None;
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
    ///
    /// # Errors
    /// If the program fails.
    pub(super) async fn forget_orphaned(&mut self) -> Result<(), ProgramError> {
        if !self.compared {
            let requested = self.requested.clone().unwrap_or_default();
            let served = conntrack::served(&Elements::of(&requested));
            self.compare_connections(&requested.load_balancers, &served).await?;
        }
        if self.orphaned.len() > FEW {
            let connected = self.connected().await?;
            self.orphaned.retain(|one| !matches!(one, Connections::Served { .. }) || connected.contains(one));
        }
        while let Some(connections) = self.orphaned.first().copied() {
            self.programs.forget(connections).await?;
            self.orphaned.remove(&connections);
        }
        Ok(())
    }

    /// Once in a process: finds the connections that the tables would not lead so. An earlier
    /// process may have been ended before it had them forgotten.
    async fn compare_connections(
        &mut self,
        load_balancers: &BTreeMap<LbName, ServedLoadBalancer>,
        served: &BTreeSet<Connections>,
    ) -> Result<(), ProgramError> {
        if self.compared {
            return Ok(());
        }
        let addresses: BTreeSet<IpAddr> =
            load_balancers.values().flat_map(|served| &served.addresses).copied().collect();
        let is_ours =
            |one: &Connections| matches!(one, Connections::Served { address, .. } if addresses.contains(address));
        let connected = self.connected().await?;
        self.orphaned.extend(connected.into_iter().filter(|one| is_ours(one) && !served.contains(one)));
        self.compared = true;
        Ok(())
    }

    /// The front ports and backends between which there are connections.
    async fn connected(&self) -> Result<BTreeSet<Connections>, ProgramError> {
        let mut connected = BTreeSet::new();
        for family in FAMILIES {
            let output = self.programs.conntrack.run(&conntrack::listing(family), "").await?;
            connected.extend(conntrack::listed(&output));
        }
        Ok(connected)
    }
}

/// The connections that were led nowhere while the tables were not there, to any address.
fn unled(data_path: &DataPath) -> impl Iterator<Item = Connections> {
    let addresses = data_path.load_balancers.values().flat_map(|served| &served.addresses);
    addresses.copied().map(Connections::Unled)
}
