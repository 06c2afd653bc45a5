"""Target groups and their targets: what moto lacks of them."""

import ipaddress
from collections import Counter
from dataclasses import dataclass
from typing import Any

from moto.elbv2 import models
from moto.elbv2.exceptions import ResourceInUseError, TargetGroupNotFoundError

from aws_peer import attributes
from aws_peer.balancers import Balancer
from aws_peer.errors import invalid, refused
from aws_peer.names import check_name, check_tags
from aws_peer.quotas import TARGETS_A_CALL, TARGETS_PER_GROUP, TARGETS_WITH_CROSS_ZONE
from aws_peer.regions import region

# A target is known by its id and port: "You can register each EC2 instance or
# IP address with the same target group multiple times using different ports."
Key = tuple[str, int]

HEALTH_CHECK = ("protocol", "port", "path", "interval_seconds", "timeout_seconds", "enabled")


@dataclass
class Target:
    """One target of a group, and how it came to be what it is."""

    id: str
    port: int
    zone: str
    # On the region's clock: when it is healthy, and when it is gone.
    healthy_at: float
    gone_at: float | None = None


class Group(models.FakeTargetGroup):
    """A target group whose targets begin as `initial`, and end as `draining`."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.attributes = attributes.of_group(self.target_type, self.protocol)
        self.members: dict[Key, Target] = {}
        # Until when a listener that is gone still keeps it.
        self.in_use_until = 0.0

    def living(self, now: float) -> dict[Key, Target]:
        """The targets that are not gone yet. Forgets the others."""
        self.members = {key: each for key, each in self.members.items() if each.gone_at is None or each.gone_at > now}
        return self.members

    def registered(self, now: float) -> dict[Key, Target]:
        """The targets that count: whether draining ones do is not documented, and here they don't."""
        return {key: each for key, each in self.living(now).items() if each.gone_at is None}

    def begin_checks(self, healthy_at: float) -> None:
        """Its targets are `initial` until then. USER GUIDE/network/target-group-health-checks.html:
        a target of a group that no load balancer uses is not checked."""
        for target in self.members.values():
            target.healthy_at = healthy_at

    def settings(self) -> tuple[Any, ...]:
        """What makes a second one with its name the same."""
        health = [str(getattr(self, f"health_check_{name}")) for name in HEALTH_CHECK]
        thresholds = [str(self.healthy_threshold_count), str(self.unhealthy_threshold_count)]
        basics = [str(each) for each in (self.protocol, self.port, self.vpc_id, self.target_type, self.ip_address_type)]
        return *basics, *health, *thresholds

    def key(self, target: dict[str, Any]) -> Key:
        """Without a port, the group's is meant."""
        port = int(target.get("Port") or self.port)
        if not 1 <= port <= 65535:
            raise invalid(f"The port {port} is not from 1 to 65535")
        return target["Id"], port

    def health_of(self, key: Key, now: float) -> models.FakeHealthStatus:
        """As DescribeTargetHealth tells it."""
        target = self.members.get(key)
        if target is None:
            state = "unused", "Target.NotRegistered", "Target is not registered to the target group"
        elif target.gone_at is not None:
            state = "draining", "Target.DeregistrationInProgress", "Target deregistration is in progress"
        elif not self.load_balancer_arns:
            state = "unused", "Target.NotInUse", "Target group is not configured to receive traffic"
        elif now < target.healthy_at:
            state = "initial", "Elb.RegistrationInProgress", "Target registration is in progress"
        else:
            state = "healthy", None, None
        return models.FakeHealthStatus(key[0], str(key[1]), str(key[1]), *state)


