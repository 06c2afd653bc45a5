//! The stand-in for AWS Elastic Load Balancing: a process of its own, with a
//! region for each test.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use http::{Request, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::Testbed;
use crate::component::Component;
use crate::http::send;

/// Python reads a hundred megabytes before it answers, on a machine that may be busy.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// The access key of the program under test. Calls with other keys meet no faults,
/// no latency and no throttling.
pub(crate) const CONTROLLER: &str = "CONTROLLER";

/// The stand-in for AWS. It ends when this is dropped.
///
/// It belongs to the runtime that it was started on.
pub struct AwsPeer {
    _process: Component,
    address: String,
    python: PathBuf,
}

impl AwsPeer {
    /// Starts it, and returns when it answers. The testbed must have been
    /// entered with [`Parts::aws`](crate::Parts::aws).
    pub async fn start(testbed: &Testbed) -> anyhow::Result<Self> {
        let python = testbed.assets.python()?.to_owned();
        let url_file = testbed.dir.join("aws.url");
        let program = sources().join("serve.py");
        let arguments = [program.to_string_lossy().into_owned(), url_file.to_string_lossy().into_owned()];
        let process = Component::of_program("aws-peer", &python, &testbed.logs, arguments).with_environment([
            ("PYTHONDONTWRITEBYTECODE", "yes"),
            ("AWS_CONFIG_FILE", "/dev/null"),
            ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"),
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ]);
        process.start()?;
        process.until_ready(READY_LIMIT, async || Ok(url_file.is_file().then_some(()))).await?;
        let url = fs::read_to_string(&url_file)?;
        let address = url.trim_start_matches("http://").to_owned();
        Ok(Self { _process: process, address, python })
    }

    /// What `AWS_ENDPOINT_URL` is to say.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The Python that has boto3, for scripts in `tests/aws-peer`.
    pub fn python(&self) -> &Path {
        &self.python
    }

    /// Makes a region that nobody else has, with a VPC, a security group, and
    /// a subnet in each of its zones (at most 6).
    pub async fn region(&self, zones: usize) -> anyhow::Result<AwsRegion> {
        let region: Region = ask(&self.address, "new-region", json!({"zones": zones})).await?;
        let Region { name, vpc, subnets, security_group } = region;
        Ok(AwsRegion { address: self.address.clone(), name, vpc, subnets, security_group })
    }
}

/// The folder of the stand-in's own program.
fn sources() -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../aws-peer")).to_owned()
}

#[derive(Deserialize)]
struct Region {
    name: String,
    vpc: String,
    subnets: Vec<String>,
    security_group: String,
}

/// One region of the stand-in, and what a test does with it.
#[derive(Clone, Debug)]
pub struct AwsRegion {
    address: String,
    /// Its name, as a class says it.
    pub name: String,
    /// The id of its VPC, which has the addresses that pods have.
    pub vpc: String,
    /// The ids of its subnets, one for each zone.
    pub subnets: Vec<String>,
    /// The id of its security group.
    pub security_group: String,
}

impl AwsRegion {
    /// What the environment of a process says, so that the AWS SDK in it finds
    /// the stand-in, and nothing else.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let fixed = [
            ("AWS_ACCESS_KEY_ID", CONTROLLER),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("AWS_CONFIG_FILE", "/dev/null"),
            ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"),
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ];
        let mut variables: Vec<_> = fixed.map(|(name, value)| (name, value.to_owned())).into();
        variables.push(("AWS_ENDPOINT_URL", format!("http://{}", self.address)));
        variables.push(("AWS_REGION", self.name.clone()));
        variables
    }

    /// What `AWS_ENDPOINT_URL` is to say.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Does a call of Elastic Load Balancing as a foreign user: by its name in
    /// boto3 (`create_listener`), and with its parameters.
    pub async fn call(&self, call: &str, parameters: Value) -> anyhow::Result<Value> {
        self.ask("call", json!({"call": call, "parameters": parameters})).await
    }

    /// The same for a call of EC2.
    pub async fn ec2(&self, call: &str, parameters: Value) -> anyhow::Result<Value> {
        self.ask("call", json!({"service": "ec2", "call": call, "parameters": parameters})).await
    }

    /// Starts so many EC2 instances in the first subnet, and returns their ids.
    pub async fn instances(&self, count: usize) -> anyhow::Result<Vec<String>> {
        self.ask("instances", json!({"subnet": self.subnets.first(), "count": count})).await
    }

    /// The calls so far of what is tried, in the order of their arrival.
    pub async fn log(&self) -> anyhow::Result<Vec<AwsCall>> {
        self.ask("log", json!({"who": CONTROLLER})).await
    }

    /// Empties the log.
    pub async fn forget(&self) -> anyhow::Result<()> {
        self.ask::<Value>("forget", json!({})).await.map(drop)
    }

    /// Changes settings: an object of those that `SETTINGS` in `regions.py`
    /// lists, and `Region` there explains. At first no call takes time or is
    /// throttled, and what is made is ready at once.
    pub async fn set(&self, settings: Value) -> anyhow::Result<()> {
        self.ask::<Value>("settings", settings).await.map(drop)
    }

    /// Makes calls go wrong from now on.
    pub async fn fault(&self, fault: &AwsFault) -> anyhow::Result<()> {
        self.ask::<Value>("fault", serde_json::to_value(fault)?).await.map(drop)
    }

    /// Ends the fault of this name. Calls that it holds are answered.
    pub async fn release(&self, fault: &str) -> anyhow::Result<()> {
        self.ask::<Value>("release", json!({"fault": fault})).await.map(drop)
    }

    /// How many calls the fault of this name has hit, if it was not released.
    pub async fn hits(&self, fault: &str) -> anyhow::Result<usize> {
        #[derive(Deserialize)]
        struct Seen {
            seen: usize,
        }
        let seen: Seen = self.ask("seen", json!({"fault": fault})).await?;
        Ok(seen.seen)
    }

    pub(crate) async fn ask<T: DeserializeOwned>(&self, verb: &str, mut request: Value) -> anyhow::Result<T> {
        request["region"] = json!(self.name);
        ask(&self.address, verb, request).await
    }
}

