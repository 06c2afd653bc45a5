//! The testbed does what the other tests rely on.
//!
//! One cluster serves all of these tests, so they run one after the other.

use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Service};
use kube::api::{DeleteParams, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Config};
use libtest_mimic::{Arguments, Trial};
use sharedlb_testbed::{Cluster, Families, NODE, Parts, PodPort, PodSpec, enter, eventually};
use tokio::runtime::Runtime;

/// With this variable the program holds a cluster until it is killed.
const HOLD: &str = "SHAREDLB_TESTBED_HOLD";

const LIMIT: Duration = Duration::from_secs(20);

fn main() -> anyhow::Result<()> {
    if std::env::var_os(HOLD).is_some() {
        return hold_a_cluster();
    }
    let testbed = enter(Parts::ALL)?;
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let runtime = Arc::new(Runtime::new()?);
    let cluster = Arc::new(runtime.block_on(Cluster::start(testbed))?);
    let test = |name: &str, test: for<'a> fn(&'a Cluster) -> BoxFuture<'a, anyhow::Result<()>>| {
        let (runtime, cluster) = (runtime.clone(), cluster.clone());
        Trial::test(name, move || Ok(runtime.block_on(test(&cluster)).map_err(|error| format!("{error:#}"))?))
    };
    let tests = vec![
        test("a_load_balancer_reaches_the_pods_of_its_slices", |c| Box::pin(a_load_balancer(c))),
        test("a_killed_pod_is_refused_and_the_others_answer", |c| Box::pin(a_killed_pod(c))),
        test("an_unready_pod_gets_no_traffic", |c| Box::pin(an_unready_pod(c))),
        test("a_terminating_pod_serves_until_it_is_deleted", |c| Box::pin(a_terminating_pod(c))),
        test("a_pod_can_have_one_family_only", |c| Box::pin(one_family(c))),
        test("a_deployment_replaces_a_deleted_pod", |c| Box::pin(a_deployment(c))),
        test("node_ports_of_every_node_answer", |c| Box::pin(node_ports(c))),
        test("a_deleted_namespace_goes_with_its_pods", |c| Box::pin(a_deleted_namespace(c))),
        test("a_service_account_has_its_own_rights_only", |c| Box::pin(a_service_account(c))),
        test("the_api_server_comes_back_with_what_it_had", |c| Box::pin(an_api_server(c))),
        test("a_killed_run_leaves_no_process", |c| Box::pin(a_killed_run(c))),
    ];
    let conclusion = libtest_mimic::run(&arguments, tests);
    conclusion.exit()
}

