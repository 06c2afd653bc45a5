//! The cluster, with SharedLB installed and running in it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use sharedlb_harness::{Controller, Launch, controller_kubeconfig};
use sharedlb_testbed::{Cluster, Testbed};

use crate::terminal::Terminal;

/// The port of health and metrics: the default one, for use from the shell.
const PORT: u16 = 8080;

/// Everything that the story and the shell need.
pub(crate) struct Stage {
    pub(crate) terminal: Terminal,
    controller: Controller,
    // Dropped last: the others use it.
    _cluster: Cluster,
}

impl Stage {
    /// Starts the cluster, installs SharedLB as an administrator would, and
    /// starts what the teams run.
    pub(crate) async fn set(testbed: Testbed) -> anyhow::Result<Self> {
        println!("Starting a cluster: etcd, kube-apiserver, kube-controller-manager, kube-proxy and MetalLB.");
        let cluster = Cluster::start(testbed).await?;
        let terminal = terminal(&cluster)?;
        let controller = install(&cluster, &terminal).await?;
        let stage = Self { terminal, controller, _cluster: cluster };
        match stage.offer().await {
            Ok(()) => Ok(stage),
            Err(error) => Err(stage.explain(error)),
        }
    }

    /// Offers a class, and starts the teams' workloads.
    async fn offer(&self) -> anyhow::Result<()> {
        let terminal = &self.terminal;
        terminal.headline("The administrator offers a class of shared load balancers");
        terminal.run("kubectl apply -f demo/manifests/class.yaml").await?;
        terminal.run("kubectl wait --for=condition=Ready slbc/shared --timeout=30s").await?;
        terminal.run("kubectl get slbc").await?;

        terminal.headline("Three teams run something, each in a namespace of its own");
        terminal.run("kubectl apply -f demo/manifests/workloads.yaml").await?;
        terminal.run("kubectl wait --for=condition=Available deployments -A -l team --timeout=30s").await?;
        terminal.run("kubectl get pods -A -l team").await?;
        Ok(())
    }

    /// Offers a class of virtual IP addresses. The clients send all their packets to the
    /// node, and so those for these addresses too.
    pub(crate) async fn offer_vips(&self) -> anyhow::Result<()> {
        let terminal = &self.terminal;
        terminal.headline("The administrator offers virtual IP addresses too, which the nodes themselves serve");
        terminal.run("kubectl apply -f demo/manifests/vip-class.yaml").await?;
        terminal.run("kubectl wait --for=condition=Ready slbc/vip --timeout=30s").await?;
        Ok(())
    }

    /// Where the controller's log is.
    pub(crate) fn controller_log(&self) -> &Path {
        self.controller.log_file()
    }

    /// An error, with what the controller said before it.
    pub(crate) fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        error.context(self.controller.log_tail())
    }

    /// Stops the controller in good order, and the cluster with the rest.
    pub(crate) async fn clear(self) -> anyhow::Result<()> {
        let log = self.controller.log_tail();
        let ended = self.controller.terminate().await?;
        ensure!(ended.success(), "the controller stopped with {ended}; {log}");
        Ok(())
    }
}

/// A terminal in which `kubectl` and `ask` work as they do in the story.
fn terminal(cluster: &Cluster) -> anyhow::Result<Terminal> {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR"));
    let kubeconfig = cluster.kubeconfig();
    let private = kubeconfig.parent().context("the cluster's files are in a folder")?;
    let mut path = OsString::from(demo.join("bin"));
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    Ok(Terminal {
        folder: demo.parent().context("the demo is in the repository")?.to_owned(),
        environment: vec![
            ("KUBECONFIG", kubeconfig.to_owned()),
            // What kubectl remembers of a cluster ends with the cluster.
            ("KUBECACHEDIR", private.join("kubectl-cache")),
            ("PATH", PathBuf::from(path)),
        ],
    })
}

/// Installs SharedLB from `deploy/`, and starts the controller.
async fn install(cluster: &Cluster, terminal: &Terminal) -> anyhow::Result<Controller> {
    terminal.headline("The administrator installs SharedLB");
    terminal.run("kubectl apply -k deploy").await?;
    terminal.note(
        "(No image is run on this machine, so the Deployment gets no pod. In its place runs the binary\n\
         that was just built, as the ServiceAccount of deploy/ and with no other rights than that has.)",
    );
    terminal.run("kubectl scale deployment sharedlb -n sharedlb-system --replicas=0").await?;
    // Cargo builds the controller beside the demo: `make bins`.
    let binary = std::env::current_exe()?.with_file_name("sharedlb");
    Launch::new(binary, controller_kubeconfig(cluster).await?, cluster).port(PORT).ready().await
}
