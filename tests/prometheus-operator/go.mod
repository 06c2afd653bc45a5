// The CRDs of the Prometheus operator, for tests of objects of its kinds.
module sharedlb.dev/testbed/prometheus-operator

go 1.26.0

require github.com/prometheus-operator/prometheus-operator v0.85.0
