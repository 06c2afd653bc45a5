//! The table of docs/providers.md that says what each provider can do.

use std::path::PathBuf;
use std::time::Duration;

use kube::client::Body;
use serde_json::{Value, json};
use sharedlb_crds::{SharedLBClassStatus, TargetKind};
use sharedlb_providers::{AffinitySupport, Capabilities};

use super::*;
use crate::fixtures;

/// Before the table, and behind it.
const MARKS: [&str; 2] = [
    "<!-- from here on written by UPDATE_GOLDEN=1 cargo test --all-features --lib provider::table -->",
    "<!-- as far as here -->",
];

/// The providers in their order in the table, each by the smallest class.
fn classes() -> Vec<(&'static str, Value)> {
    let aws = json!({"region": "eu-central-1", "vpcId": "vpc-1", "subnets": ["subnet-1"]});
    let updater = json!({"url": "https://lb1.example.com/api/v1/lb", "address": "203.0.113.5"});
    vec![
        ("[`service`](provider-service.md)", json!({"service": {}})),
        ("[`vip`](vip.md)", json!({"vip": {}})),
        ("[`aws`](provider-aws.md)", json!({ "aws": aws })),
        ("[`gcp`](provider-gcp.md)", json!({"gcp": {"project": "edge-1", "region": "europe-west3"}})),
        ("[`httpUpdater`](provider-http-updater.md)", json!({ "httpUpdater": updater })),
    ]
}

#[tokio::test]
async fn the_table_of_providers_says_what_they_can_do() {
    // The binary installs it; tests have no `main`.
    _ = rustls::crypto::ring::default_provider().install_default();
    let page = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/providers.md");
    let text = std::fs::read_to_string(&page).expect("the page");
    let [begin, end] = MARKS.map(|mark| text.split_once(mark).unwrap_or_else(|| panic!("{mark} is not in the page")));
    let now = format!("{}{}\n\n{}\n{}{}", begin.0, MARKS[0], table(), MARKS[1], end.1);
    if now != text && std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&page, &now).expect("it can be written");
        return;
    }
    assert_eq!(text, now, "UPDATE_GOLDEN=1 writes the table again");
}

/// The table: a row for each capability, and a column for each provider.
fn table() -> String {
    let (names, classes): (Vec<_>, Vec<_>) = classes().into_iter().unzip();
    let make = maker(shared());
    let capabilities: Vec<[Capabilities; 2]> = classes
        .into_iter()
        .map(|provider| {
            [TargetKind::Pod, TargetKind::Node].map(|targets| {
                let spec = json!({ "provider": provider, "targets": targets });
                let class = fixtures::class(spec.clone(), &SharedLBClassStatus::default(), false);
                let spec = serde_json::from_value(spec).expect("it is a class");
                make(&class, &spec, &[]).capabilities()
            })
        })
        .collect();
    let header = format!("| | {} |\n|---|{}\n", names.join(" | "), "---|".repeat(names.len()));
    let row = |(title, cell): &Row| {
        let cells: Vec<String> = capabilities
            .iter()
            .map(|[pods, nodes]| match (cell(pods), cell(nodes)) {
                (same, other) if same == other => same,
                (pods, nodes) => format!("{pods}; with `targets: Node`: {nodes}"),
            })
            .collect();
        format!("| {title} | {} |\n", cells.join(" | "))
    };
    ROWS.iter().map(row).fold(header, |table, row| table + &row)
}

/// What a row is about, and the text of a cell.
type Row = (&'static str, fn(&Capabilities) -> String);

const ROWS: &[Row] = &[
    ("protocols of a port", |can| list(can.protocols.iter().map(|protocol| format!("`{protocol}`")))),
    ("TCP and UDP of one number for two claims", |can| yes(can.tcp_and_udp_share_a_number)),
    ("TCP and UDP of one port lead to different ports of pods", |can| yes(can.backends_by_transport)),
    ("targets", |can| {
        let kinds = [("`Pod`", can.pod_targets), ("`Node`", can.node_targets)];
        list(kinds.into_iter().filter(|(_, has)| *has).map(|(kind, _)| kind.to_owned()))
    }),
    ("IP families of addresses", |can| match can.address_families.len() {
        0 => "by the class, or what gives addresses".to_owned(),
        _ => list(can.address_families.iter().map(ToString::to_string)),
    }),
    ("`loadBalancerSourceRanges` of claims", |can| yes(can.source_ranges)),
    ("`sessionAffinity` of claims", |can| {
        let text = match can.session_affinity {
            AffinitySupport::None => "no",
            AffinitySupport::FixedTimeout => "yes, without a timeout",
            AffinitySupport::Timeout => "yes, with any timeout",
        };
        text.to_owned()
    }),
    ("listeners of a load balancer, unless the class sets them", |can| can.default_listeners.to_string()),
    ("listeners of a load balancer at most", |can| can.max_listeners.to_string()),
    ("listeners of a `TCP_UDP` port", |can| can.listeners_for_tcp_udp.to_string()),
    ("targets of a load balancer", |can| limit(can.default_targets)),
    ("targets of a port", |can| limit(can.max_targets_per_listener)),
    ("ports that no claim gets", |can| match can.reserved.len() {
        0 => "none".to_owned(),
        _ => list(can.reserved.iter().map(ToString::to_string)),
    }),
    ("changes of endpoints are gathered for", |can| match can.coalesce {
        Duration::ZERO => "no time".to_owned(),
        coalesce => format!("{} ms", coalesce.as_millis()),
    }),
];

fn yes(is_so: bool) -> String {
    if is_so { "yes" } else { "no" }.to_owned()
}

fn limit(limit: Option<u32>) -> String {
    limit.map_or_else(|| "no limit".to_owned(), |limit| limit.to_string())
}

fn list(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(", ")
}

/// What providers share, with an API server that does not answer.
fn shared() -> Shared {
    let silent =
        tower::service_fn(|_: http::Request<Body>| std::future::pending::<Result<http::Response<Body>, kube::Error>>());
    let client = Client::new(silent, "default");
    Shared {
        events: Events::new(client.clone(), |_| {}).0,
        client,
        cluster_id: "cluster".into(),
        aws_call_rate: 1.0,
        resync: Duration::from_secs(600),
        fence: Fence::open(),
        backends: Arc::default(),
    }
}
