//! The end: nobody disturbs any more, all converges, every port answers, and
//! nothing is left of what is deleted.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use sharedlb_testbed::eventually;
use tokio::time::Instant;

use crate::api::{Kind, entries, name, text};
use crate::objects::{
    self, BARE, BYSTANDERS, CLOUD, SYSTEM, claim_name, claim_of_service, class_name, has_condition, namespace_name,
    pod_name, pods_of, service_name,
};
use crate::owner;
use crate::plan::{CLAIMS, CLASSES, HandSlice, SERVICES, TEAMS, Target};
use crate::stage::Stage;
use crate::teams::{set_class, set_ready};
use crate::{cloud, services};

/// Within which all claims must be ready once all faults are over: a wait
/// of 60 s, the longest after a listener failed time after time, and as long
/// again for a machine that is busy.
pub(crate) const BOUND: Duration = Duration::from_secs(120);

/// The addresses of a Service.
const INGRESS: &str = "/status/loadBalancer/ingress";

/// How often each port is asked.
const QUESTIONS: usize = 3;

/// Undoes everything that is in the way of a claim's being served.
pub(crate) async fn calm(stage: &Stage) -> anyhow::Result<()> {
    owner::undo(stage).await?;
    cloud::undo(stage).await?;
    for team in 0..TEAMS {
        let namespace = namespace_name(team);
        services::let_all_go(stage, &namespace).await?;
        services::remove_slices(stage, &namespace).await?;
        stage.settle_team(team).await?;
        for claim in 0..CLAIMS {
            let pod = pod_name(team, claim, 0);
            let labels = json!({"metadata": {"labels": pods_of(claim)}});
            stage.server.change(Kind::Pod, &namespace, &pod, labels).await?;
            eventually(&format!("pod {pod} to run"), BOUND, async || {
                let found = stage.server.get(Kind::Pod, &namespace, &pod).await?.unwrap_or_default();
                Ok((text(&found, "/status/phase") == "Running").then_some(()))
            })
            .await?;
            set_ready(stage, &namespace, &pod, true).await?;
        }
    }
    stage.restore_fleeting().await?;
    for class in 0..CLASSES {
        set_class(stage, class, 0).await?;
    }
    for team in 0..TEAMS {
        for claim in 0..CLAIMS {
            stage.ensure(&namespace_name(team), &objects::claim(team, claim, 0)).await?;
            yield_number(stage, team, claim).await?;
        }
        for service in 0..SERVICES {
            services::set_ports(stage, team, service, objects::service_ports(team, service, service % 3)).await?;
        }
        // It has no selector, so that this must be of no use.
        let of = Target::Service(BARE);
        let slice = HandSlice { of, neighbour: Some((team + 1) % TEAMS), forged: team == 0 };
        services::write_slice(stage, team, 0, slice).await?.context("an EndpointSlice by hand")?;
    }
    Ok(())
}

/// A Service loses its address as soon as its claim is being deleted, however long
/// that takes.
pub(crate) async fn linger(stage: &Stage) -> anyhow::Result<()> {
    for team in 0..TEAMS {
        // It may be going already. And the controller may write it at the same moment.
        eventually("a claim to be held", BOUND, async || {
            services::hold(stage, team, CLAIMS).await?;
            Ok(Some(()))
        })
        .await?;
    }
    eventually("the Services of claims that are being deleted to lose their addresses", BOUND, async || {
        for team in 0..TEAMS {
            let namespace = namespace_name(team);
            for service in 0..SERVICES {
                let claim = stage.server.get(Kind::Claim, &namespace, &claim_of_service(service)).await?;
                let found = stage.server.get(Kind::Service, &namespace, &service_name(service)).await?;
                let found = found.unwrap_or_default();
                let goes = claim.is_none_or(|claim| claim["metadata"]["deletionTimestamp"].is_string());
                let status = &found["status"];
                ensure!(!goes || entries(&found, INGRESS).next().is_none(), "{namespace}/{}: {status}", name(&found));
            }
        }
        Ok(Some(()))
    })
    .await
}

/// Where no node port is left, what a claim gave back is closed all the same, also
/// while there is one that does not fit.
pub(crate) async fn cramp(stage: &Stage) -> anyhow::Result<()> {
    for (first, ports) in [(0, objects::HOGGED), (100, 1)] {
        for nth in first.. {
            match stage.server.create(BYSTANDERS, &objects::hog(nth, ports)).await {
                Err(kube::Error::Api(status)) if status.is_already_exists() => {}
                Err(kube::Error::Api(status)) if status.message.contains("range is full") => break,
                result => result.context("taking node ports")?,
            }
        }
    }
    let (namespace, crowded) = (namespace_name(0), claim_name(1));
    let ports: Vec<Value> = (0..4).map(|nth| json!({"name": format!("p{nth}"), "targetPort": "http"})).collect();
    stage.server.change(Kind::Claim, &namespace, &crowded, json!({"spec": {"ports": ports}})).await?;
    eventually("a claim to find no node port", BOUND, async || {
        let claim = stage.server.get(Kind::Claim, &namespace, &crowded).await?.unwrap_or_default();
        let refused = ["Allocated", "Programmed"].iter().any(|kind| has_condition(&claim, kind, "False"));
        ensure!(refused, "{}", describe(&claim));
        Ok(Some(()))
    })
    .await?;
    for team in 0..TEAMS {
        stage.server.delete(Kind::Claim, &namespace_name(team), &claim_name(0)).await?;
    }
    eventually("what is given back to be closed", BOUND, async || {
        let seen = stage.observer.seen().await?;
        ensure!(seen.unheld.is_empty(), "open, and nobody's: {:?}", seen.unheld);
        Ok(Some(()))
    })
    .await
}