class Groups(models.ELBv2Backend):
    """The actions on target groups and targets."""

    def create_target_group(self, name: str, tags: Any = None, **wanted: Any) -> Group:
        """"This operation is idempotent": the same settings give the one that is there."""
        check_name("target group", name)
        check_tags(tags)
        self._check_numbers(wanted)
        existing = next((each for each in self.target_groups.values() if each.name == name), None)
        if existing is not None:
            del self.target_groups[existing.arn]
        elif len(self.target_groups) >= region(self.region_name).quota("target-groups"):
            raise refused("TooManyTargetGroups", "The maximum number of target groups has been reached")
        try:
            made = super().create_target_group(name, **wanted)
        finally:
            if existing is not None:
                self.target_groups[existing.arn] = existing
        if existing is None:
            self.tagging_service.tag_resource(made.arn, tags)
            return made
        del self.target_groups[made.arn]
        # Whether tags are settings is not documented: this is the strict reading.
        same_tags = {tag["Key"]: tag.get("Value") for tag in tags or []} == (
            self.tagging_service.get_tag_dict_for_resource(existing.arn)
        )
        if made.settings() != existing.settings() or not same_tags:
            raise refused(
                "DuplicateTargetGroupName",
                f"A target group with the same name '{name}' exists, but with different settings",
            )
        return existing

    def _check_numbers(self, wanted: dict[str, Any]) -> None:
        """The ranges that the API reference of CreateTargetGroup names."""
        if wanted.get("protocol") not in ("TCP", "UDP", "TCP_UDP", "TLS"):
            raise invalid("A Network Load Balancer's target group has the protocol TCP, UDP, TCP_UDP or TLS")
        if wanted.get("healthcheck_protocol") not in (None, "TCP", "HTTP", "HTTPS"):
            raise invalid("Health checks are by TCP, HTTP or HTTPS")
        self._check_ranges(wanted)

    def _check_ranges(self, wanted: dict[str, Any]) -> None:
        ranges = {
            "port": (1, 65535),
            "healthcheck_interval_seconds": (5, 300),
            "healthcheck_timeout_seconds": (2, 120),
            "healthy_threshold_count": (2, 10),
            "unhealthy_threshold_count": (2, 10),
        }
        for name, (least, most) in ranges.items():
            if wanted.get(name) is not None and not least <= int(wanted[name]) <= most:
                raise invalid(f"{name} is {wanted[name]}, which is not from {least} to {most}")

    def modify_target_group_attributes(self, target_group_arn: str, attributes_wanted: dict[str, str]) -> None:
        group = self.target_groups.get(target_group_arn)
        if group is None:
            raise TargetGroupNotFoundError()
        attributes.check_group(attributes_wanted, group.protocol)
        group.attributes.update(attributes_wanted)

    def modify_target_group(self, arn: str, *wanted: Any, **more: Any) -> Any:
        names = ("", "", "", "interval_seconds", "timeout_seconds", "", "")
        numbers = {f"healthcheck_{name}": value for name, value in zip(names, wanted, strict=False) if name}
        self._check_ranges({**numbers, "healthy_threshold_count": wanted[5], "unhealthy_threshold_count": wanted[6]})
        return super().modify_target_group(arn, *wanted, **more)

    def delete_target_group(self, target_group_arn: str) -> Any:
        """The API reference names no error for one that is not there: it succeeds."""
        group = self.target_groups.get(target_group_arn)
        if group is None:
            return None
        if region(self.region_name).now() < group.in_use_until:
            raise ResourceInUseError(f"Target group '{target_group_arn}' is currently in use by a listener or a rule")
        return super().delete_target_group(target_group_arn)

    def register_targets(self, target_group_arn: str, instances: list[Any]) -> None:
        group = self._group_for(target_group_arn, instances)
        here = region(self.region_name)
        now = here.now()
        known = group.registered(now)
        new = {group.key(target): self._zone_of(group, target) for target in instances}
        fresh = {key: zone for key, zone in new.items() if key not in known}
        if len(known) + len(fresh) > TARGETS_PER_GROUP:
            raise refused("TooManyTargets", f"A target group can have at most {TARGETS_PER_GROUP} targets")
        for arn in group.load_balancer_arns:
            self.check_room(self.load_balancers[arn], Counter(fresh.values()))
        for key, zone in fresh.items():
            group.members[key] = Target(*key, zone, now + here.initial_seconds)

    def deregister_targets(self, target_group_arn: str, instances: list[dict[str, Any]]) -> None:
        """"Note: If the specified target does not exist, the action returns successfully.\""""
        group = self._group_for(target_group_arn, instances)
        now = region(self.region_name).now()
        for target in instances:
            key = group.key(target)
            found = group.registered(now).get(key)
            if found is None:
                continue
            if group.load_balancer_arns:
                delay = group.attributes["deregistration_delay.timeout_seconds"]
                found.gone_at = now + float(delay)
            else:
                del group.members[key]

    def describe_target_health(self, target_group_arn: str, targets: list[dict[str, Any]]) -> list[Any]:
        group = self.target_groups.get(target_group_arn)
        if group is None:
            raise TargetGroupNotFoundError()
        now = region(self.region_name).now()
        living = group.living(now)
        keys = [group.key(target) for target in targets] if targets else list(living)
        return [group.health_of(key, now) for key in keys]

    def check_room(self, balancer: Balancer, coming: Counter[str]) -> None:
        """Fails if a load balancer can't take so many more targets, by zone."""
        here = region(self.region_name)
        now = here.now()
        zones: Counter[str] = Counter(coming)
        for group in self.target_groups.values():
            if balancer.arn in group.load_balancer_arns:
                zones.update(target.zone for target in group.registered(now).values())
        limit = here.quota("targets-per-network-load-balancer")
        if balancer.has_cross_zone:
            limit = min(limit, here.quotas.get("targets-with-cross-zone", TARGETS_WITH_CROSS_ZONE))
        if coming.total() and zones.total() > limit:
            raise refused(
                "TooManyTargets",
                f"The maximum number of targets per load balancer '{limit}' has been reached on "
                f"load balancer '{balancer.arn}'",
            )
        limit = here.quota("targets-per-availability-zone-per-network-load-balancer")
        for zone, count in zones.items():
            if coming[zone] and not balancer.has_cross_zone and count > limit:
                raise refused(
                    "TooManyTargets",
                    f"The maximum number of targets per Availability Zone '{limit}' has been reached in "
                    f"'{zone}' on load balancer '{balancer.arn}'",
                )

    def _group_for(self, arn: str, targets: list[Any]) -> Group:
        group = self.target_groups.get(arn)
        if group is None:
            raise TargetGroupNotFoundError()
        if not targets:
            raise invalid("Targets must be specified")
        if len(targets) > TARGETS_A_CALL:
            raise invalid(f"At most {TARGETS_A_CALL} targets can be specified in a call")
        return group

    def _zone_of(self, group: Group, target: dict[str, Any]) -> str:
        """The zone that a target is in, if it can be one of this group."""
        if group.target_type == "instance":
            instance = self.ec2_backend.get_instance_by_id(target["Id"])
            if instance is None or instance.state != "running" or instance.vpc_id != group.vpc_id:
                raise refused("InvalidTarget", f"The instance '{target['Id']}' is not a running one of the VPC")
            return self.ec2_backend.get_subnet(instance.subnet_id).availability_zone
        try:
            address = ipaddress.ip_address(target["Id"])
        except ValueError:
            raise invalid(f"The IP address '{target['Id']}' is not valid") from None
        if f"ipv{address.version}" != group.ip_address_type:
            raise invalid(f"The IP address '{address}' is not of the target group's type {group.ip_address_type}")
        for zone in self.ec2_backend.subnets.values():
            for subnet in zone.values():
                if subnet.vpc_id == group.vpc_id and address in ipaddress.ip_network(subnet.cidr_block):
                    return subnet.availability_zone
        # `TargetDescription`: "If the IP address is outside the VPC, this
        # parameter is required", with the only possible value `all`. moto's
        # subnets have no IPv6 that could be told apart.
        if address.version == 4 and target.get("AvailabilityZone") != "all":
            raise invalid(f"The IP address '{address}' is outside the VPC: its Availability Zone must be 'all'")
        return "all"
