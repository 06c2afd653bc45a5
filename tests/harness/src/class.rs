//! A test's class, and the Services that are its load balancers.

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::events::v1::Event;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use sharedlb_crds::{CLASS_LABEL, ConditionType, LoadBalancerStatus, Reason, SharedLBClass, SharedLBClassStatus};
use sharedlb_testbed::eventually;

use crate::pods::Backend;
use crate::site::merge;
use crate::{LIMIT, Site};

impl Site {
    /// Creates the class of this site. What `spec` does not say is the default,
    /// but for the Services' node ports.
    pub async fn create_class(&self, spec: Value) -> anyhow::Result<()> {
        let of_services = spec["provider"].as_object().is_none_or(|provider| provider.contains_key("service"));
        let mut full = if of_services {
            json!({"provider": {"service": {"allocateLoadBalancerNodePorts": false}}})
        } else {
            json!({})
        };
        merge(&mut full, spec);
        let class: SharedLBClass = serde_json::from_value(json!({
            "apiVersion": "sharedlb.dev/v1alpha1",
            "kind": "SharedLBClass",
            "metadata": {"name": self.class},
            "spec": full,
        }))?;
        let created = self.classes.create(&PostParams::default(), &class).await;
        created.with_context(|| format!("making class {}", self.class)).map(drop)
    }

    /// Changes the class by a merge patch, and waits until the controller has seen
    /// it: claims are watched apart from classes, so one that is created now might
    /// be seen before.
    pub async fn change_class(&self, patch: Value) -> anyhow::Result<()> {
        self.classes.patch(&self.class, &PatchParams::default(), &Patch::Merge(patch)).await?;
        self.class_seen().await
    }

    /// Waits until the controller has seen the class with the spec that it has, or
    /// that it is being deleted. (Both are a generation.)
    pub async fn class_seen(&self) -> anyhow::Result<()> {
        let generation = self.classes.get(&self.class).await?.metadata.generation;
        self.class_status(&format!("seen generation {generation:?}"), |status| {
            (status.observed_generation >= generation).then_some(())
        })
        .await
    }

    /// Asks for the class to be deleted.
    pub async fn delete_class(&self) -> anyhow::Result<()> {
        self.classes.delete(&self.class, &DeleteParams::default()).await?;
        Ok(())
    }

    /// Waits until the class is gone.
    pub async fn class_gone(&self) -> anyhow::Result<()> {
        let what = format!("class {} to be gone", self.class);
        eventually(&what, LIMIT, async || Ok(self.classes.get_opt(&self.class).await?.is_none().then_some(()))).await
    }

    /// Waits until the status of the class has what is looked for.
    pub async fn class_status<T>(
        &self,
        what: &str,
        find: impl Fn(&SharedLBClassStatus) -> Option<T>,
    ) -> anyhow::Result<T> {
        eventually(&format!("class {} to have {what}", self.class), LIMIT, async || {
            let status = self.classes.get(&self.class).await?.status.unwrap_or_default();
            let found = find(&status);
            ensure!(found.is_some(), "its status is {}", serde_json::to_string(&status)?);
            Ok(found)
        })
        .await
    }

    /// Waits until the class says this of itself as it is now, and returns the
    /// message with it.
    pub async fn class_verdict(&self, kind: ConditionType, (status, reason): (&str, Reason)) -> anyhow::Result<String> {
        let generation = self.classes.get(&self.class).await?.metadata.generation;
        self.class_status(&format!("{kind}={status} ({reason})"), |found| {
            let found = found.conditions.iter().find(|condition| condition.type_ == kind.as_str())?;
            let as_said = found.status == status && found.reason == reason.as_str();
            (as_said && found.observed_generation == generation).then(|| found.message.clone())
        })
        .await
    }

    /// Waits for an Event about the class.
    pub async fn class_event(&self, reason: &str) -> anyhow::Result<()> {
        // Those about objects without a namespace are in this one.
        let events = Api::<Event>::namespaced(self.cluster.admin(), "default");
        let about = format!("regarding.kind=SharedLBClass,regarding.name={}", self.class);
        eventually(&format!("an Event {reason} about class {}", self.class), LIMIT, async || {
            let found = events.list(&ListParams::default().fields(&about)).await?.items;
            let reasons: Vec<_> = found.into_iter().filter_map(|event| event.reason).collect();
            ensure!(reasons.iter().any(|found| found == reason), "there are {reasons:?}");
            Ok(Some(()))
        })
        .await
    }

