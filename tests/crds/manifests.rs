//! The manifests of `deploy/` and `crds/`.

use anyhow::{Context, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use libtest_mimic::Trial;
use sharedlb_harness::{Tests, definitions_established, repository};
use sharedlb_testbed::Cluster;

/// Installs everything as the README says, and waits until claims and classes
/// can be created.
pub(crate) async fn install(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.kubectl_output(&["apply", "-k", &repository("deploy")?]).await?;
    // The rights of providers that are not installed by default.
    for rights in ["deploy/gcp/rbac.yaml", "deploy/http-updater/rbac.yaml"] {
        cluster.kubectl_output(&["apply", "-f", &repository(rights)?]).await?;
    }
    definitions_established(cluster).await
}

pub(crate) fn trials(test: &Tests<Cluster>) -> Vec<Trial> {
    vec![
        test.test("kubectl apply -f crds/ installs the definitions too", |cluster| async move {
            let folder = repository("crds")?;
            let said = cluster.kubectl_output(&["apply", "--dry-run=server", "-f", &folder]).await?;
            ensure!(said.lines().count() == sharedlb_crds::crds().len(), "{said}");
            Ok(())
        }),
        test.test("the definitions in the cluster are those of the Rust types", |cluster| async move {
            let installed: Api<CustomResourceDefinition> = Api::all(cluster.admin());
            for crd in sharedlb_crds::crds() {
                let name = crd.metadata.name.context("a definition has a name")?;
                let versions = installed.get(&name).await?.spec.versions;
                ensure!(versions == crd.spec.versions, "{name} is another one in the cluster");
            }
            Ok(())
        }),
        test.test("everything in deploy/ passes strict validation", |cluster| async move {
            let folder = repository("deploy")?;
            cluster.kubectl_output(&["apply", "--dry-run=server", "--validate=strict", "-k", &folder]).await?;
            Ok(())
        }),
        test.test("the example class and the example claims pass strict validation", |cluster| async move {
            let folder = repository("deploy/examples")?;
            let said =
                cluster.kubectl_output(&["apply", "--dry-run=server", "--validate=strict", "-f", &folder]).await?;
            ensure!(said.lines().count() == 5, "one class and four claims: {said}");
            Ok(())
        }),
        test.test("deploy/aws offers a class, and gives the controller its role", |cluster| async move {
            let built = with_component(&cluster, "deploy/aws").await?;
            let account = built.split("\n---\n").find(|object| object.contains("kind: ServiceAccount\n"));
            ensure!(account.is_some_and(|account| account.contains("eks.amazonaws.com/role-arn:")), "{account:?}");
            Ok(())
        }),
        test.test(
            "deploy/gcp offers a class, and gives the controller its service account and rights",
            |cluster| async move {
                let built = with_component(&cluster, "deploy/gcp").await?;
                let account = built.split("\n---\n").find(|object| object.contains("kind: ServiceAccount\n"));
                ensure!(
                    account.is_some_and(|account| account.contains("iam.gke.io/gcp-service-account:")),
                    "{account:?}"
                );
                ensure!(built.contains("name: sharedlb-gcp\n"), "the Role is missing: {built}");
                Ok(())
            },
        ),
        test.test("deploy/http-updater offers a class, and gives the controller its rights", |cluster| async move {
            let built = with_component(&cluster, "deploy/http-updater").await?;
            let is_role =
                |object: &&str| object.contains("kind: Role\n") && object.contains("name: sharedlb-http-updater\n");
            let role = built.split("\n---\n").find(is_role).context("the Role is missing")?;
            ensure!(role.contains("resourceNames:\n  - updater\n"), "it may not read the Secret alone: {role}");
            Ok(())
        }),
        test.test("when a node is drained or lost, a replica remains on another node", |cluster| async move {
            let (client, namespace) = (cluster.admin(), "sharedlb-system");
            let deployment = Api::<Deployment>::namespaced(client.clone(), namespace).get("sharedlb").await?;
            let spec = deployment.spec.context("it has a spec")?;
            ensure!(spec.replicas == Some(2), "{:?} replicas", spec.replicas);
            let budget = Api::<PodDisruptionBudget>::namespaced(client, namespace).get("sharedlb").await?;
            let budget = budget.spec.context("the budget has a spec")?;
            ensure!(budget.max_unavailable == Some(IntOrString::Int(1)), "{budget:?}");
            let labels = spec.template.metadata.context("the pods have metadata")?.labels;
            let spread = spec.template.spec.context("the pods have a spec")?.topology_spread_constraints;
            let spread = spread.unwrap_or_default();
            ensure!(spread.len() == 2, "spread by host and by zone: {spread:?}");
            for selector in spread.into_iter().map(|each| each.label_selector).chain([budget.selector]) {
                let selector = selector.context("it has a selector")?.match_labels;
                ensure!(selector == labels, "{selector:?} is to select the pods with {labels:?}");
            }
            Ok(())
        }),
        test.test("the controller's pod meets the restricted pod security standard", |cluster| async move {
            let deployments: Api<Deployment> = Api::namespaced(cluster.admin(), "sharedlb-system");
            let template = deployments.get("sharedlb").await?.spec.context("it has a spec")?.template;
            // The namespace enforces the standard, so being admitted is the proof.
            let pod = Pod {
                metadata: ObjectMeta { name: Some("sharedlb".into()), ..ObjectMeta::default() },
                spec: template.spec,
                ..Pod::default()
            };
            let pods: Api<Pod> = Api::namespaced(cluster.admin(), "sharedlb-system");
            pods.create(&PostParams { dry_run: true, ..PostParams::default() }, &pod).await?;
            Ok(())
        }),
    ]
}

/// Checks the class of a folder, and returns all objects of `deploy/` with the folder as a
/// component, as a kustomization of a user's own has them, in a folder elsewhere.
async fn with_component(cluster: &Cluster, component: &str) -> anyhow::Result<String> {
    let class = repository(&format!("{component}/class.yaml"))?;
    cluster.kubectl_output(&["apply", "--dry-run=server", "--validate=strict", "-f", &class]).await?;
    let folder = tempfile::tempdir()?;
    let root = "../".repeat(folder.path().components().count() - 1);
    let (all, component) = (repository("deploy")?, repository(component)?);
    let text = format!("resources: ['{root}{}']\ncomponents: ['{root}{}']\n", &all[1..], &component[1..]);
    std::fs::write(folder.path().join("kustomization.yaml"), text)?;
    cluster.kubectl_output(&["kustomize", &folder.path().to_string_lossy()]).await
}
