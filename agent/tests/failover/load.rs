//! All traffic of a test, and what came of it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use sharedlb_agent::virtual_router::AdvertInterval;
use sharedlb_testbed::{NeighborAnswer, NeighborQuestions, eventually};

use crate::connections::{Connections, Number};
use crate::diagnosis;
use crate::hosts::Host;
use crate::probes::{Attempts, Datagrams, Probe};
use crate::scenario::{FRONT_PORT, LoadBalancer, Segment};

/// How many long-lived connections there are to an address of the load balancer that moves, and of
/// the other one.
const CONNECTIONS: Number = Number { own: 80, shared: 21 };
const CONNECTIONS_OF_OTHER: Number = Number { own: 20, shared: 3 };

/// How often the watcher asks who has the addresses.
const ASK_EVERY: Duration = Duration::from_millis(10);

/// How many answers in a row show that a host has an address for good: two seconds of them. The
/// host announces it a second time in the first one.
const ANSWERS: usize = 200;

const LIMIT: Duration = Duration::from_secs(30);

/// Traffic to all addresses.
pub(crate) struct Load {
    addresses: Vec<OfAddress>,
    questions: NeighborQuestions,
    /// When each load balancer was on the host that is preferred
    settled: Instant,
}

/// Traffic to one address.
struct OfAddress {
    address: IpAddr,
    connections: Connections,
    datagrams: Probe<Datagrams>,
    attempts: Probe<Attempts>,
}

/// A time in which a load balancer moves.
#[derive(Clone, Copy)]
pub(crate) struct Move<'a> {
    /// What happened, for the output
    pub(crate) what: &'a str,
    /// From then
    pub(crate) from: Instant,
    /// Until then
    pub(crate) to: Instant,
    /// Whether the host that had it before lives, so that it may answer until its last advert is
    /// too old
    pub(crate) is_handed_over: bool,
}

impl Load {
    /// Starts it once each load balancer is on the host that is preferred.
    pub(crate) async fn start(segment: &Segment) -> anyhow::Result<Self> {
        let all: Vec<(LoadBalancer, IpAddr)> = LoadBalancer::ALL
            .into_iter()
            .flat_map(|load_balancer| {
                load_balancer.addresses().into_iter().map(move |address| (load_balancer, address))
            })
            .collect();
        let asked: Vec<IpAddr> = all.iter().map(|(_, address)| *address).collect();
        let questions = segment.watcher.ask_neighbors(&asked, ASK_EVERY)?;
        let [first, second] = &segment.hosts;
        answered_by(&questions, LoadBalancer::Dual, first).await?;
        answered_by(&questions, LoadBalancer::V6, second).await?;
        let settled = Instant::now();
        let mut addresses = Vec::new();
        for (load_balancer, address) in all {
            let number = if load_balancer == LoadBalancer::Dual { CONNECTIONS } else { CONNECTIONS_OF_OTHER };
            let to = SocketAddr::new(address, FRONT_PORT);
            let connections = Connections::open(&segment.clients, to, number).await?;
            let [.., client] = &segment.clients[..] else { anyhow::bail!("there are no clients") };
            addresses.push(OfAddress {
                address,
                connections,
                datagrams: Datagrams::start(client, to),
                attempts: Attempts::start(client, to),
            });
        }
        Ok(Self { addresses, questions, settled })
    }

    /// Waits until this host has the load balancer that moves.
    pub(crate) async fn moved_to(&self, host: &Host) -> anyhow::Result<()> {
        answered_by(&self.questions, LoadBalancer::Dual, host).await
    }

