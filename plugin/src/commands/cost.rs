//! `cost`: what load balancers cost, what sharing them saves, and the part of each namespace.

use std::collections::BTreeMap;

use clap::Args;
use kube::ResourceExt as _;
use serde::Serialize;
use sharedlb_crds::{Price, Pricing, SharedLB, SharedLBClass};

use crate::occupancy::class_of;
use crate::output::{Cell, Column, Document, Outcome, Report, Table, Tone};
use crate::snapshot::Snapshot;

/// The hours of a month: 365 days of 24 hours, divided by 12.
const HOURS: u32 = 730;

#[derive(Debug, Args)]
pub(crate) struct CostArgs {
    /// Only this class.
    #[arg(long, value_name = "NAME")]
    class: Option<String>,
}

/// What the load balancers of the classes with prices cost, without traffic.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Costs {
    classes: Vec<ClassCost>,
    /// The parts of the namespaces, if all claims can be seen
    namespaces: Vec<NamespaceCost>,
    /// The classes without prices
    unpriced: Vec<String>,
    #[serde(skip)]
    are_claims_complete: bool,
    #[serde(skip)]
    are_classes_complete: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ClassCost {
    class: String,
    currency: String,
    load_balancers: u32,
    listeners: u32,
    /// Those that hold ports, if all can be seen
    claims: Option<u32>,
    per_month: Price,
    /// What a load balancer for each claim would cost
    unshared_per_month: Option<Price>,
}

/// The part of a namespace: of the cost by its ports, and of what is unshared by its claims.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct NamespaceCost {
    namespace: String,
    class: String,
    currency: String,
    claims: u32,
    ports: u32,
    per_month: Price,
    unshared_per_month: Price,
}

/// Claims that hold ports, and their ports.
#[derive(Clone, Copy, Default)]
struct Holdings {
    claims: u32,
    ports: u32,
}

impl Costs {
    /// What the snapshot shows.
    pub(crate) fn of(snapshot: &Snapshot, args: &CostArgs) -> Self {
        let is_asked = |class: &&SharedLBClass| args.class.as_deref().is_none_or(|asked| class.name_any() == asked);
        let mut costs = Self {
            classes: Vec::new(),
            namespaces: Vec::new(),
            unpriced: Vec::new(),
            are_claims_complete: snapshot.claims.is_complete,
            are_classes_complete: snapshot.classes.is_complete,
        };
        for class in snapshot.classes.items.iter().filter(is_asked) {
            match &class.spec.pricing {
                Some(pricing) => costs.add(class, pricing, &snapshot.claims.items),
                None => costs.unpriced.push(class.name_any()),
            }
        }
        costs
    }

    fn add(&mut self, class: &SharedLBClass, pricing: &Pricing, claims: &[SharedLB]) {
        let name = class.name_any();
        let load_balancers = class.status.iter().flat_map(|status| &status.load_balancers);
        let listeners = load_balancers.clone().map(|one| one.listeners).sum();
        let load_balancers = count(load_balancers.count());
        let per_month = pricing.hourly(load_balancers, listeners).times(HOURS).rounded();

        let mut by_namespace: BTreeMap<String, Holdings> = BTreeMap::new();
        for claim in claims.iter().filter(|claim| class_of(claim) == Some(&name)) {
            let ports = count(claim.status.iter().flat_map(|status| &status.ports).count());
            if ports > 0 {
                let holdings = by_namespace.entry(claim.namespace().unwrap_or_default()).or_default();
                holdings.claims += 1;
                holdings.ports += ports;
            }
        }
        let all = by_namespace.values().fold(Holdings::default(), |all, one| Holdings {
            claims: all.claims + one.claims,
            ports: all.ports + one.ports,
        });
        let unshared = pricing.hourly(all.claims, listeners).times(HOURS).rounded();
        if self.are_claims_complete {
            self.namespaces.extend(by_namespace.into_iter().map(|(namespace, Holdings { claims, ports })| {
                NamespaceCost {
                    namespace,
                    class: name.clone(),
                    currency: pricing.currency.clone(),
                    claims,
                    ports,
                    per_month: per_month.share(ports, all.ports).rounded(),
                    unshared_per_month: unshared.share(claims, all.claims).rounded(),
                }
            }));
        }
        self.classes.push(ClassCost {
            class: name,
            currency: pricing.currency.clone(),
            load_balancers,
            listeners,
            claims: self.are_claims_complete.then_some(all.claims),
            per_month,
            unshared_per_month: self.are_claims_complete.then_some(unshared),
        });
    }
}

impl Report for Costs {
    fn render(&self) -> Document {
        let mut document = Document::default();
        if self.classes.is_empty() {
            let line = match self.unpriced.as_slice() {
                [] if self.are_classes_complete => "there is no such class".to_owned(),
                [] => "no class can be seen".to_owned(),
                names => format!("no prices are known: set spec.pricing of class {}", names.join(", ")),
            };
            document.line(Cell::new(line, Tone::Warning));
            return document;
        }
        document.line(format!("Per month of {HOURS} hours, without traffic"));
        document.table(self.classes());
        document.table(self.namespaces());
        if !self.unpriced.is_empty() {
            let line = format!("Without prices (spec.pricing): class {}", self.unpriced.join(", "));
            document.line(Cell::new(line, Tone::Faint));
        }
        document
    }

