//! The journal: the records of a load balancer in a ConfigMap. Since the updater lists nothing,
//! it is the only inventory of what the updater has.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions};
use serde_json::{Value, json};
use sharedlb_kubernetes::names::FIELD_MANAGER;

use super::record::{Record, Records, key, port_of};
use super::settings::{Context, Settings};
use crate::model::{FrontPort, LbName};
use crate::service::api::{What, call};
use crate::service::marks::Marks;
use crate::{Details, Error};

/// The most bytes of the keys and values of a journal. A ConfigMap may have 1 MiB of them
/// (Kubernetes' documentation, "ConfigMaps"); the rest is for what a record may note of doubts.
pub(super) const ROOM: usize = 1_000_000;

/// The ConfigMaps of a class.
pub(super) struct Journal {
    config_maps: Api<ConfigMap>,
    namespace: String,
    marks: Marks,
}

/// The content of a ConfigMap at one of its versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stored {
    version: Option<String>,
    data: BTreeMap<String, String>,
}

impl Stored {
    /// The records. One that cannot be read is of a backend of which nothing is known.
    pub(super) fn records(&self) -> Records {
        let entries = self.data.iter().filter_map(|(key, text)| Some((port_of(key)?, text)));
        entries
            .map(|(port, text)| (port, serde_json::from_str(text).unwrap_or_else(|_| Record::unknown(port))))
            .collect()
    }

    /// Whether these are its records.
    pub(super) fn has(&self, records: &Records) -> bool {
        self.differences(records).is_ok_and(|differences| differences.is_empty())
    }

    /// The values that differ: `None` where there is no record. Keys of others stay.
    fn differences(&self, records: &Records) -> Result<BTreeMap<String, Option<String>>, Error> {
        let wanted = texts(records)?;
        let gone = self.data.keys().filter(|key| port_of(key).is_some() && !wanted.contains_key(*key));
        let gone: Vec<(String, Option<String>)> = gone.map(|key| (key.clone(), None)).collect();
        let differing = wanted.into_iter().filter(|(key, text)| self.data.get(key) != Some(text));
        Ok(differing.map(|(key, text)| (key, Some(text))).chain(gone).collect())
    }

    /// The bytes of the keys and values that are not records.
    pub(super) fn foreign_bytes(&self) -> usize {
        let foreign = self.data.iter().filter(|(key, _)| port_of(key).is_none());
        foreign.map(|(key, text)| key.len() + text.len()).sum()
    }

    /// The journal with these records, for tests.
    #[cfg(test)]
    pub(super) fn of_records(records: &Records) -> Self {
        Self { version: None, data: texts(records).expect("records can be written") }
    }

    fn of(config_map: ConfigMap) -> Self {
        Self { version: config_map.metadata.resource_version, data: config_map.data.unwrap_or_default() }
    }
}

impl Journal {
    pub(super) fn new(context: &Context, settings: &Settings) -> Self {
        let Context { client, namespace, .. } = context;
        Self {
            config_maps: Api::namespaced(client.clone(), namespace),
            namespace: namespace.clone(),
            marks: Marks::new(namespace, &settings.class, &settings.cluster_id),
        }
    }

    /// The ConfigMap of a load balancer, for messages.
    pub(super) fn object(&self, name: &LbName) -> String {
        format!("ConfigMap {}/{name}", self.namespace)
    }

    /// Reads the journal of a load balancer; `None`: there is none.
    ///
    /// # Errors
    /// The error of the call. [`Error::Refused`] if the ConfigMap is foreign.
    pub(super) async fn read(&self, name: &LbName) -> Result<Option<Stored>, Error> {
        let Some(found) = call(self.what("get", name), self.config_maps.get_opt(name.as_str())).await? else {
            return Ok(None);
        };
        if self.marks.load_balancer(&found.metadata).as_ref() != Some(name) {
            return Err(Error::Refused(
                format!("{} is not SharedLB's: delete it, or give it another name", self.object(name)).into(),
            ));
        }
        Ok(Some(Stored::of(found)))
    }

