//! A cluster with a controller, and the plugin as users run it.

use std::path::Path;
use std::process::Output;
use std::sync::Arc;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::Api;
use kube::api::PostParams;
use serde_json::{Value, json};
use sharedlb_harness::{LIMIT, add_cloud, controller_kubeconfig, start_installed};
use sharedlb_testbed::{Cluster, Testbed, eventually};
use tokio::process::Command;

/// The plugin. Its folder is in the `PATH` of [`World::kubectl`].
const PLUGIN: &str = env!("CARGO_BIN_EXE_kubectl-sharedlb");

/// The port of the controller's pages. The network is the program's own.
const PORT: u16 = 18080;

/// A cluster with a controller.
pub(crate) struct World {
    pub(crate) cluster: Arc<Cluster>,
}

/// What the plugin printed, and how it ended.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) status: Option<i32>,
}

impl World {
    /// Starts the cluster, and the controller in this process.
    pub(crate) async fn start(testbed: Testbed) -> anyhow::Result<Self> {
        let cluster = start_installed(testbed).await?;
        add_cloud(&cluster).await?;
        let options = sharedlb::Options {
            listen: ([127, 0, 0, 1], PORT).into(),
            kubeconfig: Some(controller_kubeconfig(&cluster).await?),
            cluster_id: None,
            resync: LIMIT,
            aws_call_rate: 1.0,
            sources: sharedlb::EnabledSources { services: true, unclassed_services: false, config_maps: true },
            lease: None,
        };
        _ = rustls::crypto::ring::default_provider().install_default();
        tokio::spawn(async {
            if let Err(error) = sharedlb::run(options, std::future::pending()).await {
                eprintln!("the controller ended: {error:#}");
            }
        });
        Ok(Self { cluster })
    }

    /// Runs the plugin as the administrator.
    pub(crate) async fn plugin(&self, arguments: &[&str]) -> anyhow::Result<Answer> {
        plugin_as(self.cluster.kubeconfig(), arguments).await
    }

    /// Runs `kubectl` with the plugin in its `PATH`, as the administrator.
    pub(crate) async fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<Answer> {
        let folder = Path::new(PLUGIN).parent().context("the plugin is in a folder")?;
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::iter::once(folder.to_owned()).chain(std::env::split_paths(&path));
        let mut kubectl = Command::new(self.cluster.kubectl());
        kubectl.env("PATH", std::env::join_paths(folders)?).env("KUBECONFIG", self.cluster.kubeconfig());
        run(kubectl.args(arguments)).await
    }

    /// The report of the plugin as JSON, whatever it says.
    pub(crate) async fn report(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let answer = self.plugin(&[arguments, &["-o", "json"]].concat()).await?;
        serde_json::from_str(&answer.stdout).with_context(|| format!("{answer:?}"))
    }

    /// A user with this role of Kubernetes in one namespace, which must exist.
    pub(crate) async fn user(&self, namespace: &str, role: &str) -> anyhow::Result<User> {
        let admin = self.cluster.admin();
        let account: ServiceAccount = serde_json::from_value(json!({"metadata": {"name": role}}))?;
        Api::namespaced(admin.clone(), namespace).create(&PostParams::default(), &account).await?;
        let binding: RoleBinding = serde_json::from_value(json!({
            "metadata": {"name": role},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "ServiceAccount", "namespace": namespace, "name": role}],
        }))?;
        Api::namespaced(admin, namespace).create(&PostParams::default(), &binding).await?;
        let kubeconfig = self.cluster.kubeconfig_for_service_account(namespace, role).await?;
        let user = User { kubeconfig, namespace: namespace.to_owned() };
        eventually("the user to have the rights of the role", LIMIT, async || {
            let answer = user.plugin(&["status"]).await?;
            let of_namespace = format!("sharedlbs in namespace {namespace}");
            Ok((!answer.stderr.contains(&of_namespace)).then_some(()))
        })
        .await?;
        Ok(user)
    }
}

/// A user with rights in one namespace.
pub(crate) struct User {
    kubeconfig: std::path::PathBuf,
    namespace: String,
}

impl User {
    /// Runs the plugin as this user, in the user's namespace.
    pub(crate) async fn plugin(&self, arguments: &[&str]) -> anyhow::Result<Answer> {
        plugin_as(&self.kubeconfig, &[arguments, &["-n", &self.namespace]].concat()).await
    }
}

async fn plugin_as(kubeconfig: &Path, arguments: &[&str]) -> anyhow::Result<Answer> {
    let mut plugin = Command::new(PLUGIN);
    run(plugin.env("KUBECONFIG", kubeconfig).args(arguments)).await
}

async fn run(command: &mut Command) -> anyhow::Result<Answer> {
    command.kill_on_drop(true).env_remove("CLICOLOR_FORCE");
    let output = tokio::time::timeout(LIMIT, command.output());
    let Output { status, stdout, stderr } = output.await.with_context(|| format!("waiting for {command:?}"))??;
    Ok(Answer { stdout: String::from_utf8(stdout)?, stderr: String::from_utf8(stderr)?, status: status.code() })
}
