//! The connection to the API server, as kubectl makes it.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// The flags of kubectl that say which API server, and as whom.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct ConnectionArgs {
    /// The kubeconfig file. Default: KUBECONFIG, ~/.kube/config, or the cluster
    /// that this process runs in.
    #[arg(long, global = true, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig. Default: its current one.
    #[arg(long, global = true, value_name = "NAME")]
    context: Option<String>,
    /// The cluster of the kubeconfig. Default: that of the context.
    #[arg(long, global = true, value_name = "NAME")]
    cluster: Option<String>,
    /// The user of the kubeconfig. Default: that of the context.
    #[arg(long, global = true, value_name = "NAME")]
    user: Option<String>,
    /// The user to impersonate.
    #[arg(long = "as", global = true, value_name = "USER")]
    impersonate: Option<String>,
    /// A group to impersonate; may be given several times.
    #[arg(long = "as-group", global = true, value_name = "GROUP", requires = "impersonate")]
    impersonate_groups: Vec<String>,
    /// The namespace. Default: that of the context.
    #[arg(long, short, global = true, value_name = "NAME")]
    namespace: Option<String>,
}

/// A client, and the namespace that the user is in.
pub(crate) struct Connection {
    /// The client
    pub(crate) client: Client,
    /// The namespace of `--namespace`, or of the context
    pub(crate) namespace: String,
}

impl ConnectionArgs {
    /// Reads the kubeconfig. Nothing is sent yet.
    ///
    /// # Errors
    /// If there is no usable kubeconfig.
    pub(crate) async fn connect(self) -> anyhow::Result<Connection> {
        let config = self.config().await.context("no usable kubeconfig")?;
        let namespace = self.namespace.unwrap_or_else(|| config.default_namespace.clone());
        Ok(Connection { client: Client::try_from(config)?, namespace })
    }

    /// The namespace that the command line names.
    pub(crate) fn given_namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    async fn config(&self) -> anyhow::Result<Config> {
        let options =
            KubeConfigOptions { context: self.context.clone(), cluster: self.cluster.clone(), user: self.user.clone() };
        let mut config = match &self.kubeconfig {
            Some(file) => Config::from_custom_kubeconfig(Kubeconfig::read_from(file)?, &options).await?,
            None if self.names_a_part() => Config::from_kubeconfig(&options).await?,
            None => Config::infer().await?,
        };
        if let Some(user) = &self.impersonate {
            config.auth_info.impersonate = Some(user.clone());
            config.auth_info.impersonate_groups =
                Some(self.impersonate_groups.clone()).filter(|groups| !groups.is_empty());
        }
        Ok(config)
    }

    /// Whether a part of the kubeconfig is named, so that there must be one.
    fn names_a_part(&self) -> bool {
        self.context.is_some() || self.cluster.is_some() || self.user.is_some()
    }
}