    /// Waits until the class has this load balancer and it is as looked for.
    pub async fn load_balancer<T>(
        &self,
        index: u32,
        what: &str,
        find: impl Fn(&LoadBalancerStatus) -> Option<T>,
    ) -> anyhow::Result<T> {
        self.class_status(&format!("load balancer {index} with {what}"), |status| {
            find(status.load_balancers.iter().find(|load_balancer| load_balancer.index == index)?)
        })
        .await
    }

    /// Waits until a port of this claim is recorded as released.
    pub async fn released(&self, claim: &str, port: u16) -> anyhow::Result<()> {
        let claim = format!("{}/{claim}", self.namespace);
        self.class_status(&format!("port {port} of {claim} released"), |status| {
            let mut released = status.load_balancers.iter().flat_map(|load_balancer| &load_balancer.released);
            released.any(|released| released.claim == claim && released.port.get() == port).then_some(())
        })
        .await
    }

    /// The Services where the load balancers of the classes are.
    pub fn services(&self) -> Api<Service> {
        Api::namespaced(self.cluster.admin(), "sharedlb-system")
    }

    /// The load balancers of the class as they are now, lowest index first.
    pub async fn front_services(&self) -> anyhow::Result<Vec<Service>> {
        let mut services = self.services().list(&self.own_objects()).await?.items;
        // slb-<class>-<index>-<hash>
        let index = |service: &Service| -> Option<u32> { service.name_any().rsplit('-').nth(1)?.parse().ok() };
        services.sort_by_key(index);
        Ok(services)
    }

    /// Waits until the class has this many load balancers, with addresses.
    pub async fn fronts(&self, count: usize) -> anyhow::Result<Vec<Service>> {
        eventually(&format!("class {} to have {count} Services", self.class), LIMIT, async || {
            let services = self.front_services().await?;
            let names: Vec<_> = services.iter().map(ResourceExt::name_any).collect();
            ensure!(services.len() == count, "it has {names:?}");
            Ok(services.iter().all(|service| !addresses(service).is_empty()).then_some(services))
        })
        .await
    }

    /// The EndpointSlices of the class's load balancers for one front port.
    pub async fn front_slices(&self, port: u16) -> anyhow::Result<Vec<EndpointSlice>> {
        let slices = Api::<EndpointSlice>::namespaced(self.cluster.admin(), "sharedlb-system");
        let mut slices = slices.list(&self.own_objects()).await?.items;
        let names = [format!("tcp-{port}"), format!("udp-{port}")];
        slices.retain(|slice| {
            let mut ports = slice.ports.iter().flatten();
            ports.any(|port| port.name.as_ref().is_some_and(|name| names.contains(name)))
        });
        Ok(slices)
    }

    /// Waits until the load balancer sends what comes to this port to the IPv4
    /// addresses of these pods and no others.
    pub async fn leads_to(&self, port: u16, backends: &[&Backend]) -> anyhow::Result<()> {
        let mut wanted: Vec<_> = backends.iter().map(|backend| backend.addresses[0].to_string()).collect();
        wanted.sort();
        eventually(&format!("port {port} of class {} to lead to {wanted:?}", self.class), LIMIT, async || {
            let slices = self.front_slices(port).await?;
            let slices = slices.into_iter().filter(|slice| slice.address_type == "IPv4");
            let mut found: Vec<String> =
                slices.flat_map(|slice| slice.endpoints).flat_map(|endpoint| endpoint.addresses).collect();
            found.sort();
            ensure!(found == wanted, "it leads to {found:?}");
            Ok(Some(()))
        })
        .await
    }

    fn own_objects(&self) -> ListParams {
        ListParams::default().labels(&format!("{CLASS_LABEL}={}", self.class))
    }
}

/// The addresses that a Service of type LoadBalancer was given.
pub fn addresses(service: &Service) -> Vec<String> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|status| status.ingress.as_ref()).into_iter().flatten();
    ingress.filter_map(|ingress| ingress.ip.clone()).collect()
}

/// The ports of a Service, by name.
pub fn port_names(service: &Service) -> Vec<String> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    ports.filter_map(|port| port.name.clone()).collect()
}