/// One call in the request log.
#[derive(Clone, Debug, Deserialize)]
pub struct AwsCall {
    /// Its place in the log, counted from 1.
    pub number: usize,
    /// When it came, in seconds since the start of the stand-in.
    pub seconds: f64,
    /// The action's name in the API: `CreateListener`.
    pub action: String,
    /// Its parameters by their names on the wire: `Targets.member.1.Id`.
    pub parameters: BTreeMap<String, String>,
    /// `ok`, the code of the error, or what a fault did: `lost`, `unreached`;
    /// empty while it is not answered.
    pub outcome: String,
}

impl AwsCall {
    /// Whether it only reads.
    pub fn reads(&self) -> bool {
        self.action.starts_with("Describe")
    }
}

/// Something that goes wrong with calls of some actions.
#[derive(Clone, Debug, Serialize)]
pub struct AwsFault {
    #[serde(rename = "fault")]
    name: String,
    actions: Vec<String>,
    kind: FaultKind,
    skip: usize,
    count: Option<usize>,
    parameters: BTreeMap<String, String>,
    code: String,
    message: String,
    status: u16,
}

/// What happens to a call that a fault hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// It is answered with an error, and does nothing.
    Error,
    /// The connection dies, and the call does nothing.
    Unreached,
    /// It is carried out, and the connection dies.
    Lost,
    /// It is carried out, and answered when the fault is released.
    Hold,
    /// It is carried out and answered when the fault is released.
    HoldBefore,
    /// It does nothing, and the connection dies when the fault is released.
    Stall,
}

impl AwsFault {
    /// A fault by this name that hits the next call of one of the actions,
    /// which can have wildcards as in a shell: `Create*`.
    pub fn new(name: &str, kind: FaultKind, actions: &[&str]) -> Self {
        Self {
            name: name.to_owned(),
            actions: actions.iter().map(|&action| action.to_owned()).collect(),
            kind,
            skip: 0,
            count: Some(1),
            parameters: BTreeMap::new(),
            code: "InternalFailure".to_owned(),
            message: "made to fail by the test".to_owned(),
            status: 500,
        }
    }

    /// A fault that answers with an error of this code.
    pub fn error(name: &str, actions: &[&str], code: &str, message: &str) -> Self {
        let status = if code == "AccessDenied" { 403 } else { 400 };
        let (code, message) = (code.to_owned(), message.to_owned());
        Self { code, message, status, ..Self::new(name, FaultKind::Error, actions) }
    }

    /// The same for calls alone that have this parameter, by its name on the wire.
    #[must_use]
    pub fn with(mut self, parameter: &str, value: &str) -> Self {
        self.parameters.insert(parameter.to_owned(), value.to_owned());
        self
    }

    /// The same after so many calls that it lets pass.
    #[must_use]
    pub fn after(self, skip: usize) -> Self {
        Self { skip, ..self }
    }

    /// The same for so many calls, or, with `None`, for all until it is released.
    #[must_use]
    pub fn times(self, count: Option<usize>) -> Self {
        Self { count, ..self }
    }
}

/// Asks the control side of the stand-in.
async fn ask<T: DeserializeOwned>(address: &str, verb: &str, request: Value) -> anyhow::Result<T> {
    let body = request.to_string();
    let asked = async || -> anyhow::Result<T> {
        let request = Request::post(format!("http://{address}/_peer/{verb}")).body(body.clone())?;
        let answer = send(request).await?;
        ensure!(answer.status() == StatusCode::OK, "{}", answer.body());
        Ok(serde_json::from_str(answer.body())?)
    };
    asked().await.with_context(|| format!("asking the stand-in for AWS to {verb}: {body}"))
}
