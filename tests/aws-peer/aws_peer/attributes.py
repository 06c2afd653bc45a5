"""Attributes of load balancers and target groups: those of Network Load
Balancers, with their defaults, from the API reference of `LoadBalancerAttribute`
and `TargetGroupAttribute`."""

from aws_peer.errors import invalid, refused
from aws_peer.quotas import DEREGISTRATION_SECONDS

BALANCER = {
    "access_logs.s3.enabled": "false",
    "access_logs.s3.bucket": "",
    "access_logs.s3.prefix": "",
    "deletion_protection.enabled": "false",
    "dns_record.client_routing_policy": "any_availability_zone",
    "ipv6.deny_all_igw_traffic": "false",
    "load_balancing.cross_zone.enabled": "false",
    "secondary_ips.auto_assigned.per_subnet": "0",
    "zonal_shift.config.enabled": "false",
}

GROUP = {
    "deregistration_delay.connection_termination.enabled": "false",
    "deregistration_delay.timeout_seconds": str(DEREGISTRATION_SECONDS),
    "load_balancing.cross_zone.enabled": "use_load_balancer_configuration",
    "preserve_client_ip.enabled": "true",
    "proxy_protocol_v2.enabled": "false",
    "stickiness.enabled": "false",
    "stickiness.type": "source_ip",
    "target_group_health.dns_failover.minimum_healthy_targets.count": "1",
    "target_group_health.dns_failover.minimum_healthy_targets.percentage": "off",
    "target_group_health.unhealthy_state_routing.minimum_healthy_targets.count": "1",
    "target_group_health.unhealthy_state_routing.minimum_healthy_targets.percentage": "off",
    "target_health_state.unhealthy.connection_termination.enabled": "true",
    "target_health_state.unhealthy.draining_interval_seconds": "0",
}


def of_group(target_type: str, protocol: str) -> dict[str, str]:
    """The attributes that a new target group has."""
    # "The default is disabled if the target group type is IP address and the
    # target group protocol is TCP or TLS. Otherwise, the default is enabled."
    preserved = not (target_type == "ip" and protocol in ("TCP", "TLS"))
    return {**GROUP, "preserve_client_ip.enabled": str(preserved).lower()}


def check_balancer(attributes: dict[str, str]) -> None:
    """Fails unless a load balancer can have these."""
    for key in attributes.keys() - BALANCER.keys():
        raise invalid(f"Load balancer attribute key '{key}' is not recognized")
    check_flags(attributes)


def check_group(attributes: dict[str, str], protocol: str) -> None:
    """Fails unless a target group can have these."""
    for key in attributes.keys() - GROUP.keys():
        raise invalid(f"Target group attribute key '{key}' is not recognized")
    check_flags({key: value for key, value in attributes.items() if not key.startswith("load_balancing.")})
    delay = attributes.get("deregistration_delay.timeout_seconds", "0")
    if not delay.isdigit() or int(delay) > 3600:
        raise invalid(f"The deregistration delay '{delay}' is not from 0 to 3600")
    # "stickiness.type: source_ip for Network Load Balancers."
    if attributes.get("stickiness.type", "source_ip") != "source_ip":
        raise invalid(f"Stickiness type '{attributes['stickiness.type']}' is not supported with {protocol}")
    # "Sticky sessions are not supported with TLS listeners and TLS target groups."
    if protocol == "TLS" and attributes.get("stickiness.enabled") == "true":
        raise refused("InvalidConfigurationRequest", "Stickiness is not supported with TLS")
    # "Client IP preservation can't be disabled for UDP and TCP_UDP target groups."
    if protocol in ("UDP", "TCP_UDP") and attributes.get("preserve_client_ip.enabled") == "false":
        raise refused("InvalidConfigurationRequest", f"Client IP preservation can't be disabled with {protocol}")


def check_flags(attributes: dict[str, str]) -> None:
    """Fails if something that is on or off is anything else."""
    for key, value in attributes.items():
        if key.endswith(".enabled") and value not in ("true", "false"):
            raise invalid(f"'{key}' must be 'true' or 'false', not '{value}'")
