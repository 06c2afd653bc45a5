//! A team with pods, claims and Services of type LoadBalancer, and a client that connects to
//! them.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use sharedlb_crds::SharedLB;
use sharedlb_testbed::{Answer, Client, Cluster, Families, Pod, PodPort, PodSpec, Protocol, eventually};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::front::{Front, one_answers, only_answer};
use crate::{LIMIT, Site};

/// The number of attempts where no answer is expected: each may take as long as its limit.
const SILENT_QUESTIONS: usize = 5;

/// How long one attempt may take from inside.
const ATTEMPT: Duration = Duration::from_millis(900);

/// A namespace with Services, of a class that has its name or another's.
pub struct Tenant {
    /// The namespace, and the class
    pub site: Site,
    /// The Services of the namespace
    pub services: Api<Service>,
    /// A client outside of the cluster
    pub client: Client,
}

impl Tenant {
    /// A namespace and a class of this name.
    pub async fn open(cluster: &Arc<Cluster>, name: &str, class: Value) -> anyhow::Result<Self> {
        Self::of(Site::open(cluster, name, class).await?)
    }

    /// A namespace and a class of the provider `vip` with these addresses, of the same name.
    pub async fn at(cluster: &Arc<Cluster>, name: &str, addresses: &[&str]) -> anyhow::Result<Self> {
        let ranges: Vec<Value> = addresses.iter().map(|address| json!({"min": address, "max": address})).collect();
        Self::open(cluster, name, json!({"provider": {"vip": {}}, "addresses": ranges})).await
    }

    /// Another namespace that uses the same class.
    pub async fn neighbour(&self, name: &str) -> anyhow::Result<Self> {
        Self::in_class(&self.site.cluster, name, &self.site.class).await
    }

    /// A namespace that uses a class, which may exist or not.
    pub async fn in_class(cluster: &Arc<Cluster>, name: &str, class: &str) -> anyhow::Result<Self> {
        Self::of(Site::in_class(cluster, name, class).await?)
    }

    /// A namespace and a class that are there.
    pub fn of(site: Site) -> anyhow::Result<Self> {
        let services = Api::namespaced(site.cluster.admin(), &site.namespace);
        Ok(Self { services, client: site.cluster.client()?, site })
    }

    /// A pod labelled `app: <app>` that answers on `http` (8080/TCP), and on
    /// `dns` by TCP and UDP (5353).
    pub async fn pod(&self, name: &str, app: &str) -> anyhow::Result<Pod> {
        let ports = [PodPort::tcp("http", 8080), PodPort::udp("dns", 5353), PodPort::tcp("dns-tcp", 5353)];
        self.pod_with(name, app, ports).await
    }

    /// A pod labelled `app: <app>` with these ports.
    pub async fn pod_with(
        &self,
        name: &str,
        app: &str,
        ports: impl IntoIterator<Item = PodPort>,
    ) -> anyhow::Result<Pod> {
        self.pod_of(Families::All, name, app, ports).await
    }

    /// A pod labelled `app: <app>` with these ports, and addresses of these families only.
    pub async fn pod_of(
        &self,
        families: Families,
        name: &str,
        app: &str,
        ports: impl IntoIterator<Item = PodPort>,
    ) -> anyhow::Result<Pod> {
        let spec = PodSpec::new(&self.site.namespace, name).label("app", app).families(families);
        self.site.cluster.pod(ports.into_iter().fold(spec, PodSpec::port)).await
    }

    /// Creates a Service of this tenant's class for the pods labelled `app:
    /// <name>`. What `spec` does not say is one port 80 to `http`.
    pub async fn service(&self, name: &str, spec: Value) -> anyhow::Result<()> {
        self.service_with(name, json!({}), spec).await
    }

    /// The same with annotations.
    pub async fn service_with(&self, name: &str, annotations: Value, spec: Value) -> anyhow::Result<()> {
        let mut full = json!({
            "type": "LoadBalancer",
            "loadBalancerClass": format!("sharedlb.dev/{}", self.site.class),
            "selector": {"app": name},
            "ports": [{"name": "http", "port": 80, "targetPort": "http"}],
            // There are too few node ports for many tests.
            "allocateLoadBalancerNodePorts": false,
        });
        for (field, value) in spec.as_object().context("an object")? {
            full[field] = value.clone();
        }
        let service: Service =
            serde_json::from_value(json!({"metadata": {"name": name, "annotations": annotations}, "spec": full}))?;
        let created = self.services.create(&PostParams::default(), &service).await;
        created.with_context(|| format!("making Service {name}")).map(drop)
    }

