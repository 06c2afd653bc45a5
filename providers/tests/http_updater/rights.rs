//! The rights of the controller in its namespace.

use http::{HeaderValue, Request};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{Patch, PatchParams};
use kube::client::Body;
use kube::{Api, Client};
use serde_json::{Value, json};
use sharedlb_providers::{ChangeSet, Error, LoadBalancer, Provider, diff};
use sharedlb_testbed::eventually;

use crate::host::Host;
use crate::steps::{lb, listener, tcp, wanted};
use crate::{LIMIT, Test, tests};

pub(crate) const TESTS: &[(&str, Test)] = tests![each_right_that_is_missing_is_named];

/// A user who has the rights of a Role alone.
const USER: &str = "controller-of-the-test";

/// The rights of the Role in `deploy/http-updater`.
const VERBS: [&str; 4] = ["get", "create", "patch", "delete"];

/// The same client as another user.
fn as_user(client: Client) -> Client {
    let service = tower::service_fn(move |mut request: Request<Body>| {
        let client = client.clone();
        request.headers_mut().insert("impersonate-user", HeaderValue::from_static(USER));
        async move { client.send(request).await.map_err(tower::BoxError::from) }
    });
    Client::new(service, "default")
}

/// Gives the user exactly these rights to ConfigMaps, and waits until they are in force.
async fn grant(host: &Host, verbs: &[&str]) {
    let (client, namespace) = (host.server.client.clone(), &host.server.namespace);
    let params = PatchParams::apply("test").force();
    let object = |kind: &str, rest: Value| {
        let mut object = rest;
        object["apiVersion"] = json!("rbac.authorization.k8s.io/v1");
        object["kind"] = json!(kind);
        object["metadata"] = json!({"name": "controller"});
        object
    };
    let rules = json!({"rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": verbs}]});
    let roles: Api<Role> = Api::namespaced(client.clone(), namespace);
    roles.patch("controller", &params, &Patch::Apply(object("Role", rules))).await.expect("the Role is made");
    let binding = json!({
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "controller"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": USER}],
    });
    let bindings: Api<RoleBinding> = Api::namespaced(client.clone(), namespace);
    let binding = object("RoleBinding", binding);
    bindings.patch("controller", &params, &Patch::Apply(binding)).await.expect("the binding is made");
    for verb in VERBS {
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {"user": USER, "resourceAttributes": {"namespace": namespace, "verb": verb, "resource": "configmaps"}},
        });
        eventually(&format!("the right to {verb} to be as granted"), LIMIT, async || {
            let request = Request::post("/apis/authorization.k8s.io/v1/subjectaccessreviews")
                .header("content-type", "application/json")
                .body(review.to_string().into_bytes())?;
            let answer: Value = client.request(request).await?;
            Ok((answer["status"]["allowed"] == verbs.contains(&verb)).then_some(()))
        })
        .await
        .expect("it is in force");
    }
}

/// Creates a load balancer with a port, changes that, and deletes all.
async fn live(provider: &dyn Provider) -> Result<(), Error> {
    let mut found = LoadBalancer::default();
    for hosts in [vec![1], vec![2]] {
        let desired = wanted(provider, [(tcp(20000), listener("a", hosts))]);
        provider.observe(&lb(0)).await?;
        provider.apply(&lb(0), ChangeSet::new(&desired, &diff(&found, &desired))).await?;
        found = desired;
    }
    provider.delete(&lb(0)).await
}

async fn each_right_that_is_missing_is_named(host: &Host) {
    let client = as_user(host.server.client.clone());
    for missing in VERBS {
        let others: Vec<&str> = VERBS.into_iter().filter(|verb| *verb != missing).collect();
        grant(host, &others).await;
        let error = live(&host.provider_by(client.clone())).await;
        let why = match &error {
            Err(Error::Refused(why)) => why.to_string(),
            _ => panic!("without {missing}: {error:?}"),
        };
        assert!(why.contains(&format!("{missing} configmaps in namespace {}", host.server.namespace)), "{why}");
    }
    grant(host, &VERBS).await;
    live(&host.provider_by(client)).await.expect("these rights are enough");
    assert!(host.files().is_empty());
}
