"""Listeners: what moto lacks of them."""

from collections import Counter
from typing import Any

from moto.elbv2 import models
from moto.elbv2.exceptions import (
    ActionTargetGroupNotFoundError,
    DuplicateListenerError,
    ListenerNotFoundError,
    LoadBalancerNotFoundError,
)

from aws_peer.balancers import Balancer
from aws_peer.errors import invalid, refused
from aws_peer.groups import Group
from aws_peer.names import check_tags
from aws_peer.regions import region

# USER GUIDE/network/load-balancer-listeners.html: which target groups a
# listener can forward to.
FORWARDS = {"TCP": {"TCP", "TCP_UDP"}, "UDP": {"UDP", "TCP_UDP"}, "TCP_UDP": {"TCP_UDP"}, "TLS": {"TCP", "TLS"}}


class Listeners(models.ELBv2Backend):
    """The actions on listeners."""

    def create_listener(
        self, load_balancer_arn: str, protocol: str, port: Any, actions: Any, tags: Any = None, **more: Any
    ) -> Any:
        """"This operation is idempotent": the same settings give the one that is there."""
        balancer = self.load_balancers.get(load_balancer_arn)
        if balancer is None:
            raise LoadBalancerNotFoundError()
        check_tags(tags)
        groups = self._check(balancer, protocol, port, actions)
        if protocol == "TLS" and not more.get("certificate"):
            raise refused("InvalidConfigurationRequest", "A TLS listener needs a certificate")
        existing = next((each for each in balancer.listeners.values() if int(each.port) == int(port)), None)
        if existing is not None:
            old_tags = self.tagging_service.get_tag_dict_for_resource(existing.arn)
            same_tags = {tag["Key"]: tag.get("Value") for tag in tags or []} == old_tags
            if existing.protocol == protocol and self.groups_of(existing) == [g.arn for g in groups] and same_tags:
                return existing
            raise DuplicateListenerError()
        limit = region(self.region_name).quota("listeners-per-network-load-balancer")
        if len(balancer.listeners) >= limit:
            raise refused(
                "TooManyListeners",
                f"The maximum number of listeners per load balancer '{limit}' has been reached on "
                f"load balancer '{load_balancer_arn}'",
            )
        made = super().create_listener(
            load_balancer_arn=load_balancer_arn, protocol=protocol, port=port, actions=actions, tags=tags, **more
        )
        self.relink()
        return made

    def modify_listener(
        self, arn: str, port: Any = None, protocol: Any = None, ssl_policy: Any = None, certificates: Any = None,
        actions: Any = None,
    ) -> Any:  # fmt: skip
        listener = self.describe_listeners(None, [arn])[0]
        balancer = self.load_balancers[listener.load_balancer_arn]
        new_actions = actions or [action.data for action in listener.default_actions]
        new_port, new_protocol = port or listener.port, protocol or listener.protocol
        self._check(balancer, new_protocol, new_port, new_actions)
        if any(int(each.port) == int(new_port) for each in balancer.listeners.values() if each is not listener):
            raise DuplicateListenerError()
        if new_protocol == "TLS" and not (certificates or listener.certificates):
            raise refused("InvalidConfigurationRequest", "A TLS listener needs a certificate")
        listener.port, listener.protocol = new_port, new_protocol
        if certificates:
            listener.certificate = certificates[0]["CertificateArn"]
            listener.certificates = [each["CertificateArn"] for each in certificates]
        if new_protocol != "TLS":
            listener.certificate, listener.certificates = None, []
        listener.ssl_policy = ssl_policy or listener.ssl_policy
        listener.default_actions = [models.FakeAction(action) for action in new_actions]
        listener._default_rule[0].actions = listener.default_actions
        self.relink()
        return listener

    def delete_listener(self, listener_arn: str) -> Any:
        deleted = super().delete_listener(listener_arn)
        self.relink()
        return deleted

    def describe_listeners(self, load_balancer_arn: str | None, listener_arns: list[str]) -> list[Any]:
        found = super().describe_listeners(load_balancer_arn, listener_arns)
        # moto answers those that it has.
        if len(found) < len(set(listener_arns or [])):
            raise ListenerNotFoundError()
        return found

    def groups_of(self, listener: Any) -> list[str]:
        """The target groups that a listener forwards to."""
        return [arn for action in listener.default_actions for arn in self._get_target_group_arns_from(action.data)]

    def relink(self) -> None:
        """Has every target group name the load balancers that use it, which moto only adds to.
        Targets are checked from when the first of them does."""
        here = region(self.region_name)
        used: dict[str, list[str]] = {}
        for balancer in self.load_balancers.values():
            for listener in balancer.listeners.values():
                for arn in self.groups_of(listener):
                    used.setdefault(arn, []).append(balancer.arn)
        for group in self.target_groups.values():
            before, group.load_balancer_arns = group.load_balancer_arns, sorted(set(used.get(group.arn, [])))
            if before and not group.load_balancer_arns:
                group.in_use_until = here.now() + here.in_use_seconds
            if group.load_balancer_arns and not before:
                group.begin_checks(here.now() + here.initial_seconds)

    def _check(self, balancer: Balancer, protocol: str, port: Any, actions: Any) -> list[Group]:
        """The target groups of a listener that is allowed."""
        if not port or not 1 <= int(port) <= 65535:
            raise invalid(f"The listener port {port} is not from 1 to 65535")
        if protocol not in FORWARDS:
            raise refused("UnsupportedProtocol", f"The protocol '{protocol}' is not one of a Network Load Balancer")
        if not actions:
            raise invalid("A default action must be specified")
        arns = [arn for action in actions for arn in self._get_target_group_arns_from(action)]
        groups = []
        for arn in arns:
            group = self.target_groups.get(arn)
            if group is None:
                raise ActionTargetGroupNotFoundError(arn)
            self._check_group(balancer, protocol, group)
            groups.append(group)
        return groups

    def _check_group(self, balancer: Balancer, protocol: str, group: Group) -> None:
        if group.protocol not in FORWARDS[protocol]:
            raise refused(
                "IncompatibleProtocols",
                f"A {protocol} listener can't forward to target group '{group.arn}', whose protocol is {group.protocol}",
            )
        if any(arn != balancer.arn for arn in group.load_balancer_arns):
            raise refused(
                "TargetGroupAssociationLimit",
                f"Target group '{group.arn}' cannot be associated with more than one load balancer",
            )
        if group.vpc_id != balancer.vpc_id:
            raise refused("InvalidConfigurationRequest", f"Target group '{group.arn}' is in another VPC")
        # The same page: "A UDP listener for a dualstack load balancer requires IPv6 target groups."
        if balancer.ip_address_type == "dualstack" and protocol in ("UDP", "TCP_UDP") and group.ip_address_type == "ipv4":
            raise refused("InvalidConfigurationRequest", "UDP on a dualstack load balancer needs an IPv6 target group")
        if not group.load_balancer_arns:
            # Whether the targets of a group that the same call lets go still count is
            # not documented: this is the strict reading.
            now = region(self.region_name).now()
            self.check_room(balancer, Counter(target.zone for target in group.registered(now).values()))
