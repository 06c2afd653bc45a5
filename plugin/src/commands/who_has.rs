//! `who-has`: what has a port, or waits for it.

use std::num::NonZeroU16;
use std::str::FromStr;

use clap::Args;
use serde::Serialize;
use sharedlb_crds::{ConditionType, Protocol, SharedLB, Transport};
use sharedlb_kubernetes::{ObjectKey, conditions};

use crate::occupancy::{LoadBalancer, Occupant, has, occupants};
use crate::output::{Cell, Column, Document, Outcome, Report, Table};
use crate::snapshot::Snapshot;

#[derive(Debug, Args)]
pub(crate) struct WhoHasArgs {
    /// The number, and perhaps the protocol: 5432, 53/udp.
    port: AskedPort,
    /// Only on load balancers of this class.
    #[arg(long, value_name = "NAME")]
    class: Option<String>,
}

/// A number, with one transport or either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AskedPort {
    number: NonZeroU16,
    transport: Option<Transport>,
}

impl FromStr for AskedPort {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (number, protocol) = text.split_once('/').map_or((text, None), |(number, rest)| (number, Some(rest)));
        let transport = match protocol.map(str::to_ascii_lowercase).as_deref() {
            None => None,
            Some("tcp") => Some(Transport::Tcp),
            Some("udp") => Some(Transport::Udp),
            Some(_) => return Err("the protocol is tcp or udp: 5432/tcp"),
        };
        let number = number.parse().map_err(|_| "a port is a number from 1 to 65535: 5432, 53/udp")?;
        Ok(Self { number, transport })
    }
}

impl AskedPort {
    fn is_of(self, number: NonZeroU16, protocol: Protocol) -> bool {
        number == self.number && self.transport.is_none_or(|transport| has(protocol, transport))
    }
}

/// What has a port, and which claims wait for it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Holders {
    holders: Vec<Found>,
    waiting: Vec<Waiting>,
    #[serde(skip)]
    is_complete: bool,
}

#[derive(Debug, Serialize)]
struct Found {
    #[serde(flatten)]
    load_balancer: LoadBalancer,
    #[serde(flatten)]
    occupant: Occupant,
}

/// A claim that requests the number and does not have it.
#[derive(Debug, Serialize)]
struct Waiting {
    claim: String,
    class: Option<String>,
    port: NonZeroU16,
    protocol: Protocol,
    reason: Option<String>,
    message: Option<String>,
}

impl Holders {
    /// What the snapshot shows of a port.
    pub(crate) fn of(snapshot: &Snapshot, args: &WhoHasArgs) -> Self {
        let is_asked = |class: Option<&str>| args.class.as_deref().is_none_or(|asked| class == Some(asked));
        let mut holders = Vec::new();
        for (load_balancer, taken) in occupants(snapshot) {
            let taken = taken.into_iter().filter(|one| args.port.is_of(one.port, one.protocol));
            let found = taken.map(|occupant| Found { load_balancer: load_balancer.clone(), occupant });
            holders.extend(found.filter(|found| is_asked(Some(&found.load_balancer.class))));
        }
        let waiting = snapshot.claims.items.iter().flat_map(|claim| waiting(claim, args.port));
        Self {
            holders,
            waiting: waiting.filter(|waiting| is_asked(waiting.class.as_deref())).collect(),
            is_complete: snapshot.claims.is_complete && snapshot.classes.is_complete,
        }
    }
}

/// The ports of a claim that request this number and do not have it.
fn waiting(claim: &SharedLB, asked: AskedPort) -> Vec<Waiting> {
    let status = claim.status.clone().unwrap_or_default();
    let allocated = conditions::find(&status.conditions, ConditionType::Allocated);
    let requests = claim.spec.ports.iter().filter_map(|port| Some((port.port?, port.protocol)));
    requests
        .filter(|(number, protocol)| asked.is_of(*number, *protocol))
        .filter(|request| !status.ports.iter().any(|port| (port.port, port.protocol) == *request))
        .map(|(port, protocol)| Waiting {
            claim: ObjectKey::of(claim).to_string(),
            class: status.class_name.clone().or_else(|| claim.spec.class_name.clone()),
            port,
            protocol,
            reason: allocated.map(|allocated| allocated.reason.clone()),
            message: allocated.map(|allocated| allocated.message.clone()),
        })
        .collect()
}