    /// Changes a Service by a merge patch.
    pub async fn change(&self, name: &str, patch: Value) -> anyhow::Result<()> {
        self.services.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }

    /// Deletes a Service and waits until it is gone.
    pub async fn delete(&self, name: &str) -> anyhow::Result<()> {
        self.services.delete(name, &DeleteParams::default()).await?;
        let what = format!("Service {name} to be gone");
        eventually(&what, LIMIT, async || Ok(self.services.get_opt(name).await?.is_none().then_some(()))).await
    }

    /// Waits until a Service is as looked for.
    pub async fn until<T>(&self, name: &str, what: &str, find: impl Fn(&Service) -> Option<T>) -> anyhow::Result<T> {
        eventually(&format!("Service {}/{name} to have {what}", self.site.namespace), LIMIT, async || {
            let service = self.services.get(name).await?;
            let found = find(&service);
            ensure!(found.is_some(), "it is {}", serde_json::to_string(&service)?);
            Ok(found)
        })
        .await
    }

    /// Waits until a Service is ready on these ports, and says where.
    pub async fn served(&self, name: &str, ports: &[(u16, Protocol)]) -> anyhow::Result<Vec<Front>> {
        let wanted: BTreeSet<_> = ports.iter().map(|(port, protocol)| (*port, protocol.as_str())).collect();
        self.until(name, &format!("ports {wanted:?}"), |service| {
            let fronts = fronts(service);
            let found: BTreeSet<_> = fronts.iter().map(|front| (front.port, front.protocol.as_str())).collect();
            (is_ready(service) && found == wanted).then_some(fronts)
        })
        .await
    }

    /// Waits until a Service is ready on any ports, so many of them.
    pub async fn ready(&self, name: &str, ports: usize) -> anyhow::Result<Vec<Front>> {
        self.until(name, &format!("{ports} ports"), |service| {
            let fronts = fronts(service);
            (is_ready(service) && fronts.len() == ports).then_some(fronts)
        })
        .await
    }

    /// Waits until a Service reports this, and returns the message.
    pub async fn reports(&self, name: &str, kind: &str, reason: &str) -> anyhow::Result<String> {
        self.until(name, &format!("{kind} {reason}"), |service| {
            let found = condition(service, kind).filter(|condition| condition.reason == reason)?;
            Some(found.message.clone())
        })
        .await
    }

    /// Waits until nothing of ours is left on a Service, and its claim is gone.
    pub async fn let_go(&self, name: &str) -> anyhow::Result<()> {
        self.until(name, "nothing of ours", |service| {
            let marked = service.annotations().contains_key("sharedlb.dev/claim");
            (fronts(service).is_empty() && !marked && service.finalizers().is_empty() && conditions(service).is_empty())
                .then_some(())
        })
        .await?;
        self.site.gone(&format!("service-{name}")).await
    }

    /// The claim of a Service.
    pub async fn claim(&self, service: &str) -> anyhow::Result<SharedLB> {
        Ok(self.site.claims.get(&format!("service-{service}")).await?)
    }

    /// Waits for an Event about an object, and returns what it says.
    pub async fn event(&self, kind: &str, name: &str, reason: &str) -> anyhow::Result<String> {
        let events = Api::<Event>::namespaced(self.site.cluster.admin(), &self.site.namespace);
        let about = ListParams::default().fields(&format!("regarding.kind={kind},regarding.name={name}"));
        eventually(&format!("an Event {reason} about {kind} {name}"), LIMIT, async || {
            let found = events.list(&about).await?.items;
            let reasons: Vec<_> = found.iter().filter_map(|event| event.reason.clone()).collect();
            let event = found.into_iter().find(|event| event.reason.as_deref() == Some(reason));
            Ok(Some(event.with_context(|| format!("there are {reasons:?}"))?.note.unwrap_or_default()))
        })
        .await
    }

    /// Asks from outside until this pod has answered.
    pub async fn answers(&self, front: Front, pod: &str) -> anyhow::Result<Answer> {
        eventually(&format!("{pod} to answer at {front:?}"), LIMIT, async || {
            let answer = self.ask(front).await?;
            ensure!(answer.name == pod, "{} answers", answer.name);
            Ok(Some(answer))
        })
        .await
    }

