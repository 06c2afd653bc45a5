//! etcd's log, as its JSON gateway tells it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use axum::body::{Body, HttpBody};
use axum::http::Request;
use futures::StreamExt;
use k8s_openapi::ByteString;
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

/// Everything of Kubernetes, from `/registry/` to the next string that does not
/// begin so, in base 64.
const FIRST_KEY: &str = "L3JlZ2lzdHJ5Lw==";
const END_OF_KEYS: &str = "L3JlZ2lzdHJ5MA==";

/// How soon it is tried again to reach etcd.
const RETRY: Duration = Duration::from_millis(50);
/// How long it may take to answer.
const LIMIT: Duration = Duration::from_secs(2);
/// How often it is asked for its revision.
const TICK: Duration = Duration::from_millis(50);

/// etcd.
#[derive(Clone)]
pub(super) struct Etcd {
    client: Client,
}

/// One version of an object, or its end.
pub(super) struct Event {
    pub(super) revision: u64,
    /// `/registry/pods/team-0/web-0`
    pub(super) key: String,
    /// None: it was deleted
    pub(super) object: Option<Value>,
    /// When it was known here
    pub(super) received: Instant,
}

impl Etcd {
    pub(super) fn new(url: &str) -> anyhow::Result<Self> {
        let mut config = Config::new(url.parse().context("etcd's address")?);
        // A watch may have nothing to tell for long.
        config.read_timeout = None;
        Ok(Self { client: Client::try_from(config)? })
    }

    /// The revision that it has now.
    pub(super) async fn revision(&self) -> anyhow::Result<u64> {
        let answer = self.ask("/v3/kv/range", &json!({"key": FIRST_KEY, "keys_only": true, "limit": "1"})).await?;
        number(&answer["header"]["revision"])
    }

    /// Forgets all versions that are older than those of this revision.
    pub(super) async fn compact(&self, revision: u64) -> anyhow::Result<()> {
        match self.ask("/v3/kv/compaction", &json!({"revision": revision.to_string()})).await {
            // Nothing was written since the last time.
            Err(error) if error.to_string().contains("has been compacted") => Ok(()),
            other => other.map(drop),
        }
    }

    async fn ask(&self, path: &str, question: &Value) -> anyhow::Result<Value> {
        let request = Request::post(path).body(question.to_string().into_bytes())?;
        let text = timeout(LIMIT, self.client.request_text(request)).await??;
        Ok(serde_json::from_str(&text)?)
    }

    /// Tells everything from a revision on, until the connection ends. Returns
    /// the revision to go on from.
    async fn watch(&self, from: &mut u64, tell: &impl Fn(Event)) -> anyhow::Result<()> {
        let wanted = json!({"create_request": {
            "key": FIRST_KEY, "range_end": END_OF_KEYS, "start_revision": from.to_string(),
        }});
        let request = Request::post("/v3/watch").body(kube::client::Body::from(wanted.to_string().into_bytes()))?;
        let body = Body::new(self.client.send(request).await?.into_body());
        if body.is_end_stream() {
            bail!("it says nothing");
        }
        let (mut chunks, mut begun) = (body.into_data_stream(), Vec::new());
        while let Some(chunk) = chunks.next().await {
            begun.extend_from_slice(&chunk?);
            while let Some(end) = begun.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = begun.drain(..=end).collect();
                take(&serde_json::from_slice(&line)?, from, tell)?;
            }
        }
        bail!("the watch has ended")
    }
}

/// Takes in one answer of a watch.
fn take(answer: &Value, from: &mut u64, tell: &impl Fn(Event)) -> anyhow::Result<()> {
    let result = &answer["result"];
    if result["canceled"] == true || result.is_null() {
        // The tests compact only what was seen.
        bail!("etcd does not tell: {answer}");
    }
    let received = Instant::now();
    for event in result["events"].as_array().into_iter().flatten() {
        let revision = number(&event["kv"]["mod_revision"])?;
        let deleted = event["type"] == "DELETE";
        let object = if deleted { None } else { Some(&event["kv"]["value"]) };
        let object = object.map(|value| anyhow::Ok(serde_json::from_slice(&bytes(value)?).unwrap_or(Value::Null)));
        let key = String::from_utf8(bytes(&event["kv"]["key"])?)?;
        tell(Event { revision, key, object: object.transpose()?, received });
        // A write may have several events, which arrive together.
        *from = revision + 1;
    }
    Ok(())
}

/// Tells every event in order, for ever. What breaks off goes on.
pub(super) async fn follow(etcd: Etcd, tell: impl Fn(Event)) {
    let mut from = 1;
    loop {
        if let Err(error) = etcd.watch(&mut from, &tell).await
            && error.to_string().contains("etcd does not tell")
        {
            eprintln!("chaos: the observer, from revision {from}: {error:#}");
        }
        sleep(RETRY).await;
    }
}

/// Knows at which times which revisions had not been written yet.
#[derive(Default)]
pub(super) struct Clock(Mutex<VecDeque<(Instant, u64)>>);

impl Clock {
    /// A time before which the revision had not been written.
    pub(super) fn not_before(&self, revision: u64) -> Option<Instant> {
        let ticks = self.lock();
        let later = ticks.partition_point(|(_, written)| *written < revision);
        ticks.get(later.checked_sub(1)?).map(|(asked, _)| *asked)
    }

    /// A time before which nothing was written that came after this revision.
    pub(super) fn seen_all_before(&self, revision: u64) -> Option<Instant> {
        let ticks = self.lock();
        let later = ticks.partition_point(|(_, written)| *written <= revision);
        ticks.get(later.checked_sub(1)?).map(|(asked, _)| *asked)
    }

    /// Goes on for ever.
    pub(super) async fn run(self: Arc<Self>, etcd: Etcd) {
        loop {
            let asked = Instant::now();
            if let Ok(revision) = etcd.revision().await {
                self.lock().push_back((asked, revision));
            }
            sleep(TICK).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(Instant, u64)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn number(value: &Value) -> anyhow::Result<u64> {
    value.as_str().and_then(|text| text.parse().ok()).with_context(|| format!("{value} is no number"))
}

fn bytes(value: &Value) -> anyhow::Result<Vec<u8>> {
    let ByteString(bytes) = serde_json::from_value(value.clone())?;
    Ok(bytes)
}
