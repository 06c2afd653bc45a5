//! `adopt`: Services of type LoadBalancer that could share load balancers, how many load balancers
//! that saves, and the claims for it.

mod claim;
mod plan;

use clap::Args;
use futures::{StreamExt as _, stream};
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt as _};
use serde::Serialize;
use sharedlb_crds::SharedLB;
use sharedlb_kubernetes::text;

use self::claim::Numbers;
use self::plan::{Candidate, Place, candidates, places};
use crate::occupancy::default_class;
use crate::output::{Cell, Column, Document, Outcome, Report, Table, Tone};
use crate::snapshot::Snapshot;

/// How many claims are created at once.
const AT_ONCE: usize = 4;

#[derive(Debug, Args)]
pub(crate) struct AdoptArgs {
    /// The Services, by their names or as NAMESPACE/NAME. Default: all of type
    /// LoadBalancer, in all namespaces or in that of -n.
    services: Vec<String>,
    /// The class whose load balancers they share. Default: the default class.
    #[arg(long, value_name = "NAME")]
    class: Option<String>,
    /// Have port numbers assigned, instead of requesting those of the Services.
    #[arg(long)]
    assign_ports: bool,
    /// Print the claims alone, for kubectl apply -f -.
    #[arg(long, conflicts_with = "apply")]
    pub(crate) manifests: bool,
    /// Create the claims. Services are not changed.
    #[arg(long)]
    pub(crate) apply: bool,
}

/// What sharing would save, and the claims for it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Adoption {
    class: String,
    /// How many of the Services can share
    sharing: usize,
    /// How many load balancers the class needs for them besides those that it has
    further_load_balancers: Option<usize>,
    services: Vec<Adopted>,
}

/// One Service.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Adopted {
    service: String,
    addresses: Vec<String>,
    /// The claim for it, or why there is none
    #[serde(flatten)]
    result: Sharing,
    note: Option<&'static str>,
    /// Whether the claim was created, where that was asked for
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<Created>,
}

/// Whether a Service can share a load balancer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
enum Sharing {
    /// It can, by this claim.
    Claim {
        /// The claim
        claim: Box<SharedLB>,
        /// The load balancer on which there is room, if the class can be seen
        place: Option<Place>,
    },
    /// It cannot, since …
    Obstacle(String),
}

/// What became of a claim.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
enum Created {
    Created,
    Failed(String),
}

impl Adoption {
    /// What the snapshot shows. With a namespace, only Services of this one.
    ///
    /// # Errors
    /// If no class is named, and no default one can be seen.
    pub(crate) fn of(snapshot: &Snapshot, args: &AdoptArgs, namespace: Option<&str>) -> anyhow::Result<Self> {
        let default = || default_class(snapshot).map(kube::ResourceExt::name_any);
        let class = args.class.clone().or_else(default);
        let class = class.ok_or_else(|| anyhow::anyhow!("no default class can be seen: name a class by --class"))?;
        let numbers = if args.assign_ports { Numbers::Assigned } else { Numbers::Requested };
        let is_asked = |candidate: &Candidate| match namespace {
            Some(namespace) => *candidate.key.namespace == *namespace,
            None => true,
        };
        let is_named = |candidate: &Candidate| {
            let names = |name: &String| *name == candidate.key.to_string() || *name == *candidate.key.name;
            args.services.is_empty() || args.services.iter().any(names)
        };
        let mut candidates = candidates(snapshot, &class, numbers);
        candidates.retain(|candidate| is_asked(candidate) && is_named(candidate));
        let (places, further) = places(snapshot, &class, &candidates);
        let services: Vec<Adopted> =
            candidates.into_iter().zip(places).map(|(candidate, place)| Adopted::of(candidate, place)).collect();
        let sharing = services.iter().filter(|service| matches!(service.result, Sharing::Claim { .. })).count();
        Ok(Self { class, sharing, further_load_balancers: further, services })
    }

    /// The claims.
    fn claims(&self) -> impl Iterator<Item = &SharedLB> {
        self.services.iter().filter_map(|service| match &service.result {
            Sharing::Claim { claim, .. } => Some(&**claim),
            Sharing::Obstacle(_) => None,
        })
    }

    /// The claims as manifests.
    ///
    /// # Errors
    /// If a claim cannot be written as YAML.
    pub(crate) fn manifests(&self) -> anyhow::Result<String> {
        let mut manifests = String::new();
        for claim in self.claims() {
            manifests += "---\n";
            manifests += &serde_saphyr::to_string(claim)?;
        }
        Ok(manifests)
    }

