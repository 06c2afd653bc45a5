//! A project, and Google's client as the program under test.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context, ensure};
use http::Request;
use http_body_util::BodyExt as _;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use sharedlb_testbed::{GcpProject, GoogleClient, GoogleError, GoogleUser};

pub(crate) const REGION: &str = "europe-west9";
pub(crate) const ZONE: &str = "europe-west9-a";

/// The project of a test.
pub(crate) struct Google {
    pub(crate) project: GcpProject,
    pub(crate) client: Arc<GoogleClient>,
    /// Of the service account of the program under test.
    pub(crate) key: Arc<Value>,
}

impl Google {
    /// Does a call.
    pub(crate) async fn call(&self, resource: &str, method: &str, arguments: Value) -> Result<Value, GoogleError> {
        self.client.call(&self.project, GoogleUser::Controller, resource, method, arguments).await
    }

    /// Does a call, and waits for its operation.
    pub(crate) async fn change(&self, resource: &str, method: &str, arguments: Value) -> anyhow::Result<Value> {
        let begun = self.call(resource, method, arguments).await;
        let begun = begun.with_context(|| format!("{resource}.{method}"))?;
        let done = self.wait(&begun).await?;
        ensure!(done.get("error").is_none(), "{resource}.{method}: {done}");
        Ok(done)
    }

    /// Sends a request that Google's client would not send: `path` is all behind the host.
    pub(crate) async fn send(
        &self,
        verb: &str,
        path: &str,
        header: (&str, &str),
        body: &str,
    ) -> anyhow::Result<(u16, Value)> {
        let request = Request::builder().method(verb).uri(format!("{}{path}", self.project.url()));
        let request = request.header(header.0, header.1).body(body.to_owned())?;
        let (head, body) = Client::builder(TokioExecutor::new()).build_http().request(request).await?.into_parts();
        Ok((head.status.as_u16(), serde_json::from_slice(&body.collect().await?.to_bytes())?))
    }

    /// Waits for the end of an operation.
    pub(crate) async fn wait(&self, operation: &Value) -> anyhow::Result<Value> {
        let name = json!(operation["name"]);
        let done = match (&operation["region"], &operation["zone"]) {
            (Value::String(_), _) => {
                self.call("regionOperations", "wait", json!({"region": REGION, "operation": name}))
            }
            (_, Value::String(_)) => self.call("zoneOperations", "wait", json!({"zone": ZONE, "operation": name})),
            _ => self.call("globalOperations", "wait", json!({"operation": name})),
        };
        let done = done.await?;
        ensure!(done["status"] == "DONE", "{done}");
        Ok(done)
    }

    /// Creates a load balancer of this name with one instance.
    pub(crate) async fn create_chain(&self, name: &str) -> anyhow::Result<()> {
        self.project.add_instance(ZONE, "node-1", IpAddr::from([10, 128, 0, 201]));
        self.change("addresses", "insert", in_region(address(name))).await?;
        self.change("regionHealthChecks", "insert", in_region(health_check(name))).await?;
        self.change("networkEndpointGroups", "insert", json!({"zone": ZONE, "body": group(name)})).await?;
        self.change("networkEndpointGroups", "attachNetworkEndpoints", attached(name)).await?;
        self.change("regionBackendServices", "insert", in_region(backend_service(name))).await?;
        self.change("forwardingRules", "insert", in_region(forwarding_rule(name, "203.0.113.1"))).await?;
        self.change("firewalls", "insert", json!({"body": firewall(name, "203.0.113.1")})).await?;
        Ok(())
    }

    /// Asserts that a call is refused with this status and reason, and returns the message.
    pub(crate) async fn refused(
        &self,
        resource: &str,
        method: &str,
        arguments: Value,
        status: u16,
        reason: &str,
    ) -> anyhow::Result<String> {
        let call = format!("{resource}.{method} {arguments}");
        let error = self.call(resource, method, arguments).await.err();
        let error = error.with_context(|| format!("{call} was accepted"))?;
        ensure!((error.status, error.reason.as_str()) == (status, reason), "{call}: {error}");
        Ok(error.message)
    }
}

pub(crate) fn in_region(body: Value) -> Value {
    json!({"region": REGION, "body": body})
}

pub(crate) fn address(name: &str) -> Value {
    json!({"name": name, "addressType": "EXTERNAL", "networkTier": "PREMIUM", "description": "ours"})
}

pub(crate) fn health_check(name: &str) -> Value {
    json!({
        "name": name, "type": "HTTP", "httpHealthCheck": {"port": 10256, "requestPath": "/healthz"},
        "checkIntervalSec": 8, "timeoutSec": 1, "healthyThreshold": 1, "unhealthyThreshold": 3,
    })
}

pub(crate) fn group(name: &str) -> Value {
    json!({
        "name": name, "networkEndpointType": "GCE_VM_IP", "network": "projects/test-project/global/networks/net",
        "subnetwork": format!("projects/test-project/regions/{REGION}/subnetworks/nodes"),
    })
}

/// The arguments that attach the instance.
pub(crate) fn attached(group: &str) -> Value {
    json!({
        "zone": ZONE, "networkEndpointGroup": group, "body": {"networkEndpoints": [{"instance": "node-1"}]},
    })
}

pub(crate) fn backend_service(name: &str) -> Value {
    json!({
        "name": name, "protocol": "UNSPECIFIED", "loadBalancingScheme": "EXTERNAL", "sessionAffinity": "NONE",
        "healthChecks": [format!("projects/test-project/regions/{REGION}/healthChecks/{name}")],
        "backends": [{"group": format!("projects/test-project/zones/{ZONE}/networkEndpointGroups/{name}")}],
    })
}

pub(crate) fn forwarding_rule(name: &str, address: &str) -> Value {
    json!({
        "name": name, "loadBalancingScheme": "EXTERNAL", "IPAddress": address, "IPProtocol": "L3_DEFAULT",
        "allPorts": true, "networkTier": "PREMIUM",
        "backendService": format!("projects/test-project/regions/{REGION}/backendServices/{name}"),
    })
}

pub(crate) fn firewall(name: &str, address: &str) -> Value {
    json!({
        "name": name, "network": "global/networks/net", "direction": "INGRESS", "priority": 900,
        "sourceRanges": ["0.0.0.0/0"], "destinationRanges": [format!("{address}/32")], "targetTags": ["nodes"],
        "allowed": [{"IPProtocol": "tcp", "ports": ["5432", "26311-26320"]}],
    })
}
