//! The options of a group of listeners, as attributes of the group's Service.

use std::time::Duration;

use crate::model::{Attributes, ListenerOptions, SessionAffinity};
use crate::service::front::attribute;

/// The attributes that options are made of.
pub(super) const KEYS: [&str; 3] =
    [attribute::LOAD_BALANCER_SOURCE_RANGES, attribute::SESSION_AFFINITY, attribute::AFFINITY_TIMEOUT];

const NO_AFFINITY: &str = "None";
const CLIENT_IP: &str = "ClientIP";

/// The attributes of a Service with these options. Those of the default ones are among them:
/// else a Service would keep what another client has set.
pub(super) fn attributes(options: &ListenerOptions) -> Attributes {
    let affinity = if options.session_affinity.is_some() { CLIENT_IP } else { NO_AFFINITY };
    // Without one, the API server sets its default.
    let timeout = options.session_affinity.and_then(|affinity| affinity.timeout);
    [
        Some((attribute::LOAD_BALANCER_SOURCE_RANGES, ranges(options))),
        Some((attribute::SESSION_AFFINITY, affinity.to_owned())),
        timeout.map(|timeout| (attribute::AFFINITY_TIMEOUT, timeout.as_secs().to_string())),
    ]
    .into_iter()
    .flatten()
    .map(|(key, value)| (key.to_owned(), value))
    .collect()
}

/// The options of a Service with these attributes.
pub(super) fn read(attributes: &Attributes) -> ListenerOptions {
    let value = |key: &str| attributes.get(key).map(String::as_str).unwrap_or_default();
    let ranges = value(attribute::LOAD_BALANCER_SOURCE_RANGES).split(',').filter_map(|range| range.parse().ok());
    let timeout = value(attribute::AFFINITY_TIMEOUT).parse().ok().map(Duration::from_secs);
    let has_affinity = value(attribute::SESSION_AFFINITY) == CLIENT_IP;
    ListenerOptions::new(ranges, has_affinity.then_some(SessionAffinity { timeout }))
}

/// A text that only these options have. The name of a Service is derived from it,
/// so it must be the same in every version.
pub(super) fn identity(options: &ListenerOptions) -> String {
    attributes(options).into_iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(";")
}

fn ranges(options: &ListenerOptions) -> String {
    options.source_ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::arbitrary::options;

    proptest! {
        #[test]
        fn options_read_back_as_they_were_written(options in options()) {
            prop_assert_eq!(read(&attributes(&options)), options);
        }
    }
}
