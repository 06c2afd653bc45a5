//! A shell in the cluster, to try things in.

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::Context;

use crate::stage::Stage;

/// Opens the user's shell, and stops everything when it ends.
///
/// A shell that is fed by a pipe decides how we end; a person's last command
/// does not.
pub(crate) async fn open(stage: Stage) -> anyhow::Result<ExitCode> {
    let shell = std::env::var("SHELL").unwrap_or_else(|_| "bash".to_owned());
    stage.offer_vips().await?;
    welcome(&stage);
    let mut command = stage.terminal.command(&shell);
    let status = command.status().await.with_context(|| format!("running {shell}"))?;
    stage.clear().await?;
    println!("The shell has ended, and the cluster with it. Nothing is left behind.");
    let code = if std::io::stdin().is_terminal() { 0 } else { status.code().unwrap_or(1) };
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

fn welcome(stage: &Stage) {
    println!(
        "
This is a shell in the cluster, until `exit`. Things to try:

  kubectl apply -f demo/manifests/redis.yaml    claim a port for the pods of team-red
  kubectl get slb -A                            see which one it is
  ask ADDRESS PORT [udp]                        reach it as a client outside of the cluster
  kubectl apply -f demo/manifests/vip.yaml      claim a port at a virtual address: docs/vip.md
  kubectl describe slb redis -n team-red        see what became of it, and when
  kubectl get pods -A -l team --show-labels     see what else could be claimed
  kubectl get slbc shared -o yaml               see the class, and what is left of it
  curl localhost:8080/metrics                   see the controller's figures
  less {}   see its decisions
",
        stage.controller_log().display()
    );
}
