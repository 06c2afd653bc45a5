"""The numbers that AWS enforces, each with the page that names it.

USER GUIDE is https://docs.aws.amazon.com/elasticloadbalancing/latest.
"""

# USER GUIDE/network/load-balancer-limits.html. The names are those of
# DescribeAccountLimits (API reference, `Limit`).
QUOTAS = {
    # "Network Load Balancers per Region".
    "network-load-balancers": 50,
    # "Listeners per Network Load Balancer", not adjustable.
    "listeners-per-network-load-balancer": 50,
    # "Target Groups per Region", shared with Application Load Balancers.
    "target-groups": 3000,
    # "Targets per Availability Zone per Network Load Balancer"; a target that
    # is in N target groups counts N times.
    "targets-per-availability-zone-per-network-load-balancer": 500,
    # "Targets per Network Load Balancer".
    "targets-per-network-load-balancer": 3000,
}

# The same page, footnote 3: "If cross-zone load balancing is enabled, the
# maximum number of targets per load balancer is 500, regardless of the number
# of Availability Zones."
TARGETS_WITH_CROSS_ZONE = 500

# The same page: "Targets per Target Group per Region (instances or IP
# addresses)". DescribeAccountLimits does not tell it.
TARGETS_PER_GROUP = 1000

# API reference, `TooManyTags`, and USER GUIDE/network/load-balancer-tags.html:
# "Maximum number of tags per resource: 50".
TAGS = 50

# API reference, DescribeTags: "You can specify up to 20 resources in a single
# call." DescribeLoadBalancers says the same of load balancers.
ARNS_A_CALL = 20

# API reference, `PageSize`: "Valid Range: Minimum value of 1. Maximum value of 400."
PAGE = 400

# The API reference names no limit; the AWS Load Balancer Controller never sends
# more than this in a call (pkg/targetgroupbinding/targets_manager.go).
TARGETS_A_CALL = 200

# USER GUIDE/userguide/elb-api-throttling.html: tokens in a bucket, and those
# that come back each second, for an account and region.
BUCKETS = {
    # "the token bucket size for non-mutating API actions is 40 tokens", and 10 a second.
    "reads": (40, 10),
    # RegisterTargets and DeregisterTargets have a bucket of their own.
    "targets": (20, 4),
    # Every other action.
    "writes": (20, 3),
}

# USER GUIDE/network/edit-target-group-attributes.html#deregistration-delay:
# the default.
DEREGISTRATION_SECONDS = 300