async fn a_load_balancer(cluster: &Cluster) -> anyhow::Result<()> {
    namespace(cluster, "slices").await?;
    let ports = |name| pod("slices", name).port(PodPort::tcp("redis", 6379)).port(PodPort::udp("dns", 53));
    let one = cluster.pod(ports("one")).await?;
    let two = cluster.pod(ports("two")).await?;
    cluster
        .apply(
            "{apiVersion: v1, kind: Service, metadata: {name: lb, namespace: slices},
              spec: {type: LoadBalancer, ipFamilyPolicy: PreferDualStack, allocateLoadBalancerNodePorts: false,
                     ports: [{name: a, port: 20001}, {name: b, port: 20002, protocol: UDP}]}}",
        )
        .await?;
    for (family, index) in [("IPv4", 0), ("IPv6", 1)].into_iter().take(families(cluster)) {
        for (port, protocol, number, pod) in [("a", "TCP", 6379, &one), ("b", "UDP", 53, &two)] {
            let slice = format!(
                "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: {family},
                   metadata: {{name: \"lb-{port}-{index}\", namespace: slices,
                               labels: {{kubernetes.io/service-name: lb}}}},
                   ports: [{{name: {port}, port: {number}, protocol: {protocol}}}],
                   endpoints: [{{addresses: [\"{}\"], conditions: {{ready: true}}}}]}}",
                pod.addresses[index]
            );
            cluster.apply(&slice).await?;
        }
    }
    let client = cluster.client()?;
    for address in load_balancer_addresses(cluster, "slices", "lb").await? {
        let answer = eventually("TCP", LIMIT, async || Ok(Some(client.tcp(address, 20001).await?))).await?;
        ensure!(answer.name == "one", "{answer:?}");
        ensure!(answer.seen.is_ipv4() == address.is_ipv4(), "{answer:?}");
        let answer = eventually("UDP", LIMIT, async || Ok(Some(client.udp(address, 20002).await?))).await?;
        ensure!(answer.name == "two", "{answer:?}");
    }
    Ok(())
}

async fn a_killed_pod(cluster: &Cluster) -> anyhow::Result<()> {
    let (address, pods) = balanced(cluster, "killed", 2).await?;
    pods[0].kill().await?;
    let refused = cluster.client()?.tcp(pods[0].addresses[0], 80).await;
    ensure!(refused.is_err(), "{refused:?}");
    only_answers(cluster, address, "pod-1").await
}

async fn an_unready_pod(cluster: &Cluster) -> anyhow::Result<()> {
    let (address, pods) = balanced(cluster, "unready", 2).await?;
    pods[1].set_ready(false).await?;
    only_answers(cluster, address, "pod-0").await?;
    pods[1].set_ready(true).await?;
    answers(cluster, address, "pod-1").await
}

async fn a_terminating_pod(cluster: &Cluster) -> anyhow::Result<()> {
    let (address, pods) = balanced(cluster, "terminating", 1).await?;
    pods[0].terminate().await?;
    let listed = cluster.kubectl_output(&["get", "endpointslices", "-n", "terminating", "-o", "yaml"]);
    ensure!(listed.await?.contains("serving: true"));
    only_answers(cluster, address, "pod-0").await?;
    pods[0].delete().await?;
    let client = cluster.client()?;
    eventually("no answer", LIMIT, async || Ok(client.tcp(address, 80).await.err())).await?;
    Ok(())
}

async fn one_family(cluster: &Cluster) -> anyhow::Result<()> {
    namespace(cluster, "family").await?;
    let v4 = cluster.pod(pod("family", "v4").families(Families::V4)).await?;
    ensure!(v4.addresses.len() == 1 && v4.addresses[0].is_ipv4(), "{:?}", v4.addresses);
    if cluster.ipv6() {
        let v6 = cluster.pod(pod("family", "v6").families(Families::V6)).await?;
        ensure!(v6.addresses.len() == 1 && v6.addresses[0].is_ipv6(), "{:?}", v6.addresses);
    }
    Ok(())
}

async fn a_deployment(cluster: &Cluster) -> anyhow::Result<()> {
    namespace(cluster, "deployed").await?;
    let create = ["create", "deployment", "web", "-n", "deployed", "--image=web", "--port=80", "--replicas=2"];
    cluster.kubectl_output(&create).await?;
    let rollout = ["rollout", "status", "deployment/web", "-n", "deployed", "--timeout=20s"];
    cluster.kubectl_output(&rollout).await?;
    let pods = Api::<k8s_openapi::api::core::v1::Pod>::namespaced(cluster.admin(), "deployed");
    let listed = pods.list(&ListParams::default()).await?.items;
    let name = listed[0].metadata.name.clone().context("a pod has a name")?;
    let old = cluster.running_pod("deployed", &name).await?;
    ensure!(cluster.client()?.tcp(old.addresses[0], 80).await?.name == name);
    cluster.kubectl_output(&["delete", "pod", &name, "-n", "deployed"]).await?;
    // What a Deployment says of itself may be about the pod that has just gone.
    eventually("another pod in its place", LIMIT, async || {
        let names: Vec<_> = pods.list(&ListParams::default()).await?.into_iter().map(|pod| pod.metadata.name).collect();
        ensure!(names.len() == 2 && !names.contains(&Some(name.clone())), "there are {names:?}");
        Ok(Some(()))
    })
    .await?;
    cluster.kubectl_output(&rollout).await?;
    let gone = cluster.client()?.tcp(old.addresses[0], 80).await;
    ensure!(gone.is_err(), "{gone:?}");
    Ok(())
}

async fn node_ports(cluster: &Cluster) -> anyhow::Result<()> {
    let second = cluster.node("node-2").await?;
    balanced(cluster, "node-ports", 1).await?;
    let services = Api::<Service>::namespaced(cluster.admin(), "node-ports");
    let ports = services.get("lb").await?.spec.and_then(|spec| spec.ports);
    let port = ports.and_then(|ports| ports[0].node_port).context("a node port")?;
    let client = cluster.client()?;
    for address in second {
        let port = u16::try_from(port)?;
        eventually("the node port", LIMIT, async || Ok(Some(client.tcp(address, port).await?))).await?;
    }
    let nodes = cluster.kubectl_output(&["get", "nodes"]).await?;
    ensure!(nodes.contains(NODE) && !nodes.contains("NotReady"), "{nodes}");
    Ok(())
}

async fn a_deleted_namespace(cluster: &Cluster) -> anyhow::Result<()> {
    namespace(cluster, "deleted").await?;
    let pod = cluster.pod(pod("deleted", "pod").port(PodPort::tcp("http", 80))).await?;
    let namespaces = Api::<Namespace>::all(cluster.admin());
    namespaces.delete("deleted", &DeleteParams::default()).await?;
    eventually("the namespace to go", LIMIT, async || Ok(namespaces.get_opt("deleted").await?.is_none().then_some(())))
        .await?;
    let gone = cluster.client()?.tcp(pod.addresses[0], 80).await;
    ensure!(gone.is_err(), "{gone:?}");
    Ok(())
}

async fn a_service_account(cluster: &Cluster) -> anyhow::Result<()> {
    namespace(cluster, "account").await?;
    for command in [
        "create serviceaccount reader -n account",
        "create role reader -n account --verb=list --resource=configmaps",
        "create rolebinding reader -n account --role=reader --serviceaccount=account:reader",
    ] {
        cluster.kubectl_output(&command.split(' ').collect::<Vec<_>>()).await?;
    }
    let kubeconfig = cluster.kubeconfig_for_service_account("account", "reader").await?;
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let client = kube::Client::try_from(config)?;
    let own = Api::<ConfigMap>::namespaced(client.clone(), "account");
    eventually("the role to be in force", LIMIT, async || Ok(Some(own.list(&ListParams::default()).await?))).await?;
    let other = Api::<ConfigMap>::namespaced(client, "default").list(&ListParams::default()).await;
    ensure!(matches!(&other, Err(kube::Error::Api(status)) if status.is_forbidden()), "{other:?}");
    Ok(())
}

async fn an_api_server(cluster: &Cluster) -> anyhow::Result<()> {
    let (address, pods) = balanced(cluster, "restarted", 2).await?;
    cluster.stop_apiserver().await?;
    ensure!(cluster.admin().apiserver_version().await.is_err());
    answers(cluster, address, "pod-0").await?;
    cluster.start_apiserver().await?;
    pods[0].kill().await?;
    only_answers(cluster, address, "pod-1").await?;
    cluster.stop_etcd().await?;
    cluster.start_etcd().await?;
    // The pods are followed again, and so are the Services.
    balanced(cluster, "afterwards", 1).await.map(drop)
}

async fn a_killed_run(_: &Cluster) -> anyhow::Result<()> {
    for signal in ["INT", "TERM", "KILL"] {
        let marker = format!("{HOLD}={signal}");
        let program = std::env::current_exe()?;
        let mut run =
            Command::new(program).env(HOLD, signal).env_remove("SHAREDLB_TESTBED_LOGS").stdin(Stdio::null()).spawn()?;
        // The outer process, the inner one, etcd and the API server, at least.
        let limit = Duration::from_secs(60);
        eventually("the second cluster to be up", limit, async || {
            Ok((processes_with(&marker)?.contains(&"kubectl".to_owned())).then_some(()))
        })
        .await?;
        let kill = format!("kill -{signal} {}", run.id());
        ensure!(Command::new("sh").args(["-c", &kill]).status()?.success());
        run.wait()?;
        eventually(&format!("nothing to be left by SIG{signal}"), LIMIT, async || {
            let left = processes_with(&marker)?;
            ensure!(left.is_empty(), "{left:?} are left");
            Ok(Some(()))
        })
        .await?;
    }
    Ok(())
}

/// Holds a cluster, and an unwatched process, until it is killed.
fn hold_a_cluster() -> anyhow::Result<()> {
    let testbed = enter(Parts::API_ONLY)?;
    Runtime::new()?.block_on(async {
        let cluster = Cluster::start(testbed).await?;
        let forever = ["get", "--raw", "/api/v1/namespaces?watch=true"];
        cluster.kubectl_output(&forever).await?;
        anyhow::bail!("the watch ended")
    })
}

/// The names of the processes that have this in their environment.
fn processes_with(variable: &str) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let path = entry?.path();
        // Processes come and go while they are listed.
        let environment = std::fs::read(path.join("environ")).unwrap_or_default();
        if environment.split(|byte| *byte == 0).any(|each| each == variable.as_bytes()) {
            let name = std::fs::read_to_string(path.join("comm")).unwrap_or_default();
            found.push(name.trim_end().to_owned());
        }
    }
    Ok(found)
}

/// A namespace with a load balancer on port 80 before `count` pods, `pod-0`
/// and so on, all of which have answered through its IPv4 address.
async fn balanced(cluster: &Cluster, name: &str, count: usize) -> anyhow::Result<(IpAddr, Vec<sharedlb_testbed::Pod>)> {
    namespace(cluster, name).await?;
    let service = format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: lb, namespace: {name}}},
           spec: {{type: LoadBalancer, selector: {{app: web}}, ipFamilyPolicy: PreferDualStack,
                   ports: [{{name: http, port: 80, targetPort: http}}]}}}}"
    );
    cluster.apply(&service).await?;
    let mut pods = Vec::new();
    for number in 0..count {
        let spec = pod(name, &format!("pod-{number}")).label("app", "web");
        pods.push(cluster.pod(spec.port(PodPort::tcp("http", 8080))).await?);
    }
    let addresses = load_balancer_addresses(cluster, name, "lb").await?;
    for pod in &pods {
        answers(cluster, addresses[0], &pod.name).await?;
    }
    Ok((addresses[0], pods))
}