    /// Connects from outside until these pods have answered, and requires that no other does.
    pub async fn only_answer(&self, front: Front, pods: &[&str]) -> anyhow::Result<()> {
        only_answer(pods, &format!("{front:?} from outside"), async || Ok(self.ask(front).await?.name)).await
    }

    /// Connects from outside until one pod gives all answers.
    pub async fn one_answers(&self, front: Front) -> anyhow::Result<()> {
        one_answers(&format!("{front:?} from outside"), async || Ok(self.ask(front).await?.name)).await
    }

    /// Connects from inside of the cluster until these pods have answered, and requires that
    /// no other does.
    pub async fn only_answer_inside(&self, front: Front, pods: &[&str]) -> anyhow::Result<()> {
        only_answer(pods, &format!("{front:?} from inside"), async || ask_inside(front).await).await
    }

    /// Asks from inside of the cluster, once.
    pub async fn ask_inside(&self, front: Front) -> anyhow::Result<String> {
        ask_inside(front).await
    }

    /// Connects from outside until no pod answers, twice in a row: on a busy machine one
    /// answer may come too late.
    pub async fn closed(&self, front: Front) -> anyhow::Result<()> {
        let what = format!("nobody to answer at {front:?}");
        eventually(&what, LIMIT, async || {
            let is_silent = self.ask(front).await.is_err() && self.ask(front).await.is_err();
            Ok(is_silent.then_some(()))
        })
        .await
    }

    /// Requires that nobody answers for a while, neither to those outside nor to
    /// those inside.
    pub async fn silent(&self, front: Front) -> anyhow::Result<()> {
        for _ in 0..SILENT_QUESTIONS {
            let answers = tokio::join!(self.ask(front), ask_inside(front));
            ensure!(answers.0.is_err() && answers.1.is_err(), "{answers:?} at {front:?}");
        }
        Ok(())
    }

    /// Asks from outside, once.
    pub async fn ask(&self, front: Front) -> anyhow::Result<Answer> {
        match front.protocol {
            Protocol::Tcp => self.client.tcp(front.address, front.port).await,
            Protocol::Udp => self.client.udp(front.address, front.port).await,
        }
    }
}

/// This program is on the node, where all pods are.
async fn ask_inside(front: Front) -> anyhow::Result<String> {
    let asking = async {
        let mut stream = TcpStream::connect(SocketAddr::new(front.address, front.port)).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        anyhow::Ok(text.split(' ').next().unwrap_or_default().to_owned())
    };
    tokio::time::timeout(ATTEMPT, asking).await.context("no answer")?
}

/// The addresses and ports of a Service's status, IPv4 ones.
pub fn fronts(service: &Service) -> Vec<Front> {
    let ingress = service.status.iter().flat_map(|status| status.load_balancer.iter()).flat_map(|lb| &lb.ingress);
    let mut fronts = Vec::new();
    for ingress in ingress.flatten() {
        let Some(address) = ingress.ip.as_ref().and_then(|ip| ip.parse().ok()) else { continue };
        for port in ingress.ports.iter().flatten() {
            let protocol = if port.protocol == "UDP" { Protocol::Udp } else { Protocol::Tcp };
            fronts.push(Front { address, port: u16::try_from(port.port).unwrap_or_default(), protocol });
        }
    }
    fronts
}

/// What kube-proxy is to make of the Service's addresses.
pub fn ip_modes(service: &Service) -> Vec<String> {
    let ingress = service.status.iter().flat_map(|status| status.load_balancer.iter()).flat_map(|lb| &lb.ingress);
    ingress.flatten().filter_map(|ingress| ingress.ip_mode.clone()).collect()
}

/// Our conditions of a Service.
pub fn conditions(service: &Service) -> Vec<&Condition> {
    let all = service.status.iter().flat_map(|status| status.conditions.iter().flatten());
    all.filter(|condition| condition.type_.starts_with("sharedlb.dev/")).collect()
}

/// A condition of a Service.
pub fn condition<'a>(service: &'a Service, kind: &str) -> Option<&'a Condition> {
    conditions(service).into_iter().find(|condition| condition.type_ == format!("sharedlb.dev/{kind}"))
}

fn is_ready(service: &Service) -> bool {
    condition(service, "Ready").is_some_and(|condition| condition.status == "True")
}
