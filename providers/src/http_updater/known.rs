//! What is known of a load balancer between calls. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::journal::Stored;
use super::record::{Posted, Record, Records, listener_of};
use super::settings::Timeouts;
use super::verify::Listening;
use crate::model::{Address, FrontPort, ListenerKey, Transport};

/// What is known of a load balancer.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    /// The front ports that the updater has a backend for, or had one
    pub(super) entries: Entries,
    /// The TCP ports that could not be opened, since something listens there that is foreign
    pub(super) foreign: BTreeSet<FrontPort>,
    /// The journal as it was last read or written; `None`: it does not exist
    pub(super) stored: Option<Stored>,
}

/// What is known of front ports.
pub(super) type Entries = BTreeMap<FrontPort, Entry>;

/// What is known of one front port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its record. The journal has it too, but for a moment
    pub(super) record: Record,
    /// When the last call about it began or ended, or the record was first read
    pub(super) since: Instant,
    /// What the last connection to it has found; `None`: there was none since the last call
    pub(super) found: Option<Listening>,
}

impl Entry {
    fn new(record: Record, now: Instant) -> Self {
        Self { record, since: now, found: None }
    }

    /// Whether the last call about it was so long ago that another client may have altered the
    /// backend since.
    pub(super) fn is_old(&self, repeat_after: Duration) -> bool {
        self.since.elapsed() >= repeat_after
    }

    /// Whether what was last asked of the updater is to be asked again: it was long ago, or the
    /// class has other timeouts by now.
    fn is_due(&self, timeouts: Timeouts, repeat_after: Duration) -> bool {
        let Some(posted) = &self.record.posted else { return false };
        self.is_old(repeat_after) || (self.record.has_servers() && posted.timeouts != timeouts)
    }

    /// Whether NGINX was not seen yet to do what was last asked of the updater.
    fn is_unverified(&self) -> bool {
        self.record.closing || (self.record.has_servers() && self.found != Some(Listening::Open))
    }
}

impl Known {
    /// What a process knows that was just started. A call that its predecessor had begun may
    /// still be carried out.
    pub(super) fn new(stored: Option<Stored>, now: Instant) -> Self {
        let records = stored.as_ref().map(Stored::records).unwrap_or_default();
        let entry = |record: Record| {
            let lost = record.lost || record.posted.is_none();
            Entry::new(Record { lost, ..record }, now)
        };
        let entries = records.into_iter().map(|(port, record)| (port, entry(record))).collect();
        Self { entries, foreign: BTreeSet::new(), stored }
    }

    /// Takes in the journal as it is now. What this process has posted is certain, whatever
    /// another client has made of the journal; of a record that it does not know, nothing is.
    pub(super) fn reread(&mut self, stored: Option<Stored>, now: Instant) {
        let records = stored.as_ref().map(Stored::records).unwrap_or_default();
        for (port, record) in records {
            let is_known = self.entries.get(&port).is_some_and(|entry| !entry.record.released || record.released);
            if !is_known {
                self.entries.insert(port, Entry::new(Record { posted: None, ..record }, now));
            }
        }
        self.stored = stored;
    }

    /// The records.
    pub(super) fn records(&self) -> Records {
        self.entries.iter().map(|(port, entry)| (*port, entry.record.clone())).collect()
    }

    /// Whether the journal has these records.
    pub(super) fn is_stored(&self) -> bool {
        self.stored.as_ref().is_some_and(|stored| stored.has(&self.records()))
    }

    /// Whether what was last asked of the updater for a front port is to be asked again.
    pub(super) fn is_due(&self, port: FrontPort, timeouts: Timeouts, repeat_after: Duration) -> bool {
        self.entries.get(&port).is_some_and(|entry| entry.is_due(timeouts, repeat_after))
    }

    /// Whether the updater may have servers for a front port.
    pub(super) fn may_be_served(&self, port: FrontPort) -> bool {
        self.entries.get(&port).is_some_and(|entry| !entry.record.is_deleted())
    }

    /// Records that a call about a front port begins: until its answer, nothing is known.
    pub(super) fn begin(&mut self, port: FrontPort, wanted: Option<&Record>, now: Instant) {
        let found = self.entries.remove(&port).map(|entry| entry.record);
        let record = match (wanted.cloned(), found) {
            // What was found out about it since the change was planned counts.
            (Some(wanted), Some(found)) => Some(Record { closing: found.closing, lost: found.lost, ..wanted }),
            (wanted, found) => wanted.or(found),
        };
        if let Some(record) = record {
            self.entries.insert(port, Entry::new(Record { posted: None, released: false, ..record }, now));
        }
    }

    /// Records that a front port is as it was, since a call about it was not made after all.
    pub(super) fn restore(&mut self, port: FrontPort, before: Option<&Entry>) {
        match before {
            Some(entry) => _ = self.entries.insert(port, entry.clone()),
            None => _ = self.entries.remove(&port),
        }
    }