    fn outcome(&self) -> Outcome {
        match (self.classes.is_empty(), self.are_classes_complete) {
            (false, _) => Outcome::Fine,
            (true, true) => Outcome::Finding,
            (true, false) => Outcome::Uncertain,
        }
    }
}

impl Costs {
    fn classes(&self) -> Table {
        use Column::{Usual, Wide};
        let mut table = Table::new([
            Usual("CLASS"),
            Usual("LOADBALANCERS"),
            Wide("LISTENERS"),
            Usual("CLAIMS"),
            Usual("COST"),
            Usual("UNSHARED"),
            Usual("SAVED"),
        ]);
        for class in &self.classes {
            let money = |price: Price| format!("{} {}", price, class.currency);
            let saved = class.unshared_per_month.map(|unshared| saving(class.per_month, unshared, &class.currency));
            table.row([
                class.class.as_str().into(),
                class.load_balancers.to_string().into(),
                class.listeners.to_string().into(),
                Cell::or_dash(class.claims.map(|claims| claims.to_string())),
                money(class.per_month).into(),
                Cell::or_dash(class.unshared_per_month.map(money)),
                saved.unwrap_or_else(|| Cell::or_dash(None::<&str>)),
            ]);
        }
        table
    }

    fn namespaces(&self) -> Table {
        use Column::Usual;
        let mut table = Table::new([
            Usual("NAMESPACE"),
            Usual("CLASS"),
            Usual("CLAIMS"),
            Usual("PORTS"),
            Usual("COST"),
            Usual("UNSHARED"),
        ]);
        for one in &self.namespaces {
            let money = |price: Price| format!("{} {}", price, one.currency);
            table.row([
                one.namespace.as_str().into(),
                one.class.as_str().into(),
                one.claims.to_string().into(),
                one.ports.to_string().into(),
                money(one.per_month).into(),
                money(one.unshared_per_month).into(),
            ]);
        }
        table
    }
}

/// What is saved; of a class with few claims it can be less than nothing.
fn saving(cost: Price, unshared: Price, currency: &str) -> Cell {
    match unshared.minus(cost) {
        Some(saved) => Cell::new(format!("{saved} {currency}"), Tone::Good),
        None => Cell::new(format!("-{} {currency}", cost.minus(unshared).unwrap_or_default()), Tone::Warning),
    }
}

fn count(items: usize) -> u32 {
    u32::try_from(items).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fixtures::{claim, class, object, snapshot};
    use crate::output::Columns;
    use crate::snapshot::Seen;

    /// A class of which one load balancer is there, and costs 10 dollars an hour.
    fn priced(name: &str) -> SharedLBClass {
        let mut class = class(name, 0, &[]);
        class.spec.pricing = Some(object(json!({"loadBalancerPerHour": "10"})));
        class
    }

    fn text(costs: &Costs) -> String {
        anstream::adapter::strip_str(&costs.render().to_text(Columns::Usual)).to_string()
    }

    #[test]
    fn namespaces_share_the_cost_by_their_ports() {
        let claims = [
            claim("team-a", "redis", "edge", 0, 6379),
            claim("team-a", "nats", "edge", 0, 4222),
            claim("team-b", "redis", "edge", 0, 6380),
            claim("team-c", "redis", "other", 0, 6379),
        ];
        let costs = Costs::of(&snapshot(claims, [priced("edge"), class("other", 0, &[])]), &CostArgs { class: None });
        let shares: Vec<_> = costs
            .namespaces
            .iter()
            .map(|one| (one.namespace.as_str(), one.per_month.to_string(), one.unshared_per_month.to_string()))
            .collect();
        let expected = [("team-a", "4866.67", "14600.00"), ("team-b", "2433.33", "7300.00")];
        assert_eq!(shares, expected.map(|(name, cost, unshared)| (name, cost.to_owned(), unshared.to_owned())));
        let text = text(&costs);
        assert!(
            text.contains("7300.00 USD") && text.contains("21900.00 USD") && text.contains("14600.00 USD"),
            "{text}"
        );
        assert!(text.ends_with("Without prices (spec.pricing): class other\n"), "{text}");
        assert_eq!(costs.outcome(), Outcome::Fine);
    }

    #[test]
    fn a_load_balancer_without_claims_saves_less_than_nothing() {
        let costs = Costs::of(&snapshot([], [priced("edge")]), &CostArgs { class: None });
        assert!(text(&costs).contains("-7300.00 USD"), "{}", text(&costs));
    }

    #[test]
    fn what_needs_all_claims_is_left_out_for_a_user_who_does_not_see_them() {
        let mut snapshot = snapshot([claim("team-a", "redis", "edge", 0, 6379)], [priced("edge")]);
        snapshot.claims.is_complete = false;
        let costs = Costs::of(&snapshot, &CostArgs { class: None });
        assert!(costs.namespaces.is_empty() && costs.classes[0].unshared_per_month.is_none());
        assert!(text(&costs).contains("7300.00 USD   -"), "{}", text(&costs));
        snapshot.classes = Seen::default();
        assert_eq!(Costs::of(&snapshot, &CostArgs { class: None }).outcome(), Outcome::Uncertain);
    }

    #[test]
    fn a_class_without_prices_says_which_field_to_set() {
        let costs = Costs::of(&snapshot([], [class("edge", 0, &[])]), &CostArgs { class: None });
        assert_eq!(text(&costs), "no prices are known: set spec.pricing of class edge\n");
        assert_eq!(costs.outcome(), Outcome::Finding);
    }
}
