//! A node in a network namespace of its own, as a second machine would be.

use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::Path;

use anyhow::anyhow;
use k8s_openapi::api::core::v1::Node;
use kube::api::DeleteParams;
use kube::{Api, Client};
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::assets::Binary;
use crate::cluster::Cluster;
use crate::component::Component;
use crate::control_plane::API_SERVER_PORT;
use crate::network::enter_namespace;
use crate::node::{add_node, kube_proxy_config};

/// A node in a network namespace of its own, with a kube-proxy and no pods. Its processes end
/// when this is dropped.
pub struct RemoteNode {
    name: String,
    client: Client,
    relay: JoinHandle<()>,
    kube_proxy: Component,
}

impl Cluster {
    /// Adds a node in the network namespace of the same name, which must have these addresses,
    /// and routes to those of the pods. Needs [`node`](crate::Parts::node).
    ///
    /// # Errors
    /// If the node cannot be created, or kube-proxy does not start.
    pub async fn remote_node(&self, name: &str, addresses: &[IpAddr]) -> anyhow::Result<RemoteNode> {
        add_node(self.admin(), name, addresses).await?;
        let testbed = self.testbed();
        let config = format!("--config={}", kube_proxy_config(testbed, name, self.kubeconfig())?.display());
        let program = testbed.assets.path(Binary::KubeProxy)?.display().to_string();
        let command = ["netns", "exec", name, &program, &config].map(str::to_owned);
        let kube_proxy = Component::of_program(format!("kube-proxy-{name}"), Path::new("ip"), &testbed.logs, command);
        let relay = relay_api_server(name).await?;
        kube_proxy.start()?;
        Ok(RemoteNode { name: name.to_owned(), client: self.admin(), relay, kube_proxy })
    }
}

impl RemoteNode {
    /// Ends its processes, and deletes the Node.
    ///
    /// # Errors
    /// If the Node cannot be deleted.
    pub async fn delete(self) -> anyhow::Result<()> {
        self.kube_proxy.stop().await?;
        Api::<Node>::all(self.client.clone()).delete(&self.name, &DeleteParams::default()).await?;
        Ok(())
    }
}

impl Drop for RemoteNode {
    fn drop(&mut self) {
        self.relay.abort();
    }
}

/// Makes the API server, which listens on the loopback device of the cluster's network
/// namespace, reachable at the same address in another one.
async fn relay_api_server(namespace: &str) -> anyhow::Result<JoinHandle<()>> {
    let api_server = (Ipv4Addr::LOCALHOST, API_SERVER_PORT);
    let namespace = namespace.to_owned();
    // A socket stays in the namespace that it was made in, and a thread of the runtime must not
    // be moved there.
    let listening = std::thread::spawn(move || {
        enter_namespace(&namespace)?;
        let listener = TcpListener::bind(api_server)?;
        listener.set_nonblocking(true)?;
        anyhow::Ok(listener)
    });
    let listener = listening.join().map_err(|_| anyhow!("the relay panicked"))??;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    Ok(tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            tokio::spawn(async move {
                if let Ok(mut onward) = TcpStream::connect(api_server).await {
                    // Either end may close it at any time.
                    _ = copy_bidirectional(&mut connection, &mut onward).await;
                }
            });
        }
    }))
}