    /// Records that a call about a front port got no answer: it may be carried out late.
    pub(super) fn lost(&mut self, port: FrontPort) {
        if let Some(entry) = self.entries.get_mut(&port) {
            entry.record.lost = true;
        }
    }

    /// Records that a backend was posted. A port that had servers before stays open meanwhile,
    /// unless what was posted is a repetition, which checks everything again.
    pub(super) fn posted(&mut self, port: FrontPort, record: Record, before: Option<&Entry>, now: Instant) {
        let is_repetition = before.is_some_and(|before| before.record == record);
        let had_servers = before.filter(|before| before.record.has_servers() && !is_repetition);
        let found = had_servers.and_then(|before| before.found);
        self.entries.insert(port, Entry { record: Record { closing: false, ..record }, since: now, found });
    }

    /// Records that a backend was deleted; `wanted`: the record of its listener, if there is one.
    /// NGINX may have the port open, if the updater may have had servers for it `before`.
    pub(super) fn deleted(&mut self, port: FrontPort, wanted: Option<Record>, before: Option<&Entry>, now: Instant) {
        let found = before.map(|entry| &entry.record);
        let closing = found.is_some_and(|record| record.closing || record.lost || !record.is_deleted());
        let timeouts =
            found.or(wanted.as_ref()).and_then(|record| record.posted.as_ref()).map(|posted| posted.timeouts);
        let deleted = Posted { servers: BTreeSet::new(), timeouts: timeouts.unwrap_or_default() };
        let record = wanted.or_else(|| found.cloned());
        if let Some(record) = record {
            let posted = record.posted.clone().filter(|posted| posted.servers.is_empty()).or(Some(deleted));
            self.entries.insert(port, Entry::new(Record { posted, closing, ..record }, now));
        }
    }

    /// Records that no listener wants a front port. If it is deleted and not closing, it is
    /// forgotten, or is deleted once more after a while if a call was lost.
    pub(super) fn release(&mut self, port: FrontPort) {
        let is_closed = |entry: &&mut Entry| entry.record.is_deleted() && !entry.record.closing;
        let Some(entry) = self.entries.get_mut(&port).filter(is_closed) else { return };
        entry.record.released = true;
        if !entry.record.lost {
            self.entries.remove(&port);
        }
    }

    /// The TCP ports to which a connection shows something that is not known yet.
    pub(super) fn to_verify(&self) -> BTreeSet<FrontPort> {
        let unverified = self.entries.iter().filter(|(_, entry)| entry.is_unverified()).map(|(port, _)| *port);
        unverified.chain(self.foreign.iter().copied()).filter(|port| port.transport == Transport::Tcp).collect()
    }

    /// Takes in what connections have found. Ports of UDP cannot be connected to: they count as
    /// closed, unless a TCP port shows that NGINX has not been reloaded.
    pub(super) fn verified(&mut self, found: &BTreeMap<FrontPort, Listening>) {
        self.foreign.retain(|port| found.get(port) != Some(&Listening::Closed));
        for (port, listening) in found {
            let Some(entry) = self.entries.get_mut(port) else { continue };
            entry.found = Some(*listening);
            entry.record.closing &= *listening != Listening::Closed;
        }
        let is_pending = |(port, entry): (&FrontPort, &Entry)| {
            port.transport == Transport::Tcp && (entry.is_unverified() || entry.record.posted.is_none())
        };
        if !self.entries.iter().any(is_pending) {
            self.assume_closed();
        }
    }

    /// Records that no lost call about a front port can still be carried out.
    pub(super) fn forget_lost(&mut self, port: FrontPort) {
        if let Some(entry) = self.entries.get_mut(&port) {
            entry.record.lost = false;
        }
    }

    /// Takes every port that was deleted for closed.
    pub(super) fn assume_closed(&mut self) {
        self.entries.values_mut().for_each(|entry| entry.record.closing = false);
    }

    /// The listeners with a port that is not as the updater was asked to have it, each with the
    /// reason for users.
    pub(super) fn unserved(&self, address: &Address) -> BTreeMap<ListenerKey, String> {
        let records = self.records();
        self.unserved_ports(address).into_iter().map(|(port, why)| (listener_of(port, &records), why)).collect()
    }

    /// The same by front port.
    pub(super) fn unserved_ports(&self, address: &Address) -> BTreeMap<FrontPort, String> {
        let unverified = self.entries.iter().filter(|(_, entry)| entry.is_unverified());
        let tcp_or_closing =
            unverified.filter(|(port, entry)| port.transport == Transport::Tcp || entry.record.closing);
        tcp_or_closing.map(|(port, entry)| (*port, why(*port, entry, address))).collect()
    }
}