/// Frees the node ports, and makes again what was deleted for want of them.
pub(crate) async fn make_room(stage: &Stage) -> anyhow::Result<()> {
    for service in stage.server.list(Kind::Service, BYSTANDERS, objects::HOG).await? {
        stage.server.delete(Kind::Service, BYSTANDERS, name(&service)).await?;
    }
    let ports = json!({"spec": {"ports": objects::ports_of(0, 1, 2)}});
    stage.server.change(Kind::Claim, &namespace_name(0), &claim_name(1), ports).await?;
    for team in 0..TEAMS {
        stage.ensure(&namespace_name(team), &objects::claim(team, 0, 1)).await?;
    }
    Ok(())
}

/// Not everybody can have a number that several ask for.
async fn yield_number(stage: &Stage, team: u64, claim: u64) -> anyhow::Result<()> {
    let (namespace, name) = (namespace_name(team), claim_name(claim));
    let found = stage.server.get(Kind::Claim, &namespace, &name).await?.unwrap_or_default();
    if entries(&found, "/spec/ports").any(objects::is_contended) {
        let patch = json!({"spec": {"ports": objects::ports_of(team, claim, 3)}});
        stage.server.change(Kind::Claim, &namespace, &name, patch).await?;
    }
    Ok(())
}

/// Waits until every claim is ready as it is, and every slot that is held has
/// its listener and no other one is open. Returns how long that took.
pub(crate) async fn converge(stage: &Stage) -> anyhow::Result<Duration> {
    let began = Instant::now();
    eventually("all claims to be ready", BOUND, async || {
        let claims = stage.server.list(Kind::Claim, "", "").await?;
        ensure!(claims.len() as u64 == TEAMS * (CLAIMS + SERVICES), "there are {} claims", claims.len());
        let waiting: Vec<String> = claims.iter().filter(|claim| !is_settled(claim)).map(describe).collect();
        ensure!(waiting.is_empty(), "{} are not: {waiting:#?}", waiting.len());
        Ok(Some(()))
    })
    .await?;
    eventually("the load balancers to be what the claims hold", BOUND, async || {
        let seen = stage.observer.seen().await?;
        ensure!(seen.unheld.is_empty(), "open, and nobody's: {:?}", seen.unheld);
        ensure!(seen.closed.is_empty(), "held, and not open: {:?}", seen.closed);
        ensure!(seen.by_hand.is_empty(), "with endpoints that were added by hand: {:?}", seen.by_hand);
        cloud::as_promised(stage, &stage.observer.at_aws()).await?;
        Ok(Some(()))
    })
    .await?;
    Ok(began.elapsed())
}

/// Whether it is ready; of a Service without a selector, that it has no backends; and of
/// a port that was to have TCP and UDP, that it goes on with one of them where the other
/// one is another claim's.
fn is_settled(claim: &Value) -> bool {
    let is_ready = |condition: &&Value| condition["type"] == "Ready";
    let ready = entries(claim, "/status/conditions").find(is_ready);
    let has_half =
        |ready: &Value| ready["reason"] == "PortTaken" && text(ready, "/message").contains("stays open as it is");
    let is_as_told = match ready {
        Some(ready) if ready["status"] == "True" => true,
        Some(ready) if is_bare(claim) => ready["reason"] == "NoBackends",
        Some(ready) => has_half(ready),
        None => false,
    };
    has_condition(claim, "Programmed", "True") && is_as_told
}

/// Whether it leads to a Service that has no selector.
fn is_bare(claim: &Value) -> bool {
    text(claim, "/spec/serviceName") == service_name(BARE)
}

fn describe(claim: &Value) -> String {
    let status = &claim["status"];
    format!("{}/{}: {} {status}", text(claim, "/metadata/namespace"), name(claim), claim["spec"])
}

