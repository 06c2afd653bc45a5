//! `version`: of this plugin, and of the controller.

use clap::Args;
use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt as _;
use serde::Serialize;

use crate::output::{Document, Outcome, Report};
use crate::snapshot::Snapshot;

/// The version of this plugin, as in `Cargo.toml`.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit that was built, or `unknown`.
const COMMIT: &str = env!("SHAREDLB_COMMIT");

/// The label with the version of the controller.
const VERSION_LABEL: &str = "app.kubernetes.io/version";

#[derive(Debug, Args)]
pub(crate) struct VersionArgs {
    /// Only the version of this plugin. Nothing is read from the cluster.
    #[arg(long)]
    pub(crate) client: bool,
}

/// The versions of this plugin and of the controllers that can be seen.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Versions {
    plugin: &'static str,
    commit: &'static str,
    controllers: Vec<ControllerVersion>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ControllerVersion {
    /// Namespace, slash, name
    deployment: String,
    version: String,
    image: Option<String>,
}

impl Versions {
    /// Those of this plugin, and of the controllers in a snapshot.
    pub(crate) fn of(snapshot: &Snapshot) -> Self {
        let controllers = snapshot.deployments.items.iter().map(ControllerVersion::of).collect();
        Self { plugin: VERSION, commit: COMMIT, controllers }
    }
}

impl ControllerVersion {
    fn of(deployment: &Deployment) -> Self {
        let template = deployment.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
        Self {
            deployment: format!("{}/{}", deployment.namespace().unwrap_or_default(), deployment.name_any()),
            version: version_of(deployment).unwrap_or("unknown").to_owned(),
            image: template.and_then(|pod| pod.containers.first()?.image.clone()),
        }
    }
}

/// The version of a controller, by the label of its Deployment.
pub(crate) fn version_of(deployment: &Deployment) -> Option<&str> {
    deployment.labels().get(VERSION_LABEL).map(String::as_str)
}

impl Report for Versions {
    fn render(&self) -> Document {
        let mut document = Document::default();
        document.line(format!("Plugin: {} (commit {})", self.plugin, self.commit));
        for ControllerVersion { deployment, version, image } in &self.controllers {
            let image = image.as_ref().map(|image| format!(", image {image}")).unwrap_or_default();
            document.line(format!("Controller: {version} (Deployment {deployment}{image})"));
        }
        document
    }

    fn outcome(&self) -> Outcome {
        Outcome::Fine
    }
}
