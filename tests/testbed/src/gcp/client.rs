//! Google's own Python client, as a process that carries out calls.

use std::fmt;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::Mutex;

use super::tokens::ACCOUNT;
use super::{GcpProject, GoogleUser};

/// Prints the private key of a service account.
const NEW_KEY: &str = "
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
print(key.private_bytes(pem, pkcs8, serialization.NoEncryption()).decode())
";

/// Google's own Python client. It ends when this is dropped.
pub struct GoogleClient {
    process: Mutex<Process>,
}

struct Process {
    _child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

/// Why the client did not get a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoogleError {
    /// The HTTP status; 0: there was no answer, or the client has not sent the call.
    pub status: u16,
    /// `errors[].reason` of the answer; without one, the name of the client's exception.
    pub reason: String,
    /// What the answer or the exception says.
    pub message: String,
}

impl fmt::Display for GoogleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.status, self.reason, self.message)
    }
}

impl std::error::Error for GoogleError {}

impl GoogleClient {
    pub(super) fn start(python: &Path) -> anyhow::Result<Self> {
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/../gcp-peer/client.py");
        let mut command = Command::new(python);
        command.arg(program).env("PYTHONDONTWRITEBYTECODE", "yes");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("starting {}", python.display()))?;
        let input = child.stdin.take().context("it has no standard input")?;
        let output = BufReader::new(child.stdout.take().context("it has no standard output")?).lines();
        Ok(Self { process: Mutex::new(Process { _child: child, input, output }) })
    }

    /// Does a call as a user, by the names that the client has: `addresses`, `insert`, and an
    /// object with the arguments. `project` need not be among them.
    ///
    /// # Errors
    /// What Google or its client answers.
    pub async fn call(
        &self,
        project: &GcpProject,
        user: GoogleUser,
        resource: &str,
        method: &str,
        arguments: Value,
    ) -> Result<Value, GoogleError> {
        let token = json!({"token": project.token(user)});
        self.execute(project, token, resource, method, arguments).await
    }

    /// The same with the key of a service account, for which the client gets a token.
    ///
    /// # Errors
    /// What Google or its client answers.
    pub async fn call_with_key(
        &self,
        project: &GcpProject,
        key: &Value,
        resource: &str,
        method: &str,
        arguments: Value,
    ) -> Result<Value, GoogleError> {
        let mut key = key.clone();
        key["token_uri"] = json!(format!("{}/token", project.url()));
        self.execute(project, json!({"key": key}), resource, method, arguments).await
    }

    async fn execute(
        &self,
        project: &GcpProject,
        mut call: Value,
        resource: &str,
        method: &str,
        mut arguments: Value,
    ) -> Result<Value, GoogleError> {
        if arguments.get("project").is_none() {
            arguments["project"] = json!(project.layout().project);
        }
        call["url"] = json!(project.url());
        call["resource"] = json!(resource);
        call["method"] = json!(method);
        call["arguments"] = arguments;
        let answer = self.exchange(&call).await.map_err(|error| GoogleError {
            status: 0,
            reason: "process".to_owned(),
            message: format!("{error:#}"),
        })?;
        match answer.get("error") {
            None => Ok(answer["result"].clone()),
            Some(error) => Err(GoogleError {
                status: error["status"].as_u64().and_then(|status| u16::try_from(status).ok()).unwrap_or_default(),
                reason: error["reason"].as_str().unwrap_or_default().to_owned(),
                message: error["message"].as_str().unwrap_or_default().to_owned(),
            }),
        }
    }

    async fn exchange(&self, call: &Value) -> anyhow::Result<Value> {
        let mut process = self.process.lock().await;
        process.input.write_all(format!("{call}\n").as_bytes()).await?;
        process.input.flush().await?;
        let line = process.output.next_line().await?.context("Google's client has ended")?;
        Ok(serde_json::from_str(&line)?)
    }
}

/// A new key of the service account of the program under test, as Google hands it out.
pub(super) async fn service_account_key(python: &Path) -> anyhow::Result<Value> {
    let output = Command::new(python).args(["-c", NEW_KEY]).output().await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(json!({
        "type": "service_account",
        "project_id": "test-project",
        "private_key_id": "key-1",
        "private_key": String::from_utf8(output.stdout)?,
        "client_email": ACCOUNT,
        "client_id": "1",
        "token_uri": "https://oauth2.googleapis.com/token",
    }))
}
