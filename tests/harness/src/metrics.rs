//! The metrics of a controller, parsed.

use std::collections::BTreeMap;

use anyhow::Context;

/// All samples of one answer of `/metrics`.
#[derive(Debug)]
pub struct Metrics(Vec<Sample>);

#[derive(Debug)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Metrics {
    /// Reads the text format of Prometheus. Values of labels with commas or quotes in
    /// them do not occur.
    ///
    /// # Errors
    /// If a line is neither a comment nor a sample.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let samples = lines.map(|line| sample(line).with_context(|| format!("this is no sample: {line:?}")));
        samples.collect::<anyhow::Result<_>>().map(Self)
    }

    /// The sum of the samples of this name that have all these labels.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let matches = |sample: &&Sample| {
            let has = |(key, value): &(&str, &str)| sample.labels.get(*key).is_some_and(|found| found == value);
            sample.name == name && labels.iter().all(has)
        };
        // An empty sum of floats is -0.
        self.0.iter().filter(matches).map(|sample| sample.value).sum::<f64>() + 0.0
    }

    /// The names of all metrics.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|sample| sample.name.as_str())
    }
}

/// One line: `name{label="value",…} value`, without labels also `name value`.
fn sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = series.split_once('{').unwrap_or((series, ""));
    let labels = labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty());
    let labels = labels.map(|label| {
        let (key, value) = label.split_once('=')?;
        Some((key.to_owned(), value.trim_matches('"').to_owned()))
    });
    Some(Sample { name: name.to_owned(), labels: labels.collect::<Option<_>>()?, value: value.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_over_all_samples_of_a_name_with_the_labels() {
        let text = "# TYPE writes counter\nwrites{kind=\"A\",result=\"ok\"} 2\nwrites{kind=\"B\",result=\"ok\"} 3\n\
                    writes_other 7\nleader 1.0\n# EOF\n";
        let metrics = Metrics::parse(text).unwrap();
        assert_eq!(metrics.sum("writes", &[]), 5.0);
        assert_eq!(metrics.sum("writes", &[("kind", "B"), ("result", "ok")]), 3.0);
        assert_eq!(metrics.sum("writes", &[("kind", "B"), ("result", "refused")]), 0.0);
        assert_eq!(metrics.sum("leader", &[]), 1.0);
    }

    #[test]
    fn a_line_that_is_no_sample_is_an_error() {
        for line in ["writes", "writes{kind} 1", "writes many"] {
            assert!(Metrics::parse(line).is_err(), "{line}");
        }
    }
}
