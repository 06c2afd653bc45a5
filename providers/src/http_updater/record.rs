//! What is recorded of the backends at the updater. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::ops::Not;

use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;

use super::settings::Timeouts;
use crate::model::{Backend, FrontPort, LbName, Listener, ListenerKey, ListenerOptions, Owner, Transport, port_number};

/// The records of a load balancer, one for each of its front ports.
pub(super) type Records = BTreeMap<FrontPort, Record>;

/// What is recorded of the backend of one front port. There is a record before the updater
/// has the backend, and until it has it no more.
#[skip_serializing_none]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    /// The listener that the front port belongs to
    pub(super) listener: ListenerKey,
    /// The owner of the listener
    pub(super) owner: Owner,
    /// What the updater has; `None`: not known, since a call was begun
    pub(super) posted: Option<Posted>,
    /// Whether the backend was deleted and the port was not seen closed since: NGINX may still
    /// lead to its former servers
    #[serde(default, skip_serializing_if = "Not::not")]
    pub(super) closing: bool,
    /// Whether a call got no answer, and may be carried out late by a proxy or the updater
    #[serde(default, skip_serializing_if = "Not::not")]
    pub(super) lost: bool,
    /// Whether the port is closed and has no listener. Such a record stays after a lost call,
    /// until the backend was deleted once more
    #[serde(default, skip_serializing_if = "Not::not")]
    pub(super) released: bool,
}

impl Record {
    /// The record of a backend of which nothing is known but its port.
    pub(super) fn unknown(port: FrontPort) -> Self {
        Self {
            listener: port.into(),
            owner: Owner::unknown(),
            posted: None,
            closing: false,
            lost: false,
            released: false,
        }
    }

    /// Whether the updater has servers for the port, as far as is known.
    pub(super) fn has_servers(&self) -> bool {
        self.posted.as_ref().is_some_and(|posted| !posted.servers.is_empty())
    }

    /// Whether the updater certainly has no backend for the port.
    pub(super) fn is_deleted(&self) -> bool {
        self.posted.as_ref().is_some_and(|posted| posted.servers.is_empty())
    }
}

/// What was posted last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Posted {
    /// The servers; none: the updater has no such backend
    pub(super) servers: BTreeSet<SocketAddr>,
    /// The timeouts
    #[serde(flatten)]
    pub(super) timeouts: Timeouts,
}

/// The name of a backend at the updater, which makes it the name of a file and a part of a
/// configuration: lower-case letters, digits and hyphens, at most 42 of them. That of the
/// load balancer has a hash of its cluster and class.
pub(super) fn backend_name(name: &LbName, port: FrontPort) -> String {
    format!("{name}-{}", key(port))
}

/// The key of a record: `20000-tcp`.
pub(super) fn key(FrontPort { port, transport }: FrontPort) -> String {
    format!("{port}-{}", transport.lower_case())
}

/// The front port with this key.
pub(super) fn port_of(key: &str) -> Option<FrontPort> {
    let (number, transport) = key.split_once('-')?;
    let port = port_number(number.parse().ok()?)?;
    let transport = [Transport::Tcp, Transport::Udp].into_iter().find(|known| known.lower_case() == transport)?;
    let found = FrontPort { port, transport };
    (self::key(found) == key).then_some(found)
}

/// The servers of one transport of a listener.
pub(super) fn servers(listener: &Listener, transport: Transport) -> BTreeSet<SocketAddr> {
    let backends = listener.backends.iter().filter(|backend| backend.takes(transport));
    backends.map(|backend| SocketAddr::new(backend.address, backend.port.get())).collect()
}

/// The listeners that these records are of. One of which not everything is known has an unknown
/// owner, so that it differs from every desired one.
pub(super) fn listeners(records: &Records) -> BTreeMap<ListenerKey, Listener> {
    let mut parts: BTreeMap<ListenerKey, BTreeMap<Transport, &Record>> = BTreeMap::new();
    for (port, record) in records.iter().filter(|(_, record)| !record.released) {
        parts.entry(listener_of(*port, records)).or_default().insert(port.transport, record);
    }
    parts.into_iter().map(|(key, parts)| (key, listener(key, &parts))).collect()
}

/// The listener that the record of a front port is a part of. A record that is left of a
/// listener of both transports is a listener by itself.
pub(super) fn listener_of(port: FrontPort, records: &Records) -> ListenerKey {
    let of_both = records.get(&port).map(|record| record.listener).filter(|key| {
        let is_part = |part| records.get(&part).is_some_and(|record| record.listener == *key);
        key.has(port) && key.front_ports().all(is_part)
    });
    of_both.unwrap_or_else(|| port.into())
}

fn listener(key: ListenerKey, parts: &BTreeMap<Transport, &Record>) -> Listener {
    let all_known = parts.values().all(|record| record.posted.is_some());
    let owner = parts.values().next().filter(|_| all_known).map_or_else(Owner::unknown, |record| record.owner.clone());
    let of = |transport| {
        let posted = parts.get(&transport).and_then(|record| record.posted.as_ref());
        posted.iter().flat_map(|posted| &posted.servers).filter_map(|server| backend(*server)).collect()
    };
    let backends = Backend::by_transport(key.protocol, of);
    Listener { owner, backends: backends.into(), options: ListenerOptions::default() }
}