/// Asks every port of every claim, from outside of the cluster, and requires
/// that pods answer which it sends its traffic to. (At AWS there is nobody to
/// ask.) Where there are no backends, no pod may answer. Returns how many ports.
pub(crate) async fn traffic(stage: &Stage) -> anyhow::Result<usize> {
    let mut asked = 0;
    for claim in stage.server.list(Kind::Claim, "", "").await? {
        let namespace = text(&claim, "/metadata/namespace").to_owned();
        let pods = if is_bare(&claim) { Vec::new() } else { pods(stage, &namespace, &claim).await? };
        let given: BTreeSet<_> = entries(&claim, "/status/ports").filter_map(|port| port["port"].as_u64()).collect();
        let served = entries(&claim, "/status/loadBalancer/ingress").flat_map(|ingress| entries(ingress, "/ports"));
        let served: BTreeSet<_> = served.filter_map(|port| port["port"].as_u64()).collect();
        ensure!(given == served && !given.is_empty(), "not all its ports have an address: {}", describe(&claim));
        if text(&claim, "/status/className") == class_name(CLOUD) {
            continue;
        }
        for ingress in entries(&claim, "/status/loadBalancer/ingress") {
            for port in entries(ingress, "/ports") {
                let number = u16::try_from(port["port"].as_u64().unwrap_or(0))?;
                ask(stage, text(ingress, "/ip"), (text(port, "/protocol"), number), &pods)
                    .await
                    .with_context(|| format!("claim {}", describe(&claim)))?;
                asked += 1;
            }
        }
    }
    Ok(asked)
}

/// The pods that a claim sends its traffic to.
async fn pods(stage: &Stage, namespace: &str, claim: &Value) -> anyhow::Result<Vec<String>> {
    let selector = match claim["spec"]["serviceName"].as_str() {
        Some(service) => {
            let service = stage.server.get(Kind::Service, namespace, service).await?.context("its Service")?;
            service["spec"]["selector"].clone()
        }
        None => claim["spec"]["selector"].clone(),
    };
    let labels = format!("app={}", text(&selector, "/app"));
    let pods = stage.server.list(Kind::Pod, namespace, &labels).await?;
    Ok(pods.iter().map(|pod| name(pod).to_owned()).collect())
}

async fn ask(stage: &Stage, ip: &str, (protocol, port): (&str, u16), pods: &[String]) -> anyhow::Result<()> {
    let address = ip.parse().with_context(|| format!("the address {ip:?}"))?;
    let answer = async || match protocol {
        "UDP" => stage.client.udp(address, port).await,
        _ => stage.client.tcp(address, port).await,
    };
    for _ in 0..QUESTIONS {
        if pods.is_empty() {
            let answered = answer().await.ok().map(|answer| answer.name);
            ensure!(answered.is_none(), "{ip}:{port}/{protocol} has no backends, and {answered:?} answers");
            continue;
        }
        // kube-proxy takes its time, and a datagram may be lost.
        eventually(&format!("one of {pods:?} to answer at {ip}:{port}/{protocol}"), BOUND, async || {
            let answer = answer().await?;
            ensure!(pods.contains(&answer.name), "{} answers", answer.name);
            Ok(Some(()))
        })
        .await?;
    }
    Ok(())
}

/// Deletes everything, and requires that nothing is left of it.
pub(crate) async fn clear(stage: &Stage) -> anyhow::Result<()> {
    for team in 0..TEAMS {
        for claim in 0..CLAIMS {
            stage.server.delete(Kind::Claim, &namespace_name(team), &claim_name(claim)).await?;
        }
        for service in 0..SERVICES {
            stage.server.delete(Kind::Service, &namespace_name(team), &service_name(service)).await?;
            stage.gone(Kind::Service, &namespace_name(team), &service_name(service)).await?;
        }
    }
    // The Services beside the claims are for Kubernetes' garbage collector.
    stage.cluster.restart_controller_manager().await?;
    eventually("nothing to be left of the claims", BOUND, async || {
        let server = &stage.server;
        let claims = server.list(Kind::Claim, "", "").await?;
        ensure!(claims.is_empty(), "{} claims", claims.len());
        let own = server.list(Kind::Service, "", "sharedlb.dev/claim").await?;
        ensure!(own.is_empty(), "Services of claims: {:?}", own.iter().map(name).collect::<Vec<_>>());
        let slices = server.list(Kind::Slice, SYSTEM, LEFT).await?;
        ensure!(slices.is_empty(), "EndpointSlices: {:?}", slices.iter().map(name).collect::<Vec<_>>());
        for class in server.list(Kind::Class, "", "").await? {
            let released = entries(&class, "/status/loadBalancers").flat_map(|each| entries(each, "/released")).count();
            let load_balancers = entries(&class, "/status/loadBalancers").count();
            ensure!(released == 0, "{released} ports of class {} still rest", name(&class));
            ensure!(load_balancers == 1, "class {} has {load_balancers} load balancers", name(&class));
        }
        Ok(Some(()))
    })
    .await?;
    for class in 0..CLASSES {
        stage.server.delete(Kind::Class, "", class_name(class)).await?;
    }
    eventually("nothing to be left of the classes", BOUND, async || {
        let classes = stage.server.list(Kind::Class, "", "").await?;
        ensure!(classes.is_empty(), "{} classes", classes.len());
        let fronts = stage.server.list(Kind::Service, "", LEFT).await?;
        ensure!(fronts.is_empty(), "Services: {:?}", fronts.iter().map(name).collect::<Vec<_>>());
        stage.observer.catch_up().await?;
        cloud::nothing_left(&stage.observer.at_aws())?;
        Ok(Some(()))
    })
    .await
}

/// Everything of ours bears this, and foreign objects that look like ours
/// do as well.
const LEFT: &str = "sharedlb.dev/cluster-id,sharedlb.dev/cluster-id!=another";
