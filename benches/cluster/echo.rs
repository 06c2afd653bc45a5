//! The floor under every latency: a client of a few lines that patches a
//! constant into the status of each new object.
//!
//! Its objects are of a kind that is `SharedLB` but for the name of its group:
//! the API server has the same to do for both.

use std::time::{Duration, Instant};

use anyhow::Context;
use futures::StreamExt as _;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::conditions::is_crd_established;
use kube::runtime::wait::await_condition;
use kube::runtime::watcher::{Config, Event, watcher};
use kube::{Api, Client, CustomResourceExt as _, ResourceExt as _};
use serde_json::{Value, json};
use sharedlb_crds::SharedLB;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use crate::sightings::Sightings;
use crate::stage::{CONNECTIONS, PATIENCE, Stage, for_all};

const GROUP: &str = "echo.sharedlb.dev";
const NAMESPACE: &str = "echo";
const OTHERS: &str = "echo-others";

/// The client, and a watch that tells when it has answered.
pub(crate) struct Echo {
    client: Client,
    kind: ApiResource,
    answers: Sightings<DynamicObject>,
    answering: AbortHandle,
    made: usize,
}

impl Echo {
    /// Makes the kind, and starts the client.
    pub(crate) async fn start(stage: &Stage) -> anyhow::Result<Self> {
        stage.namespace(NAMESPACE).await?;
        stage.namespace(OTHERS).await?;
        make_kind(stage).await?;
        let claims = SharedLB::api_resource();
        let kind = GroupVersionKind::gvk(GROUP, &claims.version, &claims.kind);
        let kind = ApiResource::from_gvk_with_plural(&kind, &claims.plural);
        let client = stage.admin.clone();
        let objects = Api::namespaced_with(client.clone(), NAMESPACE, &kind);
        let answers = Sightings::start(objects.clone(), shown_by).await?;
        let (starts, has_started) = oneshot::channel();
        let answering = tokio::spawn(answer(objects, starts)).abort_handle();
        has_started.await.context("the echo ended")?;
        Ok(Self { client, kind, answers, answering, made: 0 })
    }

    /// Makes further objects, for the API server to hold as many of them as of
    /// claims. No client answers these.
    pub(crate) async fn surround(&self, count: usize) -> anyhow::Result<()> {
        for_all(0..count, CONNECTIONS, async |number| self.create(OTHERS, number).await.map(drop)).await
    }

    /// From the reply to the creation of an object until the watch shows the
    /// answer.
    pub(crate) async fn time_to_answer(&mut self) -> anyhow::Result<Duration> {
        let answer = self.answers.expect(answer_to(&name(self.made)));
        let replied = self.create(NAMESPACE, self.made).await?;
        self.made += 1;
        Ok(answer.wait(PATIENCE).await?.at.saturating_duration_since(replied))
    }

    async fn create(&self, namespace: &str, number: usize) -> anyhow::Result<Instant> {
        let spec =
            json!({"spec": {"className": "echo", "selector": {"app": name(number)}, "ports": [{"targetPort": 8080}]}});
        let object = DynamicObject::new(&name(number), &self.kind).within(namespace).data(spec);
        let objects: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &self.kind);
        objects.create(&PostParams::default(), &object).await?;
        Ok(Instant::now())
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.answering.abort();
    }
}

/// The client itself.
async fn answer(objects: Api<DynamicObject>, starts: oneshot::Sender<()>) {
    let mut starts = Some(starts);
    let mut events = watcher(objects.clone(), Config::default()).default_backoff().boxed();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(object)) if object.data.get("status").is_none() => {
                let answered = objects.patch_status(&object.name_any(), &PatchParams::default(), &constant()).await;
                if let Err(error) = answered {
                    eprintln!("bench: the echo: {error}");
                }
            }
            Ok(Event::InitDone) => drop(starts.take().map(|starts| starts.send(()))),
            Ok(_) => {}
            Err(error) => eprintln!("bench: the echo's watch: {error}"),
        }
    }
}

/// As much as a claim's status says.
fn constant() -> Patch<Value> {
    let condition = |kind: &str| {
        json!({
            "type": kind, "status": "True", "reason": kind, "message": "as asked for", "observedGeneration": 1,
            "lastTransitionTime": "2000-01-01T00:00:00Z",
        })
    };
    Patch::Merge(json!({"status": {
        "className": "echo",
        "loadBalancerIndex": 0,
        "address": "10.99.0.1",
        "summary": "20417/TCP→8080",
        "ports": [{"name": "", "protocol": "TCP", "port": 20417}],
        "observedGeneration": 1,
        "conditions": [condition("Allocated"), condition("Programmed"), condition("Ready")],
    }}))
}

async fn make_kind(stage: &Stage) -> anyhow::Result<()> {
    let mut crd = SharedLB::crd();
    let name = format!("{}.{GROUP}", crd.spec.names.plural);
    crd.metadata.name = Some(name.clone());
    crd.spec.group = GROUP.into();
    // Or kubectl would not know which of the two is meant.
    crd.spec.names.short_names = None;
    let crds: Api<CustomResourceDefinition> = Api::all(stage.admin.clone());
    crds.create(&PostParams::default(), &crd).await?;
    let established = await_condition(crds, &name, is_crd_established());
    tokio::time::timeout(PATIENCE, established).await.context("the echo's CRD to be established")??;
    Ok(())
}

fn name(number: usize) -> String {
    format!("echo-{number}")
}

fn answer_to(name: &str) -> String {
    format!("the answer to {name}")
}

fn shown_by(object: &DynamicObject) -> Vec<String> {
    object.data.get("status").map(|_| answer_to(&object.name_any())).into_iter().collect()
}