/// Why a port is not as the updater was asked to have it.
fn why(port: FrontPort, entry: &Entry, address: &Address) -> String {
    match (entry.record.closing, entry.found) {
        (true, Some(Listening::Open)) => format!(
            "port {port} was deleted at the updater, and {address} still listens there: NGINX has not reloaded, and \
             may lead to former backends (if it stays so, check for a reload that NGINX has refused: nginx -t)"
        ),
        (true, _) if port.transport == Transport::Udp => format!(
            "port {port} was deleted at the updater, and other ports show that NGINX has not reloaded: it may lead to \
             former backends (if it stays so, check for a reload that NGINX has refused: nginx -t)"
        ),
        (true, _) => format!(
            "port {port} was deleted at the updater, and {address} does not answer: whether NGINX has reloaded is not \
             known (a firewall between the controller and {address} must reject connections, not drop them)"
        ),
        (false, Some(Listening::Closed)) => format!(
            "the updater has port {port}, and nothing listens on {address} yet: if it stays so, check for a reload that \
             NGINX has refused (nginx -t), and for a firewall between the controller and {address}"
        ),
        (false, _) => format!(
            "the updater has port {port}, and {address} does not answer there: check for a firewall between the \
             controller and {address}, and for a reload that NGINX has refused (nginx -t)"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Owner;

    const TIMEOUTS: Timeouts = Timeouts { proxy_timeout_seconds: 600, proxy_connect_timeout_seconds: 0 };
    const MINUTE: Duration = Duration::from_secs(60);
    const ADDRESS: Address = Address::Ip(std::net::IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 10)));

    fn port(number: u16) -> FrontPort {
        FrontPort { port: number.try_into().unwrap(), transport: Transport::Tcp }
    }

    fn udp(number: u16) -> FrontPort {
        FrontPort { transport: Transport::Udp, ..port(number) }
    }

    fn record(port: FrontPort, servers: &[&str]) -> Record {
        Record {
            owner: Owner::parse("team/claim").unwrap(),
            posted: Some(Posted {
                servers: servers.iter().map(|server| server.parse().unwrap()).collect(),
                timeouts: TIMEOUTS,
            }),
            ..Record::unknown(port)
        }
    }

    /// What is known after these ports were posted.
    fn known(ports: &[FrontPort]) -> Known {
        let mut known = Known::default();
        for port in ports {
            known.posted(*port, record(*port, &["10.0.0.1:80"]), None, Instant::now());
        }
        known
    }

    fn delete(known: &mut Known, port: FrontPort, wanted: Option<Record>) {
        let before = known.entries.get(&port).cloned();
        known.deleted(port, wanted, before.as_ref(), Instant::now());
    }

    fn found(known: &mut Known, port: FrontPort, listening: Listening) {
        known.verified(&[(port, listening)].into());
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_posted_is_repeated_after_a_while_or_with_other_timeouts() {
        let mut known = known(&[port(1)]);
        delete(&mut known, port(3), Some(record(port(3), &[])));
        let others = Timeouts { proxy_timeout_seconds: 5, ..TIMEOUTS };
        assert!(!known.is_due(port(1), TIMEOUTS, MINUTE));
        assert!(known.is_due(port(1), others, MINUTE));
        assert!(!known.is_due(port(3), others, MINUTE), "what was deleted just now has no timeouts");
        tokio::time::advance(MINUTE).await;
        assert!(known.is_due(port(1), TIMEOUTS, MINUTE) && known.is_due(port(3), TIMEOUTS, MINUTE));
        assert!(!known.is_due(port(2), TIMEOUTS, MINUTE), "nothing was posted there");
    }

    #[test]
    fn a_journal_that_another_client_has_deleted_loses_no_record_of_a_process_that_runs() {
        let mut known = known(&[port(1)]);
        known.reread(None, Instant::now());
        assert_eq!(known.records(), [(port(1), record(port(1), &["10.0.0.1:80"]))].into());
        assert!(!known.is_stored());
    }

    #[test]
    fn a_released_port_that_the_journal_has_in_use_is_not_known() {
        let mut known = known(&[port(1)]);
        known.lost(port(1));
        delete(&mut known, port(1), None);
        found(&mut known, port(1), Listening::Closed);
        known.release(port(1));
        let released = known.records();
        known.reread(Some(Stored::of_records(&[(port(1), record(port(1), &["10.0.0.2:80"]))].into())), Instant::now());
        assert_eq!(known.entries[&port(1)].record.posted, None, "another client has posted it");
        known.entries.get_mut(&port(1)).unwrap().record = released[&port(1)].clone();
        known.reread(Some(Stored::of_records(&released)), Instant::now());
        assert!(known.entries[&port(1)].record.released);
    }

    #[test]
    fn after_a_call_without_an_answer_nothing_is_known_of_a_backend() {
        let mut known = known(&[port(1)]);
        known.begin(port(1), Some(&record(port(1), &["10.0.0.2:80"])), Instant::now());
        assert_eq!(known.entries[&port(1)].record.posted, None);
        assert!(!known.is_due(port(1), TIMEOUTS, Duration::ZERO), "its listener differs, by which it is posted");
        // A DELETE of what is not recorded leaves no record.
        known.begin(port(2), None, Instant::now());
        assert!(!known.entries.contains_key(&port(2)));
    }

    #[test]
    fn a_deleted_port_stays_until_a_connection_to_it_is_refused() {
        let mut known = known(&[port(1)]);
        delete(&mut known, port(1), None);
        for listening in [Listening::Open, Listening::Unknown] {
            found(&mut known, port(1), listening);
            known.release(port(1));
            assert!(known.entries.contains_key(&port(1)), "{listening:?}");
            let why = known.unserved(&ADDRESS)[&port(1).into()].clone();
            assert!(why.contains("NGINX has") && why.contains("reloaded"), "{why}");
        }
        found(&mut known, port(1), Listening::Closed);
        known.release(port(1));
        assert!(known.entries.is_empty());
    }

    #[test]
    fn a_deleted_port_of_udp_stays_while_a_tcp_port_shows_that_nginx_has_not_reloaded() {
        let mut known = known(&[port(1), udp(2)]);
        found(&mut known, port(1), Listening::Open);
        delete(&mut known, port(1), None);
        delete(&mut known, udp(2), None);
        found(&mut known, port(1), Listening::Open);
        known.release(udp(2));
        assert!(known.unserved(&ADDRESS)[&udp(2).into()].contains("NGINX has not reloaded"));
        found(&mut known, port(1), Listening::Closed);
        known.release(udp(2));
        assert_eq!(known.entries.keys().collect::<Vec<_>>(), [&port(1)]);
    }

    #[test]
    fn a_port_that_never_had_servers_is_not_closing_when_it_is_deleted() {
        let mut known = Known::default();
        delete(&mut known, port(1), Some(record(port(1), &[])));
        assert!(!known.entries[&port(1)].record.closing && !known.may_be_served(port(1)));
    }

    #[test]
    fn a_deleted_port_stays_recorded_after_a_lost_call_and_is_no_listener() {
        let mut known = known(&[port(1)]);
        known.lost(port(1));
        delete(&mut known, port(1), None);
        found(&mut known, port(1), Listening::Closed);
        known.release(port(1));
        let entry = &known.entries[&port(1)];
        assert!(entry.record.released && entry.record.is_deleted());
        assert!(known.is_due(port(1), TIMEOUTS, Duration::ZERO), "it is deleted again");
    }

    #[test]
    fn what_an_earlier_process_had_begun_may_still_be_carried_out() {
        let begun = Record { posted: None, ..record(port(1), &[]) };
        let stored = Stored::of_records(&[(port(1), begun)].into());
        assert!(Known::new(Some(stored), Instant::now()).entries[&port(1)].record.lost);
    }

    #[test]
    fn ports_with_servers_are_verified_until_they_were_open_and_again_after_a_repetition() {
        let mut known = known(&[port(1), udp(1)]);
        assert_eq!(known.to_verify(), [port(1)].into());
        found(&mut known, port(1), Listening::Open);
        let before = known.entries.get(&port(1)).cloned();
        known.posted(port(1), record(port(1), &["10.0.0.2:80"]), before.as_ref(), Instant::now());
        assert!(known.to_verify().is_empty(), "it stays open while its backends change");
        let before = known.entries.get(&port(1)).cloned();
        known.posted(port(1), record(port(1), &["10.0.0.2:80"]), before.as_ref(), Instant::now());
        assert_eq!(known.to_verify(), [port(1)].into());
    }

    #[test]
    fn a_port_of_which_nothing_was_found_out_counts_as_not_served() {
        let mut known = known(&[port(1)]);
        assert!(known.unserved(&ADDRESS).contains_key(&port(1).into()), "there was no time for a connection");
        found(&mut known, port(1), Listening::Unknown);
        assert!(known.unserved(&ADDRESS)[&port(1).into()].contains("does not answer"));
        found(&mut known, port(1), Listening::Open);
        assert!(known.unserved(&ADDRESS).is_empty());
    }

    #[test]
    fn a_foreign_port_is_one_until_a_connection_to_it_is_refused() {
        let mut known = Known { foreign: [port(1)].into(), ..Known::default() };
        assert_eq!(known.to_verify(), [port(1)].into());
        found(&mut known, port(1), Listening::Unknown);
        assert_eq!(known.foreign.len(), 1);
        found(&mut known, port(1), Listening::Closed);
        assert!(known.foreign.is_empty());
    }
}
