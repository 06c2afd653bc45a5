"""Load balancers: what moto lacks of them."""

from typing import Any

from moto.elbv2 import models
from moto.elbv2.exceptions import LoadBalancerNotFoundError, SubnetNotFoundError

from aws_peer import attributes
from aws_peer.errors import invalid, refused
from aws_peer.names import check_name, check_tags
from aws_peer.quotas import ARNS_A_CALL
from aws_peer.regions import region


class Balancer(models.FakeLoadBalancer):
    """A load balancer that is `provisioning` for as long as the region says."""

    def __init__(self, **settings: Any) -> None:
        settings["scheme"] = settings.get("scheme") or "internet-facing"
        super().__init__(**settings)
        _, _, _, self.region_name, _, resource = self.arn.split(":", 5)
        _, _, name, identifier = resource.split("/")
        self.dns_name = f"{name}-{identifier}.elb.{self.region_name}.amazonaws.com"
        self.attrs = dict(attributes.BALANCER)
        here = region(self.region_name)
        self.active_at = here.now() + here.provisioning_seconds

    def activate(self) -> None:
        """moto would have it active once it is looked at."""

    @property
    def load_balancer_state(self) -> dict[str, str]:
        ready = region(self.region_name).now() >= self.active_at
        return {"Code": "active" if ready else "provisioning"}

    @property
    def has_cross_zone(self) -> bool:
        return self.attrs.get("load_balancing.cross_zone.enabled") == "true"

    def settings(self) -> tuple[Any, ...]:
        """What makes a second one with its name the same."""
        subnets, groups = {subnet.id for subnet in self.subnets}, set(self.security_groups or [])
        return self.type, self.scheme, subnets, groups, self.ip_address_type


class Balancers(models.ELBv2Backend):
    """The actions on load balancers."""

    def create_load_balancer(self, name: str, tags: Any = None, **wanted: Any) -> Balancer:
        """"This operation is idempotent": the same settings give the one that is there."""
        check_name("load balancer", name)
        check_tags(tags)
        if wanted.get("loadbalancer_type") != "network":
            raise invalid("The stand-in has load balancers of the type 'network' only")
        self._check_subnets(wanted["subnet_ids"], wanted["subnet_mappings"])
        self.check_security_groups(wanted["security_groups"])
        existing = next((each for each in self.load_balancers.values() if each.name == name), None)
        if existing is None and len(self.load_balancers) >= region(self.region_name).quota("network-load-balancers"):
            raise refused("TooManyLoadBalancers", "The maximum number of load balancers has been reached")
        made = super().create_load_balancer(name=name, tags=tags, **wanted)
        if existing is None:
            return made
        del self.load_balancers[made.arn]
        # Whether tags are settings is not documented: this is the strict reading.
        new, old = (self.tagging_service.get_tag_dict_for_resource(each.arn) for each in (made, existing))
        if made.settings() != existing.settings() or new != old:
            raise refused(
                "DuplicateLoadBalancerName",
                f"A load balancer with the same name '{name}' exists, but with different settings",
            )
        return existing

    def _check_subnets(self, ids: list[str], mappings: list[dict[str, str]] | None) -> None:
        if ids and mappings:
            raise invalid("Either subnets or subnet mappings can be specified, not both")
        known = {each.id: each for zone in self.ec2_backend.subnets.values() for each in zone.values()}
        wanted = ids or [mapping["SubnetId"] for mapping in mappings or []]
        if not wanted or any(each not in known for each in wanted):
            raise SubnetNotFoundError()
        zones = [known[each].availability_zone for each in wanted]
        if len(zones) != len(set(zones)):
            raise refused(
                "InvalidConfigurationRequest", "A load balancer cannot be attached to multiple subnets in the same zone"
            )
        addresses = {address.allocation_id for address in self.ec2_backend.addresses}
        for mapping in mappings or []:
            if mapping.get("AllocationId", None) not in {None, *addresses}:
                raise refused("AllocationIdNotFound", f"The allocation ID '{mapping['AllocationId']}' does not exist")

    def check_security_groups(self, groups: list[str] | None) -> None:
        """Fails if one of them is gone."""
        for group in groups or []:
            if self.ec2_backend.get_security_group_from_id(group) is None:
                raise refused("InvalidSecurityGroup", f"Security group '{group}' does not exist")

    def set_security_groups(self, arn: str, sec_groups: list[str]) -> None:
        balancer = self.load_balancers.get(arn)
        # API reference, SetSecurityGroups: "You can't perform this operation on
        # a Network Load Balancer unless you specified a security group for the
        # load balancer when you created it."
        if balancer is not None and not balancer.security_groups:
            raise refused("InvalidConfigurationRequest", "The load balancer was created without a security group")
        super().set_security_groups(arn, sec_groups)

    def describe_load_balancers(self, arns: list[str] | None, names: list[str] | None) -> list[Balancer]:
        balancers = list(self.load_balancers.values())
        if len(arns or []) > ARNS_A_CALL:
            raise invalid(f"At most {ARNS_A_CALL} load balancers can be specified")
        if not arns and not names:
            return balancers
        found = [each for each in balancers if each.arn in (arns or []) or each.name in (names or [])]
        if len(found) < len({*(arns or []), *(names or [])}):
            raise LoadBalancerNotFoundError()
        return found

    def delete_load_balancer(self, arn: str) -> None:
        """"If the load balancer does not exist or has already been deleted, the call succeeds.\""""
        balancer = self.load_balancers.get(arn)
        if balancer is not None and balancer.attrs.get("deletion_protection.enabled") == "true":
            raise refused(
                "OperationNotPermitted",
                f"Load balancer '{arn}' cannot be deleted because deletion protection is enabled",
            )
        super().delete_load_balancer(arn)
        self.relink()

    def modify_load_balancer_attributes(self, arn: str, attrs: dict[str, str]) -> dict[str, str]:
        balancer = self.load_balancers.get(arn)
        if balancer is None:
            raise LoadBalancerNotFoundError()
        attributes.check_balancer(attrs)
        balancer.attrs.update(attrs)
        return balancer.attrs

    def set_subnets(self, arn: str, subnets: list[str], subnet_mappings: list[dict[str, Any]]) -> Any:
        self._check_subnets(subnets, subnet_mappings)
        balancer = self.load_balancers.get(arn)
        if balancer is None:
            raise LoadBalancerNotFoundError()
        wanted = subnets or [mapping["SubnetId"] for mapping in subnet_mappings]
        balancer.subnets = [self.ec2_backend.get_subnet(each) for each in wanted]
        return balancer.availability_zones
