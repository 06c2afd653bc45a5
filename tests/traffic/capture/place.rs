//! A victim, a thief, and the address that both share.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, ensure};
use futures::future::join;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use sharedlb_crds::SharedLB;
use sharedlb_harness::front::Front;
use sharedlb_harness::tenant::Tenant;
use sharedlb_harness::{Replica, Site, editor};
use sharedlb_testbed::Cluster;
use sharedlb_testbed::Protocol::Tcp;

use crate::SHAREDLB;

/// The number of the victim's port, and that of the thief's.
pub(crate) const VICTIMS: u16 = 5432;
pub(crate) const OWN: u16 = 8081;

/// The pods.
pub(crate) const BANK: &str = "bank-0";
pub(crate) const THIEF: &str = "evil-0";

/// How often the port is asked before no other answer is expected.
const QUESTIONS: usize = 20;

/// A victim with a claim `bank`, a thief with the rights of an editor and, once it
/// has one, a Service `evil`, and a controller that serves both at one address.
pub(crate) struct Place {
    pub(crate) replica: Replica,
    pub(crate) victim: Tenant,
    pub(crate) thief: Tenant,
    pub(crate) front: Front,
}

/// How often which pod answered.
pub(crate) type Answers = BTreeMap<String, usize>;

impl Place {
    /// Both in the class `<name>`, in namespaces `<name>` and `<name>-thief`.
    pub(crate) async fn open(cluster: &Arc<Cluster>, name: &str, class: Value) -> anyhow::Result<Self> {
        let replica = Replica::alone(SHAREDLB, cluster, &[]).await?;
        let victim = Tenant::open(cluster, name, class).await?;
        victim.pod(BANK, "bank").await?;
        let port = json!([{"name": "db", "port": VICTIMS, "targetPort": "http"}]);
        let spec = json!({"selector": {"app": "bank"}, "ports": port});
        victim.site.claim_with("bank", spec).await?;
        let claim = victim.site.ready("bank").await?;
        let address = claim.status.and_then(|status| status.address).context("an address")?;
        let thief = victim.neighbour(&format!("{name}-thief")).await?;
        let client = editor(cluster, &thief.site.namespace).await?;
        let claims = Api::<SharedLB>::namespaced(client.clone(), &thief.site.namespace);
        let services = Api::namespaced(client, &thief.site.namespace);
        let thief = Tenant { site: Site { claims, ..thief.site.clone() }, services, ..thief };
        thief.pod(THIEF, "evil").await?;
        let place = Self { replica, victim, thief, front: Front::tcp(address.parse()?, VICTIMS) };
        place.only_the_bank(QUESTIONS).await?;
        Ok(place)
    }

    /// The thief's Service, with a port of its own at the shared address.
    pub(crate) async fn thiefs_service(&self) -> anyhow::Result<Front> {
        let annotations = json!({"sharedlb.dev/address": self.front.address.to_string()});
        self.thief.service_with("evil", annotations, json!({"ports": [port(OWN)]})).await?;
        let own = self.thief.served("evil", &[(OWN, Tcp)]).await?[0];
        ensure!(own.address == self.front.address, "{own:?} is not at {:?}", self.front);
        self.thief.only_answer(own, &[THIEF]).await?;
        self.thief.only_answer_inside(own, &[THIEF]).await?;
        Ok(own)
    }

    /// The thief edits its Service alone: to the victim's number and back, so many
    /// times.
    pub(crate) async fn edits(&self, times: usize) -> anyhow::Result<()> {
        for _ in 0..times {
            for number in [VICTIMS, OWN] {
                self.thief.change("evil", json!({"spec": {"ports": [port(number)]}})).await?;
                self.only_the_bank(QUESTIONS).await?;
            }
        }
        Ok(())
    }

    /// Requires that the victim's port leads to the victim's pod and nowhere else.
    pub(crate) async fn only_the_bank(&self, questions: usize) -> anyhow::Result<()> {
        only_the_bank(&self.answers(self.front, questions).await, questions)
    }

    /// Asks so often from outside and from inside.
    async fn answers(&self, front: Front, questions: usize) -> Answers {
        let mut answers = Answers::new();
        for _ in 0..questions {
            for answer in [self.victim.ask(front).await.map(|answer| answer.name), self.victim.ask_inside(front).await]
            {
                *answers.entry(answer.unwrap_or_default()).or_default() += 1;
            }
        }
        answers
    }

    /// Asks at the victim's port all the time while something happens, and
    /// requires that only the victim's pod answers.
    pub(crate) async fn while_asked<T>(&self, happens: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        let answers = RefCell::new(Answers::new());
        let note = |answer: anyhow::Result<String>| {
            *answers.borrow_mut().entry(answer.unwrap_or_default()).or_default() += 1;
        };
        let outside = async {
            loop {
                note(self.victim.ask(self.front).await.map(|answer| answer.name));
            }
        };
        let inside = async {
            loop {
                note(self.victim.ask_inside(self.front).await);
            }
        };
        let result = tokio::select! {
            result = happens => result?,
            ((), ()) = join(outside, inside) => unreachable!("it asks for ever"),
        };
        only_the_bank(&answers.borrow(), 1)?;
        Ok(result)
    }

    /// Removes what this was about, and ends the controller, so that the next test
    /// finds nothing of this one.
    pub(crate) async fn clear(mut self) -> anyhow::Result<()> {
        for service in self.thief.services.list(&Default::default()).await? {
            self.thief.delete(&service.name_any()).await?;
        }
        self.victim.site.delete("bank").await?;
        self.victim.site.delete_class().await?;
        self.victim.site.class_gone().await?;
        self.replica.kill().await
    }
}

/// A port of a Service that leads to the pods' `http`.
pub(crate) fn port(number: u16) -> Value {
    json!({"name": "http", "port": number, "targetPort": "http"})
}

/// Requires that the bank's pod answered at least so often, and no other did.
fn only_the_bank(answers: &Answers, least: usize) -> anyhow::Result<()> {
    let others: Vec<_> = answers.keys().filter(|name| *name != BANK && !name.is_empty()).collect();
    ensure!(others.is_empty(), "{others:?} answer at the victim's port: {answers:?}");
    ensure!(answers.get(BANK).is_some_and(|count| *count >= least), "the victim hardly answers: {answers:?}");
    Ok(())
}
