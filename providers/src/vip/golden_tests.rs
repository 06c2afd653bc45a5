//! The Services of load balancers with addresses of one's own, as golden files.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use sharedlb_kubernetes::events::Events;

use super::{Settings, Vip};
use crate::golden;
use crate::service::golden_tests::{ApiServer, client};

/// The settings of a class.
#[derive(Serialize, Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Class {
    addresses: Vec<Vec<IpAddr>>,
}

#[tokio::test]
async fn services_and_their_status_are_as_in_the_golden_files() {
    golden::check("vip", |class: &Class| {
        let server = Arc::<Mutex<ApiServer>>::default();
        let client = client(&server);
        // No Event is written.
        let (events, _) = Events::new(client.clone(), |_| {});
        let settings = Settings {
            client,
            namespace: "lbs".into(),
            cluster_id: "cluster".into(),
            class: "default".into(),
            class_uid: "uid".into(),
            addresses: class.addresses.clone(),
            events,
        };
        (Vip::new(settings), move || std::mem::take(&mut server.lock().unwrap().written))
    })
    .await;
}
