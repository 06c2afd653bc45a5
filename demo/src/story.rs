//! The story, chapter by chapter. Each shows something, and fails unless it is
//! as promised.

use anyhow::{Context, ensure};

use crate::stage::Stage;
use crate::terminal::Terminal;

/// Tells the whole story.
pub(crate) async fn tell(stage: &Stage) -> anyhow::Result<()> {
    let terminal = &stage.terminal;
    let redis = three_claims(terminal).await?;
    one_address(terminal, &redis).await?;
    a_pod_dies(terminal, &redis).await?;
    a_second_load_balancer(terminal, &redis).await?;
    the_same_port_again(terminal, &redis).await?;
    a_refusal(terminal).await
}

/// What a claim was given: where its first port is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Given {
    address: String,
    port: String,
}

impl Given {
    /// Reads the status of a claim, with kubectl as anybody would.
    async fn read(terminal: &Terminal, namespace: &str, claim: &str) -> anyhow::Result<Self> {
        let fields = "{.status.address} {.status.ports[0].port}";
        let line = format!("kubectl get slb {claim} -n {namespace} -o jsonpath='{fields}{{\"\\n\"}}'");
        let printed = terminal.run(&line).await?;
        let (address, port) = printed.trim().split_once(' ').context("the claim has no address and port")?;
        Ok(Self { address: address.to_owned(), port: port.to_owned() })
    }

    /// What asks there.
    fn ask(&self) -> String {
        format!("ask {} {}", self.address, self.port)
    }
}

async fn three_claims(terminal: &Terminal) -> anyhow::Result<Given> {
    terminal.headline("Each team claims a port: any TCP port, port 5432, and port 53 for TCP and UDP");
    terminal.run("cat demo/manifests/redis.yaml").await?;
    let files = ["redis", "postgres", "dns"].map(|claim| format!(" -f demo/manifests/{claim}.yaml")).concat();
    terminal.run(&format!("kubectl apply{files}")).await?;
    terminal.run("kubectl wait --for=condition=Ready slb --all -A --timeout=30s").await?;
    terminal.run("kubectl get slb -A").await?;
    Given::read(terminal, "team-red", "redis").await
}

async fn one_address(terminal: &Terminal, redis: &Given) -> anyhow::Result<()> {
    terminal.headline("A client outside of the cluster reaches every one of them through one address");
    let address = &redis.address;
    answered_by(terminal, &redis.ask(), "redis-").await?;
    answered_by(terminal, &format!("ask {address} 5432"), "postgres-").await?;
    answered_by(terminal, &format!("ask {address} 53"), "dns-").await?;
    answered_by(terminal, &format!("ask {address} 53 udp"), "dns-").await?;
    terminal.note("It is one ordinary Service, and so one load balancer of whatever cloud this is:");
    let services = terminal.run("kubectl get services -n sharedlb-system").await?;
    ensure!(load_balancers(&services) == 1, "there is more or less than one load balancer");
    Ok(())
}

async fn a_pod_dies(terminal: &Terminal, redis: &Given) -> anyhow::Result<()> {
    terminal.headline("A pod dies, and the traffic follows to the one that replaces it");
    let before = answered_by(terminal, &redis.ask(), "redis-").await?;
    terminal.run("kubectl delete pod -n team-red -l app=redis").await?;
    let is_another = |printed: &str| printed.starts_with("answered by redis-") && printed != before;
    terminal.run_until(&redis.ask(), "another pod to answer", is_another).await?;
    Ok(())
}

async fn a_second_load_balancer(terminal: &Terminal, redis: &Given) -> anyhow::Result<()> {
    terminal.headline("The load balancer is full, so the next claim gets a second one");
    terminal.run("kubectl get slbc").await?;
    terminal.run("kubectl apply -f demo/manifests/mqtt.yaml").await?;
    terminal.run("kubectl wait --for=condition=Ready slb/mqtt -n team-blue --timeout=30s").await?;
    terminal.run("kubectl get slb -A").await?;
    let services = terminal.run("kubectl get services -n sharedlb-system").await?;
    ensure!(load_balancers(&services) == 2, "there are not two load balancers");
    let mqtt = Given::read(terminal, "team-blue", "mqtt").await?;
    ensure!(mqtt.address != redis.address, "the second load balancer has the address of the first");
    answered_by(terminal, &mqtt.ask(), "mqtt-").await?;
    Ok(())
}

async fn the_same_port_again(terminal: &Terminal, redis: &Given) -> anyhow::Result<()> {
    terminal.headline("A claim that is deleted and created again has its port back");
    terminal.run("kubectl delete -f demo/manifests/redis.yaml").await?;
    let is_closed = |printed: &str| printed.starts_with("nobody answers");
    terminal.run_until(&redis.ask(), "the port to be closed", is_closed).await?;
    terminal.run("kubectl apply -f demo/manifests/redis.yaml").await?;
    terminal.run("kubectl wait --for=condition=Ready slb/redis -n team-red --timeout=30s").await?;
    let again = Given::read(terminal, "team-red", "redis").await?;
    ensure!(again == *redis, "it was {redis:?} before, and is {again:?} now");
    answered_by(terminal, &again.ask(), "redis-").await?;
    Ok(())
}

async fn a_refusal(terminal: &Terminal) -> anyhow::Result<()> {
    terminal.headline("A claim that is refused says why, and what to do");
    terminal.run("kubectl apply -f demo/manifests/ssh.yaml").await?;
    terminal.run("kubectl wait --for=condition=Allocated=False slb/ssh -n team-red --timeout=30s").await?;
    let claims = terminal.run("kubectl get slb -n team-red -o wide").await?;
    ensure!(claims.contains("PortNotAllowed"), "the claim is not refused for its port");
    let message = "{.status.conditions[?(@.type==\"Allocated\")].message}{\"\\n\"}";
    let verdict = terminal.run(&format!("kubectl get slb ssh -n team-red -o jsonpath='{message}'")).await?;
    ensure!(verdict.contains("22"), "the message does not name the port");
    let has_event = |printed: &str| printed.contains("PortNotAllowed");
    terminal.run_until("kubectl events --for slb/ssh -n team-red", "an event", has_event).await?;
    Ok(())
}

/// Asks until a pod of this name answers.
async fn answered_by(terminal: &Terminal, ask: &str, pod: &str) -> anyhow::Result<String> {
    let expected = format!("answered by {pod}");
    terminal.run_until(ask, &format!("{pod}… to answer"), |printed| printed.starts_with(&expected)).await
}

/// How many load balancers `kubectl get services` shows.
fn load_balancers(services: &str) -> usize {
    services.lines().filter(|line| line.contains("LoadBalancer")).count()
}