    /// Creates the claims, and records what became of each.
    pub(crate) async fn apply(&mut self, client: &Client) {
        let creations = self.services.iter_mut().filter_map(|service| match &service.result {
            Sharing::Claim { claim, .. } => Some((claim.clone(), &mut service.created)),
            Sharing::Obstacle(_) => None,
        });
        let create = async |(claim, created): (Box<SharedLB>, &mut Option<Created>)| {
            let claims = Api::<SharedLB>::namespaced(client.clone(), &claim.namespace().unwrap_or_default());
            *created = Some(match claims.create(&PostParams::default(), &claim).await {
                Ok(_) => Created::Created,
                Err(kube::Error::Api(status)) => Created::Failed(text::message(&status.message)),
                Err(error) => Created::Failed(text::message(&error.to_string())),
            });
        };
        stream::iter(creations).for_each_concurrent(AT_ONCE, create).await;
    }
}

impl Adopted {
    fn of(candidate: Candidate, place: Result<Option<Place>, String>) -> Self {
        let result = match (candidate.claim, place) {
            (Ok(claim), Ok(place)) => Sharing::Claim { claim: Box::new(claim), place },
            (Ok(_), Err(obstacle)) | (Err(obstacle), _) => Sharing::Obstacle(obstacle),
        };
        Self {
            service: candidate.key.to_string(),
            addresses: candidate.addresses,
            result,
            note: candidate.note,
            created: None,
        }
    }
}

impl Report for Adoption {
    fn render(&self) -> Document {
        let mut document = Document::default();
        document.line(self.headline());
        document.table(self.services());
        if self.services.iter().any(|service| matches!(service.created, Some(Created::Created))) {
            document
                .line("Each claim has its Service's pods. Once clients use the address of the claim, set the type of");
            document
                .line("the Service to ClusterIP: its own load balancer is deleted then, and is no longer paid for.");
        } else if self.sharing > 0 {
            document.line("Nothing was changed. --manifests prints the claims, and --apply creates them.");
        }
        document
    }

    fn outcome(&self) -> Outcome {
        let failed = self.services.iter().any(|service| matches!(service.created, Some(Created::Failed(_))));
        if failed || self.sharing == 0 { Outcome::Finding } else { Outcome::Fine }
    }
}

impl Adoption {
    /// `3 of 4 Services of type LoadBalancer can share load balancers of class default. Load balancers
    /// saved: 2 (the class needs 1 more)`
    fn headline(&self) -> Cell {
        let (sharing, all) = (self.sharing, self.services.len());
        let what = format!(
            "{sharing} of {all} Services of type LoadBalancer can share load balancers of class {}",
            self.class
        );
        match self.further_load_balancers {
            Some(further) if sharing > 0 => {
                let saved = sharing.saturating_sub(further);
                Cell::new(
                    format!("{what}. Load balancers saved: {saved} (the class needs {further} more)"),
                    Tone::Strong,
                )
            }
            _ => Cell::new(what, Tone::Strong),
        }
    }

    fn services(&self) -> Table {
        use Column::{Usual, Wide};
        let mut table = Table::new([
            Usual("SERVICE"),
            Wide("ADDRESSES"),
            Usual("PORTS"),
            Usual("LOADBALANCER"),
            Usual("RESULT"),
            Usual("NOTE"),
        ]);
        for service in &self.services {
            let (ports, place, result) = match &service.result {
                Sharing::Claim { claim, place } => (ports(claim), place.clone(), Cell::new("can share", Tone::Good)),
                Sharing::Obstacle(obstacle) => (None, None, Cell::new(obstacle, Tone::Warning)),
            };
            table.row([
                service.service.as_str().into(),
                Cell::or_dash(Some(service.addresses.join(",")).filter(|addresses| !addresses.is_empty())),
                Cell::or_dash(ports),
                Cell::or_dash(place.map(|place| place.to_string())),
                match &service.created {
                    None => result,
                    Some(Created::Created) => Cell::new("claim created", Tone::Good),
                    Some(Created::Failed(why)) => Cell::new(format!("claim not created: {why}"), Tone::Bad),
                },
                Cell::or_dash(service.note),
            ]);
        }
        table
    }
}

/// `80/TCP,53/TCP_UDP`
fn ports(claim: &SharedLB) -> Option<String> {
    let number = |port: &sharedlb_crds::SharedLBPort| {
        port.port.map_or_else(|| format!("any/{}", port.protocol), |number| format!("{number}/{}", port.protocol))
    };
    let ports: Vec<String> = claim.spec.ports.iter().map(number).collect();
    (!ports.is_empty()).then(|| ports.join(","))
}