/// Waits until this pod answers on port 80.
async fn answers(cluster: &Cluster, address: IpAddr, name: &str) -> anyhow::Result<()> {
    let client = cluster.client()?;
    eventually(&format!("{name} to answer"), LIMIT, async || {
        let answer = client.tcp(address, 80).await?;
        Ok((answer.name == name).then_some(()))
    })
    .await
}

/// Waits until this pod is the only one that answers on port 80.
async fn only_answers(cluster: &Cluster, address: IpAddr, name: &str) -> anyhow::Result<()> {
    let client = cluster.client()?;
    eventually(&format!("{name} alone to answer"), LIMIT, async || {
        for _ in 0..20 {
            let answer = client.tcp(address, 80).await?;
            ensure!(answer.name == name, "{answer:?}");
        }
        Ok(Some(()))
    })
    .await
}

async fn load_balancer_addresses(cluster: &Cluster, namespace: &str, name: &str) -> anyhow::Result<Vec<IpAddr>> {
    let services = Api::<Service>::namespaced(cluster.admin(), namespace);
    let ingress = eventually("the load balancer's address", LIMIT, async || {
        let status = services.get(name).await?.status.unwrap_or_default();
        Ok(status.load_balancer.and_then(|each| each.ingress))
    })
    .await?;
    ensure!(ingress.len() == families(cluster), "{ingress:?}");
    let mut addresses = Vec::new();
    for each in ingress {
        addresses.push(each.ip.context("an address")?.parse::<IpAddr>()?);
    }
    addresses.sort();
    Ok(addresses)
}

fn families(cluster: &Cluster) -> usize {
    if cluster.ipv6() { 2 } else { 1 }
}

fn pod(namespace: &str, name: &str) -> PodSpec {
    PodSpec::new(namespace, name)
}

async fn namespace(cluster: &Cluster, name: &str) -> anyhow::Result<()> {
    cluster.kubectl_output(&["create", "namespace", name]).await.map(drop)
}