    /// Ends it, prints what was measured, and requires what users rely on.
    pub(crate) async fn judge(self, moves: &[Move<'_>], segment: &Segment) -> anyhow::Result<()> {
        let mut faults = Vec::new();
        for each in self.addresses {
            let address = each.address;
            let datagrams = each.datagrams.finish().await?;
            let attempts = each.attempts.finish().await?;
            let survey = each.connections.finish(|| diagnosis::print(segment)).await;
            println!("  {address}: connections {survey}");
            println!("  {address}: {} of {} new connections failed", attempts.failed.len(), attempts.all);
            for Move { what, from, to, .. } in moves {
                let lost = datagrams.lost_between(*from, *to);
                println!("  {address}: {what}: {} datagrams lost, gap {} ms", lost.number, lost.longest.as_millis());
            }
            if !survey.own.dead.is_empty() {
                faults.push(format!("{address}: {survey}: {:?}", survey.own.dead));
            }
        }
        // Before that, the load balancers may have been on their way to the preferred hosts.
        let mut answers = self.questions.finish()?;
        answers.retain(|answer| answer.at >= self.settled);
        faults.extend(unexpected_answers(&answers, moves, &segment.hosts[1]));
        ensure!(faults.is_empty(), "{}", faults.join("\n"));
        Ok(())
    }
}

/// Waits until a host alone answers for the addresses of a load balancer.
async fn answered_by(questions: &NeighborQuestions, load_balancer: LoadBalancer, host: &Host) -> anyhow::Result<()> {
    let asked = Instant::now();
    for address in load_balancer.addresses() {
        let what = format!("{} to answer for {address}", host.machine().name());
        eventually(&what, LIMIT, async || {
            let last = questions.last(address, ANSWERS);
            let newest = last.last().context("no answer")?;
            ensure!(newest.at > asked, "the newest one is {newest:?}");
            let others = last.iter().find(|answer| answer.from != host.mac());
            ensure!(last.len() == ANSWERS && others.is_none(), "{} answers, with {others:?}", last.len());
            Ok(Some(()))
        })
        .await?;
    }
    Ok(())
}

/// Requires that two hosts answer one question only while a host that lives hands over to another
/// one, and that one host alone answers for the load balancer that does not move otherwise.
///
/// In a handover the former host may answer until it hears of the new one, which is until its own
/// last advert is too old at the latest.
fn unexpected_answers(answers: &[NeighborAnswer], moves: &[Move<'_>], stays_on: &Host) -> Vec<String> {
    let mut faults = Vec::new();
    let mut handovers: BTreeMap<(&str, IpAddr), (Instant, Duration)> = BTreeMap::new();
    for double in double_answers(answers) {
        let of_move = moves.iter().find(|each| each.is_handed_over && (each.from..each.to).contains(&double.at));
        let Some(Move { what, .. }) = of_move else {
            faults.push(format!("two hosts answered for an address: {double:?}"));
            continue;
        };
        let (began, took) = handovers.entry((what, double.address)).or_insert((double.at, Duration::ZERO));
        *took = double.at.duration_since(*began);
    }
    for ((what, address), (_, took)) in &handovers {
        println!("  {address}: {what}: two hosts answered for {} ms", took.as_millis());
        if *took > AdvertInterval::DEFAULT.fence() {
            faults.push(format!("{address}: two hosts answered for {took:?}"));
        }
    }
    let of_others = answers
        .iter()
        .filter(|answer| LoadBalancer::V6.addresses().contains(&answer.address) && answer.from != stays_on.mac());
    let is_explained = |answer: &&NeighborAnswer| handovers.keys().any(|(_, address)| *address == answer.address);
    faults
        .extend(of_others.filter(|answer| !is_explained(answer)).map(|answer| format!("it does not move: {answer:?}")));
    faults
}

/// Two hosts answered one question.
#[derive(Debug)]
struct DoubleAnswer {
    address: IpAddr,
    at: Instant,
}

fn double_answers(answers: &[NeighborAnswer]) -> Vec<DoubleAnswer> {
    let mut by_question: BTreeMap<(u64, IpAddr), Vec<&NeighborAnswer>> = BTreeMap::new();
    answers.iter().for_each(|answer| by_question.entry((answer.question, answer.address)).or_default().push(answer));
    let doubles = by_question.into_values().filter_map(|answers| {
        let (first, others) = answers.split_first()?;
        let double = others.iter().find(|other| other.from != first.from)?;
        Some(DoubleAnswer { address: first.address, at: double.at })
    });
    doubles.collect()
}
