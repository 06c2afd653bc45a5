//! Asks the data path, all the time: the ports of claims at the addresses that
//! they report, from outside of the cluster, whether a controller runs or not.
//! The observer judges the answers (`observer/traffic.rs`).

use std::convert::Infallible;
use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};
use sharedlb_testbed::eventually;
use tokio::time::{Instant, sleep};

use crate::api::{Kind, text};
use crate::objects;
use crate::observer::Question;
use crate::stage::{LIMIT, Stage};

/// How many questions are under way at once, and the pause of each asker. That is
/// about 100 questions a second, which leaves the machine to what is tried.
const ASKERS: usize = 3;
const PAUSE: Duration = Duration::from_millis(25);

/// For how long a port is asked to which a team has just edited a Service, and how
/// often.
const INSISTING: Duration = Duration::from_millis(60);
const PAUSE_INSISTING: Duration = Duration::from_millis(4);

/// How often kube-proxy is tried, and how long it may take before it is tried again
/// from the beginning.
const BEAT: Duration = Duration::from_millis(250);
const BEAT_LIMIT: Duration = Duration::from_secs(3);
/// After it was away from the API server, kube-proxy gets all objects at once,
/// in no order: what it does about the first of them, it may do some milliseconds
/// before it knows the others.
const IN_NO_ORDER: Duration = Duration::from_millis(500);

/// Where the canary is.
const CANARY: &str = "canary";
/// The port of its pod.
const PORT: u16 = 8080;

/// What kube-proxy is tried by: a Service and an EndpointSlice that change all the
/// time.
pub(crate) struct Canary {
    address: String,
}

impl Canary {
    /// Makes it.
    pub(crate) async fn start(stage: &Stage) -> anyhow::Result<Self> {
        let server = &stage.server;
        server.create("", &objects::namespace(CANARY)).await?;
        server.create(CANARY, &pod()).await?;
        let pod = eventually("the canary's pod to run", LIMIT, async || {
            let pod = server.get(Kind::Pod, CANARY, CANARY).await?.unwrap_or_default();
            Ok(Some(text(&pod, "/status/podIP").to_owned()).filter(|address| !address.is_empty()))
        })
        .await?;
        server.create(CANARY, &service()).await?;
        server.create(CANARY, &slice(&pod)).await?;
        let service = server.get(Kind::Service, CANARY, CANARY).await?.context("the canary's Service")?;
        Ok(Self { address: text(&service, "/spec/clusterIP").to_owned() })
    }

    /// Gives the Service another port, and its slice the name of it, and waits until
    /// it answers there: then kube-proxy knows both, and all that was written before
    /// either. Returns the revision of the first.
    async fn beat(&self, stage: &Stage, number: u64) -> anyhow::Result<u64> {
        let (name, port) = (format!("beat-{number}"), u16::try_from(1000 + number % 30000)?);
        let ports = json!({"spec": {"ports": [{"name": name, "port": port, "targetPort": PORT}]}});
        let service = stage.server.change(Kind::Service, CANARY, CANARY, ports).await?;
        let ports = json!({"ports": [{"name": name, "port": PORT, "protocol": "TCP"}]});
        stage.server.change(Kind::Slice, CANARY, CANARY, ports).await?;
        let address = self.address.parse()?;
        eventually("the canary", BEAT_LIMIT, async || Ok(Some(stage.client.tcp(address, port).await?))).await?;
        Ok(text(&service, "/metadata/resourceVersion").parse()?)
    }

    /// Tries kube-proxy for ever, and tells the observer what it knows.
    async fn live(&self, stage: &Stage) -> Infallible {
        for number in 0.. {
            // The API server may be away.
            if let Ok(revision) = self.beat(stage, number).await {
                sleep(IN_NO_ORDER).await;
                stage.observer.kube_proxy_knows(revision);
            }
            sleep(BEAT).await;
        }
        std::future::pending().await
    }
}

/// Asks for ever.
pub(crate) async fn ask(stage: &Stage, canary: &Canary) -> Infallible {
    let askers = (0..ASKERS).map(|number| ask_in_turn(stage, number));
    tokio::join!(canary.live(stage), futures::future::join_all(askers)).0
}

/// Asks one port after the other.
async fn ask_in_turn(stage: &Stage, mut turn: usize) -> Infallible {
    loop {
        sleep(PAUSE).await;
        let mut questions = stage.observer.questions();
        turn = turn.wrapping_add(ASKERS);
        let Some(nth) = turn.checked_rem(questions.len()) else { continue };
        let question = questions.swap_remove(nth);
        let pod = answer(stage, &question).await;
        stage.observer.asked(question, pod.ok());
    }
}

/// Asks the ports of all claims with a number to which a team has just edited a
/// Service, for about as long as the controller takes to react.
pub(crate) async fn insist(stage: &Stage, number: u64) {
    let until = Instant::now() + INSISTING;
    while Instant::now() < until {
        for question in stage.observer.questions().into_iter().filter(|question| question.port() == number) {
            let pod = answer(stage, &question).await;
            stage.observer.asked(question, pod.ok());
        }
        sleep(PAUSE_INSISTING).await;
    }
}

/// The name of the pod that answers.
async fn answer(stage: &Stage, question: &Question) -> anyhow::Result<String> {
    let (address, port) = (question.address().parse()?, u16::try_from(question.port())?);
    let answer = match question.is_udp() {
        true => stage.client.udp(address, port).await?,
        false => stage.client.tcp(address, port).await?,
    };
    Ok(answer.name)
}

fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": CANARY},
        "spec": {"containers": [{"name": "main", "image": "testbed", "ports": [{"containerPort": PORT}]}]},
    })
}

fn service() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": CANARY},
        "spec": {
            "ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"],
            "ports": [{"name": "beat", "port": 999, "targetPort": PORT}],
        },
    })
}

fn slice(pod: &str) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": CANARY, "labels": {"kubernetes.io/service-name": CANARY}},
        "addressType": "IPv4", "endpoints": [{"addresses": [pod]}],
        "ports": [{"name": "beat", "port": PORT, "protocol": "TCP"}],
    })
}