impl Report for Holders {
    fn render(&self) -> Document {
        let mut document = Document::default();
        if self.holders.is_empty() {
            let nothing = if self.is_complete { "nothing has it" } else { "nothing that can be seen has it" };
            document.line(nothing);
        }
        document.table(self.held());
        document.table(self.waiting());
        document
    }

    fn outcome(&self) -> Outcome {
        match (self.holders.is_empty(), self.is_complete) {
            (false, _) => Outcome::Fine,
            (true, true) => Outcome::Finding,
            (true, false) => Outcome::Uncertain,
        }
    }
}

impl Holders {
    fn held(&self) -> Table {
        use Column::Usual;
        let mut table = Table::new([
            Usual("PORT"),
            Usual("CLASS"),
            Usual("LOADBALANCER"),
            Usual("STATE"),
            Usual("CLAIM"),
            Usual("NOTE"),
        ]);
        for Found { load_balancer, occupant } in &self.holders {
            table.row([
                format!("{}/{}", occupant.port, occupant.protocol).into(),
                load_balancer.class.as_str().into(),
                load_balancer.index.to_string().into(),
                occupant.holder.state().cell(),
                Cell::or_dash(occupant.holder.claim()),
                Cell::or_dash(occupant.holder.note()),
            ]);
        }
        table
    }

    fn waiting(&self) -> Table {
        use Column::Usual;
        let mut table =
            Table::new([Usual("WAITING FOR"), Usual("CLASS"), Usual("CLAIM"), Usual("REASON"), Usual("MESSAGE")]);
        for waiting in &self.waiting {
            table.row([
                format!("{}/{}", waiting.port, waiting.protocol).into(),
                Cell::or_dash(waiting.class.as_deref()),
                waiting.claim.as_str().into(),
                Cell::or_dash(waiting.reason.as_deref()),
                Cell::or_dash(waiting.message.as_deref()),
            ]);
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{claim, class, snapshot};

    fn ask(snapshot: &Snapshot, port: &str) -> Holders {
        let port = port.parse().expect("it is a port");
        Holders::of(snapshot, &WhoHasArgs { port, class: None })
    }

    #[test]
    fn a_port_is_a_number_with_or_without_a_protocol() {
        let tcp = AskedPort { number: NonZeroU16::MIN, transport: Some(Transport::Tcp) };
        assert_eq!("1/TCP".parse(), Ok(tcp));
        assert_eq!("1".parse(), Ok(AskedPort { transport: None, ..tcp }));
        for wrong in ["0", "65536", "x", "1/sctp", "1/"] {
            assert!(wrong.parse::<AskedPort>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_outcome_says_whether_the_port_is_taken() {
        let mut snapshot = snapshot([claim("team-a", "redis", "default", 0, 6379)], [class("default", 0, &[])]);
        assert_eq!(ask(&snapshot, "6379/tcp").outcome(), Outcome::Fine);
        assert_eq!(ask(&snapshot, "6379/udp").outcome(), Outcome::Finding);
        snapshot.claims.is_complete = false;
        assert_eq!(ask(&snapshot, "6379").outcome(), Outcome::Fine);
        assert_eq!(ask(&snapshot, "6380").outcome(), Outcome::Uncertain, "a claim that is not seen may have it");
    }

    #[test]
    fn a_claim_waits_for_a_number_that_it_requests_and_does_not_have() {
        let mut waits = claim("team-c", "db", "default", 0, 20_000);
        waits.spec.ports[0].port = NonZeroU16::new(5432);
        let found = ask(&snapshot([waits], [class("default", 0, &[])]), "5432");
        assert_eq!(found.waiting.iter().map(|waiting| waiting.claim.as_str()).collect::<Vec<_>>(), ["team-c/db"]);
        assert_eq!(found.holders.len(), 1, "it cools down");
    }
}