fn backend(server: SocketAddr) -> Option<Backend> {
    let port = server.port().try_into().ok()?;
    Some(Backend { address: server.ip(), port, pod: None, node: None, provider_id: None, transport: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Protocol;

    fn port(number: u16, transport: Transport) -> FrontPort {
        FrontPort { port: number.try_into().unwrap(), transport }
    }

    fn record(listener: &str, claim: &str, servers: Option<&[&str]>) -> Record {
        let timeouts = Timeouts { proxy_timeout_seconds: 600, proxy_connect_timeout_seconds: 0 };
        let servers = servers.map(|servers| servers.iter().map(|server| server.parse().unwrap()).collect());
        Record {
            listener: listener.parse().unwrap(),
            owner: Owner { namespace: "team".into(), claim: claim.into(), port: "".into() },
            posted: servers.map(|servers| Posted { servers, timeouts }),
            ..Record::unknown(port(1, Transport::Tcp))
        }
    }

    #[test]
    fn names_of_backends_have_letters_digits_and_hyphens_only_and_a_bounded_length() {
        let names: BTreeSet<String> = ["default", "a-class.with_a-very/long\"name; indeed"]
            .into_iter()
            .flat_map(|class| ["uid", "other"].map(|uid| LbName::new(class, 0, "cluster", uid)))
            .flat_map(|lb| [1, 65535].map(|number| (lb.clone(), number)))
            .flat_map(|(lb, number)| [Transport::Tcp, Transport::Udp].map(|t| backend_name(&lb, port(number, t))))
            .collect();
        assert_eq!(names.len(), 16, "each class, port and protocol has a name of its own: {names:?}");
        for name in names {
            assert!(name.len() <= 42, "{name}");
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'), "{name}");
        }
    }

    #[test]
    fn a_key_reads_back_as_it_was_written_and_no_other_text_is_one() {
        for port in [port(1, Transport::Tcp), port(65535, Transport::Udp)] {
            assert_eq!(port_of(&key(port)), Some(port));
        }
        for text in ["", "20000", "20000-sctp", "0-tcp", "65536-tcp", "020000-tcp", "note"] {
            assert_eq!(port_of(text), None, "{text}");
        }
    }

    #[test]
    fn a_listener_of_both_transports_is_told_from_two_listeners() {
        let [tcp, udp] = [Transport::Tcp, Transport::Udp].map(|transport| port(53, transport));
        let both = Records::from([
            (tcp, record("53/TCP_UDP", "dns", Some(&["10.0.0.1:53"]))),
            (udp, record("53/TCP_UDP", "dns", Some(&["10.0.0.1:53"]))),
        ]);
        assert_eq!(listeners(&both).keys().map(ToString::to_string).collect::<Vec<_>>(), ["53/TCP_UDP"]);
        let two = Records::from([
            (tcp, record("53/TCP", "a", Some(&[]))),
            (udp, record("53/UDP", "b", Some(&["[fd00::1]:53"]))),
        ]);
        let listeners = listeners(&two);
        assert_eq!(listeners.keys().map(ToString::to_string).collect::<Vec<_>>(), ["53/TCP", "53/UDP"]);
        let of_udp = &listeners[&ListenerKey { port: udp.port, protocol: Protocol::Udp }];
        assert_eq!((&*of_udp.owner.claim, of_udp.backends.len()), ("b", 1));
    }

    #[test]
    fn what_is_left_of_a_listener_of_both_transports_overlaps_with_no_other_listener() {
        let records = Records::from([
            (port(53, Transport::Tcp), record("53/TCP_UDP", "dns", None)),
            (port(53, Transport::Udp), record("53/UDP", "dns", Some(&[]))),
        ]);
        assert_eq!(listeners(&records).keys().map(ToString::to_string).collect::<Vec<_>>(), ["53/TCP", "53/UDP"]);
    }

    #[test]
    fn a_port_that_is_closing_is_a_listener_and_one_that_is_released_is_none() {
        let deleted = |released: bool| Record { closing: !released, released, ..record("80/TCP", "web", Some(&[])) };
        for (released, count) in [(false, 1), (true, 0)] {
            let records = Records::from([(port(80, Transport::Tcp), deleted(released))]);
            assert_eq!(listeners(&records).len(), count);
        }
    }

    #[test]
    fn a_record_without_doubts_is_as_short_as_it_can_be() {
        let record = record("80/TCP", "web", None);
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(text, r#"{"listener":"80/TCP","owner":{"namespace":"team","claim":"web"}}"#);
        assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
    }

    #[test]
    fn a_listener_after_a_call_without_a_result_differs_from_every_desired_one() {
        let records = Records::from([(port(80, Transport::Tcp), record("80/TCP", "web", None))]);
        assert!(listeners(&records).values().all(|listener| listener.owner.is_unknown()));
    }
}
