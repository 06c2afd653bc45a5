//! Conditions in the status of an object.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// The condition of this type.
#[must_use]
pub fn find(conditions: &[Condition], kind: impl AsRef<str>) -> Option<&Condition> {
    conditions.iter().find(|condition| condition.type_ == kind.as_ref())
}

/// The lastTransitionTime of a condition: that of the former condition if the status is the
/// same, otherwise now.
#[must_use]
pub fn last_transition(before: &[Condition], kind: &str, status: &str, now: Timestamp) -> Time {
    let same = find(before, kind).filter(|before| before.status == status);
    same.map_or_else(|| Time(whole_seconds(now)), |before| before.last_transition_time.clone())
}

/// The time in whole seconds, as the API keeps it: a status with fractions would never equal
/// the one that is read.
#[must_use]
pub fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_the_last_transition_stays_until_the_status_changes() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let ready = Condition {
            type_: "Ready".into(),
            status: "True".into(),
            reason: "Ready".into(),
            message: String::new(),
            observed_generation: None,
            last_transition_time: Time(at(1)),
        };
        let now = at(5) + jiff::SignedDuration::from_millis(300);
        let since = |kind, status| last_transition(std::slice::from_ref(&ready), kind, status, now).0;
        assert_eq!(since("Ready", "True"), at(1));
        assert_eq!(since("Ready", "False"), at(5), "in whole seconds");
        assert_eq!(since("Allocated", "True"), at(5));
    }
}
