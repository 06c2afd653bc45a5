//! The commands: each makes a report of a snapshot, and renders it.

pub(crate) mod adopt;
pub(crate) mod completion;
pub(crate) mod cost;
pub(crate) mod doctor;
pub(crate) mod drain;
pub(crate) mod explain;
pub(crate) mod ports;
pub(crate) mod status;
pub(crate) mod version;
pub(crate) mod who_has;
