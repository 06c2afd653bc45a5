//! What the teams and the administrator do.

use anyhow::Context;
use serde_json::{Value, json};

use crate::api::{Kind, entries, name, text};
use crate::objects::{
    self, BYSTANDERS, FLEETING, claim_name, class_name, hog_name, namespace_name, pod_name, pods_of, service_name,
};
use crate::plan::{AdminAct, Reshape, Step, TeamAct};
use crate::report::Became;
use crate::stage::{Stage, Times};
use crate::{reshape, services};

/// Does what a team does, in order.
pub(crate) async fn team(stage: &Stage, times: Times, team: u64, steps: &[Step<TeamAct>]) {
    for step in steps {
        if !times.come(step).await {
            break;
        }
        let became = match act(stage, team, step.act).await {
            Ok(None) => Became::Void,
            other => Became::of(&other),
        };
        stage.report.count("team", step.act, became);
    }
}

/// None: there was nothing to do it to.
async fn act(stage: &Stage, team: u64, act: TeamAct) -> anyhow::Result<Option<()>> {
    let (server, namespace) = (&stage.server, namespace_name(team));
    let change = async |claim: u64, spec: Value| {
        let patch = json!({"spec": spec});
        anyhow::Ok(server.change(Kind::Claim, &namespace, &claim_name(claim), patch).await.map(drop)?)
    };
    match act {
        TeamAct::Create { claim, ports } => server.create(&namespace, &objects::claim(team, claim, ports)).await?,
        TeamAct::Delete { claim } => server.delete(Kind::Claim, &namespace, &claim_name(claim)).await?,
        TeamAct::EditPorts { claim, ports } => {
            change(claim, json!({"ports": objects::ports_of(team, claim, ports)})).await?;
        }
        TeamAct::Reshape { claim, how } => return reshape_claim(stage, &namespace, claim, how).await,
        // (The API server refuses it for the claim that names a Service.)
        TeamAct::Select { claim, pods_of: of } => change(claim, json!({"selector": pods_of(of)})).await?,
        TeamAct::AddPod { claim, pod } => server.create(&namespace, &objects::pod(team, claim, pod)).await?,
        TeamAct::RemovePod { claim, pod } => server.delete(Kind::Pod, &namespace, &pod_name(team, claim, pod)).await?,
        TeamAct::SetReady { claim, pod, ready } => {
            set_ready(stage, &namespace, &pod_name(team, claim, pod), ready).await?;
        }
        TeamAct::Relabel { claim, pod, to } => {
            let patch = json!({"metadata": {"labels": pods_of(to)}});
            server.change(Kind::Pod, &namespace, &pod_name(team, claim, pod), patch).await?;
        }
        TeamAct::DeleteOwnService { claim } => return delete_own_service(stage, &namespace, claim).await,
        TeamAct::CreateService { service, ports } => {
            server.create(&namespace, &objects::shared_service(team, service, ports)).await?;
        }
        TeamAct::DeleteService { service } => server.delete(Kind::Service, &namespace, &service_name(service)).await?,
        TeamAct::EditService { service, ports } => {
            services::set_ports(stage, team, service, objects::service_ports(team, service, ports)).await?;
        }
        TeamAct::Covet { service, nth } => return services::covet(stage, team, service, nth).await,
        TeamAct::ReshapeService { service, how } => return services::reshape(stage, team, service, how).await,
        TeamAct::Hold { claim } => return services::hold(stage, team, claim).await,
        TeamAct::LetGo => return services::let_go(stage, &namespace).await,
        TeamAct::WriteSlice { nth, slice } => return services::write_slice(stage, team, nth, slice).await,
        TeamAct::RemoveSlices => return services::remove_slices(stage, &namespace).await,
        TeamAct::ReplaceNamespace => {
            server.delete(Kind::Namespace, "", &namespace).await?;
            // It waits for all that is in it.
            services::let_all_go(stage, &namespace).await?;
            stage.gone(Kind::Namespace, "", &namespace).await?;
            stage.settle_team(team).await?;
        }
    }
    Ok(Some(()))
}

/// Writes the ports of a claim in another way. None: they can't be.
async fn reshape_claim(stage: &Stage, namespace: &str, claim: u64, how: Reshape) -> anyhow::Result<Option<()>> {
    let name = claim_name(claim);
    let Some(found) = stage.server.get(Kind::Claim, namespace, &name).await? else { return Ok(None) };
    let Some(ports) = reshape::of_claim(entries(&found, "/spec/ports").cloned().collect(), how) else {
        return Ok(None);
    };
    stage.server.change(Kind::Claim, namespace, &name, json!({"spec": {"ports": ports}})).await?;
    Ok(Some(()))
}

/// Says that a pod is ready, or is not. Its process answers either way.
pub(crate) async fn set_ready(stage: &Stage, namespace: &str, pod: &str, ready: bool) -> anyhow::Result<()> {
    let found = stage.server.get(Kind::Pod, namespace, pod).await?.unwrap_or_default();
    let mut conditions: Vec<Value> = entries(&found, "/status/conditions").cloned().collect();
    for condition in conditions.iter_mut().filter(|condition| condition["type"] == "Ready") {
        condition["status"] = json!(if ready { "True" } else { "False" });
    }
    let patch = json!({"status": {"conditions": conditions}});
    Ok(stage.server.change_status(Kind::Pod, namespace, pod, patch).await?)
}

async fn delete_own_service(stage: &Stage, namespace: &str, claim: u64) -> anyhow::Result<Option<()>> {
    let Some(service) = services::companion(stage, namespace, claim).await? else { return Ok(None) };
    stage.server.delete(Kind::Service, namespace, name(&service)).await?;
    Ok(Some(()))
}

/// Does what the administrator does, in order.
pub(crate) async fn admin(stage: &Stage, times: Times, steps: &[Step<AdminAct>]) {
    for step in steps {
        if !times.come(step).await {
            break;
        }
        let result = administer(stage, step.act).await;
        stage.report.count("admin", step.act, Became::of(&result));
    }
}

async fn administer(stage: &Stage, act: AdminAct) -> anyhow::Result<()> {
    match act {
        AdminAct::Edit { class, setting } => set_class(stage, class, setting).await,
        AdminAct::Delete => Ok(stage.server.delete(Kind::Class, "", class_name(FLEETING)).await?),
        AdminAct::Create => stage.restore_fleeting().await,
        AdminAct::TakeNodePorts { nth } => {
            Ok(stage.server.create(BYSTANDERS, &objects::hog(nth, objects::HOGGED)).await?)
        }
        AdminAct::FreeNodePorts { nth } => Ok(stage.server.delete(Kind::Service, BYSTANDERS, &hog_name(nth)).await?),
    }
}

/// Gives a class one of its settings.
pub(crate) async fn set_class(stage: &Stage, class: u64, setting: u64) -> anyhow::Result<()> {
    let object = stage.class(class, setting);
    let patch = json!({"spec": object["spec"]});
    let changed = stage.server.change(Kind::Class, "", text(&object, "/metadata/name"), patch).await;
    changed.map(drop).context("editing a class")
}
