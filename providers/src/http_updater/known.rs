//! What is known of a load balancer between calls. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::journal::Stored;
use super::record::{Record, Records};
use super::settings::Timeouts;
use crate::model::{FrontPort, Transport};

/// What is known of a load balancer. The journal has it too, but for a moment.
#[derive(Debug, Clone)]
pub(super) struct Known {
    /// The records
    pub(super) records: Records,
    /// The journal as it was last read or written; `None`: it does not exist
    pub(super) stored: Option<Stored>,
    /// When what a record says was posted last, or first read
    since: BTreeMap<FrontPort, Instant>,
    /// The TCP ports that were open after they were posted
    open: BTreeSet<FrontPort>,
    /// The ports that this process has deleted. NGINX may not have closed them yet
    deleted: BTreeSet<FrontPort>,
}

impl Known {
    /// What a process knows that was just started.
    pub(super) fn new(stored: Option<Stored>, now: Instant) -> Self {
        let records = stored.as_ref().map(Stored::records).unwrap_or_default();
        let since = records.keys().map(|port| (*port, now)).collect();
        Self { records, stored, since, open: BTreeSet::new(), deleted: BTreeSet::new() }
    }

    /// Takes in the journal as it is now. What this process has posted is certain, whatever
    /// another client has made of the journal; of a record that it does not know, nothing is.
    pub(super) fn reread(&mut self, stored: Option<Stored>) {
        let found = stored.as_ref().map(Stored::records).unwrap_or_default();
        for (port, record) in found {
            self.records.entry(port).or_insert(Record { posted: None, ..record });
        }
        self.stored = stored;
    }

    /// Whether the journal has these records.
    pub(super) fn is_stored(&self) -> bool {
        self.stored.as_ref().is_some_and(|stored| stored.has(&self.records))
    }

    /// Whether what was posted for a front port is to be posted again: the class has other
    /// timeouts by now, or it was posted long ago, and may have been altered since.
    pub(super) fn is_due(&self, port: FrontPort, timeouts: Timeouts, repeat_after: Duration) -> bool {
        let posted = self.records.get(&port).and_then(|record| record.posted.as_ref());
        let is_old = self.since.get(&port).is_none_or(|since| since.elapsed() >= repeat_after);
        posted.is_some_and(|posted| is_old || posted.timeouts != timeouts)
    }

    /// Whether a port would be opened that the updater does not have, and did not have before.
    pub(super) fn is_new(&self, port: FrontPort) -> bool {
        !self.records.contains_key(&port) && !self.deleted.contains(&port)
    }

    /// Records that a call about a front port begins.
    pub(super) fn begin(&mut self, port: FrontPort, record: Option<&Record>) {
        let found = self.records.remove(&port);
        if let Some(record) = record.cloned().or(found) {
            self.records.insert(port, Record { posted: None, ..record });
        }
    }

    /// Records that a call about a front port was not begun after all.
    pub(super) fn restore(&mut self, port: FrontPort, before: Option<&Record>) {
        match before {
            Some(record) => _ = self.records.insert(port, record.clone()),
            None => _ = self.records.remove(&port),
        }
    }

    /// Records that a front port is as this record says.
    pub(super) fn complete(&mut self, port: FrontPort, record: Option<Record>) {
        match record {
            Some(record) => {
                self.deleted.remove(&port);
                self.records.insert(port, record);
            }
            None => {
                self.deleted.insert(port);
                self.records.remove(&port);
            }
        }
    }

    /// Records that a backend was posted just now. A port that had servers before stays open
    /// meanwhile, unless what was posted is a repetition, which checks everything again.
    pub(super) fn posted(&mut self, port: FrontPort, is_repetition: bool) {
        self.since.insert(port, Instant::now());
        if is_repetition {
            self.open.remove(&port);
        }
    }

    /// Records that nothing is at a front port, or nothing that is known.
    pub(super) fn closed(&mut self, port: FrontPort) {
        self.since.remove(&port);
        self.open.remove(&port);
    }

    /// Records that a port was found open.
    pub(super) fn opened(&mut self, port: FrontPort) {
        self.open.insert(port);
    }

    /// The TCP ports with servers that were not found open yet.
    pub(super) fn unverified(&self) -> BTreeSet<FrontPort> {
        let is_served = |record: &Record| record.posted.as_ref().is_some_and(|posted| !posted.servers.is_empty());
        let served = self.records.iter().filter(|(port, record)| port.transport == Transport::Tcp && is_served(record));
        served.map(|(port, _)| *port).filter(|port| !self.open.contains(port)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http_updater::record::Posted;
    use crate::model::Owner;

    const TIMEOUTS: Timeouts = Timeouts { proxy_timeout_seconds: 600, proxy_connect_timeout_seconds: 0 };
    const MINUTE: Duration = Duration::from_secs(60);

    fn port(number: u16) -> FrontPort {
        FrontPort { port: number.try_into().unwrap(), transport: Transport::Tcp }
    }

    fn record(number: u16, server: &str) -> Record {
        Record {
            listener: port(number).into(),
            owner: Owner::parse("team/claim").unwrap(),
            posted: Some(Posted { servers: [server.parse().unwrap()].into(), timeouts: TIMEOUTS }),
        }
    }

    fn known() -> Known {
        let mut known = Known::new(None, Instant::now());
        known.complete(port(1), Some(record(1, "10.0.0.1:80")));
        known.posted(port(1), false);
        known
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_posted_is_repeated_after_a_while_or_with_other_timeouts() {
        let known = known();
        assert!(!known.is_due(port(1), TIMEOUTS, MINUTE));
        assert!(known.is_due(port(1), Timeouts { proxy_timeout_seconds: 5, ..TIMEOUTS }, MINUTE));
        tokio::time::advance(MINUTE).await;
        assert!(known.is_due(port(1), TIMEOUTS, MINUTE));
        assert!(!known.is_due(port(2), TIMEOUTS, MINUTE), "nothing was posted there");
    }

    #[test]
    fn a_journal_that_another_client_has_deleted_loses_no_record_of_a_process_that_runs() {
        let mut known = known();
        known.reread(None);
        assert_eq!(known.records, [(port(1), record(1, "10.0.0.1:80"))].into());
        assert!(!known.is_stored());
    }

    #[test]
    fn after_a_call_without_an_answer_nothing_is_known_of_a_backend() {
        let mut known = known();
        known.begin(port(1), Some(&record(1, "10.0.0.2:80")));
        assert_eq!(known.records[&port(1)].posted, None);
        assert!(!known.is_due(port(1), TIMEOUTS, Duration::ZERO), "its listener differs, by which it is posted");
        // A DELETE of what is not recorded leaves no record.
        known.begin(port(2), None);
        assert!(!known.records.contains_key(&port(2)));
    }

    #[test]
    fn a_port_that_was_just_deleted_is_not_taken_for_a_foreign_one() {
        let mut known = known();
        assert!(!known.is_new(port(1)) && known.is_new(port(2)));
        known.complete(port(1), None);
        assert!(!known.is_new(port(1)));
    }

    #[test]
    fn ports_with_servers_are_verified_until_they_were_open_and_again_after_a_repetition() {
        let mut known = known();
        assert_eq!(known.unverified(), [port(1)].into());
        known.opened(port(1));
        known.posted(port(1), false);
        assert!(known.unverified().is_empty(), "it stays open while its backends change");
        known.posted(port(1), true);
        assert_eq!(known.unverified(), [port(1)].into());
    }
}