    /// Writes the records, if the journal has others. Returns the new content.
    ///
    /// # Errors
    /// The error of the call. [`Error::Conflict`] if another client has changed the ConfigMap
    /// since it was read.
    pub(super) async fn write(
        &self,
        name: &LbName,
        stored: Option<&Stored>,
        records: &Records,
    ) -> Result<Stored, Error> {
        let Some(stored) = stored else { return self.create(name, records).await };
        let differences = stored.differences(records)?;
        if differences.is_empty() {
            return Ok(stored.clone());
        }
        let patch = json!({"metadata": {"resourceVersion": stored.version}, "data": differences});
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let patch: Patch<Value> = Patch::Merge(patch);
        let written = self.config_maps.patch(name.as_str(), &params, &patch);
        Ok(Stored::of(call(self.what("patch", name), written).await?))
    }

    async fn create(&self, name: &LbName, records: &Records) -> Result<Stored, Error> {
        let config_map = ConfigMap {
            metadata: ObjectMeta {
                name: Some(name.to_string()),
                labels: Some(self.marks.service_labels(name)),
                ..ObjectMeta::default()
            },
            data: Some(texts(records)?),
            ..ConfigMap::default()
        };
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        Ok(Stored::of(call(self.what("create", name), self.config_maps.create(&params, &config_map)).await?))
    }

    /// Deletes the journal, at the version that was read. Succeeds if there is none.
    ///
    /// # Errors
    /// As for [`write`](Self::write).
    pub(super) async fn delete(&self, name: &LbName, stored: &Stored) -> Result<(), Error> {
        let preconditions = Preconditions { resource_version: stored.version.clone(), uid: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        let deleted = async {
            match self.config_maps.delete(name.as_str(), &params).await {
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
                answer => answer.map(drop),
            }
        };
        call(self.what("delete", name), deleted).await
    }

    fn what<'a>(&'a self, verb: &'a str, name: &'a LbName) -> What<'a> {
        What { verb, resource: "configmaps", namespace: &self.namespace, name: name.as_str() }
    }
}

fn texts(records: &Records) -> Result<BTreeMap<String, String>, Error> {
    records.iter().map(|(port, record)| Ok((key(*port), text(record)?))).collect()
}

fn text(record: &Record) -> Result<String, Error> {
    serde_json::to_string(record)
        .map_err(|error| Error::Refused(Details::new("a record cannot be written").caused_by(error)))
}

/// The bytes that a record takes in a journal, with its key.
///
/// # Errors
/// When it cannot be written.
pub(super) fn bytes(port: FrontPort, record: &Record) -> Result<usize, Error> {
    Ok(key(port).len() + text(record)?.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Owner, Transport};

    fn port(number: u16) -> FrontPort {
        FrontPort { port: number.try_into().unwrap(), transport: Transport::Tcp }
    }

    #[test]
    fn a_record_that_was_made_unreadable_is_of_a_backend_of_which_nothing_is_known() {
        let data = [("20000-tcp", "{"), ("note", "of an admin")].map(|(key, text)| (key.to_owned(), text.to_owned()));
        let stored = Stored { version: None, data: data.into() };
        assert_eq!(stored.records(), [(port(20000), Record::unknown(port(20000)))].into());
    }

    #[test]
    fn only_records_that_differ_are_written_and_keys_of_others_stay() {
        let record = |number: u16| {
            (port(number), Record { owner: Owner::parse("a/b").unwrap(), ..Record::unknown(port(number)) })
        };
        let before = Records::from([record(1), record(2)]);
        let mut data = texts(&before).unwrap();
        data.insert("note".to_owned(), "of an admin".to_owned());
        let stored = Stored { version: None, data };
        assert!(stored.has(&before));
        let differences = stored.differences(&Records::from([record(2), record(3)])).unwrap();
        let keys: Vec<(&str, bool)> = differences.iter().map(|(key, text)| (key.as_str(), text.is_some())).collect();
        assert_eq!(keys, [("1-tcp", false), ("3-tcp", true)]);
    }
}
