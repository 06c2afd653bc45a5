"""What takes the place of moto's own: all of it is put there by importing this."""

from typing import Any

import moto.elb.urls
from moto.core.responses import ActionResult
from moto.elbv2 import models, responses
from moto.elbv2.exceptions import ListenerOrBalancerMissingError

from aws_peer.balancers import Balancer, Balancers
from aws_peer.errors import invalid
from aws_peer.groups import Group, Groups
from aws_peer.listeners import Listeners
from aws_peer.names import check_tags
from aws_peer.quotas import ARNS_A_CALL, PAGE, QUOTAS
from aws_peer.regions import region


class Backend(Balancers, Groups, Listeners):
    """Elastic Load Balancing in one region, and tags on what it has."""

    def add_tags(self, resource_arns: list[str], tags: list[dict[str, str]]) -> None:
        for arn in resource_arns:
            self._get_resource_by_arn(arn)
            check_tags(tags, self.tagging_service.get_tag_dict_for_resource(arn))
        for arn in resource_arns:
            self.tagging_service.tag_resource(arn, tags)

    def describe_tags(self, resource_arns: list[str]) -> dict[str, dict[str, str]]:
        if len(resource_arns) > ARNS_A_CALL:
            raise invalid(f"At most {ARNS_A_CALL} resources can be specified")
        for arn in resource_arns:
            self._get_resource_by_arn(arn)
        return super().describe_tags(resource_arns)


class Responses(responses.ELBV2Response):
    """What is answered: by pages, and with the quotas that are enforced."""

    def describe_load_balancers(self) -> ActionResult:
        arns, names = self._get_param("LoadBalancerArns", []), self._get_param("Names", [])
        return self._page("LoadBalancers", self.elbv2_backend.describe_load_balancers(arns, names))

    def describe_target_groups(self) -> ActionResult:
        balancer = self._get_param("LoadBalancerArn")
        arns, names = self._get_param("TargetGroupArns", []), self._get_param("Names", [])
        return self._page("TargetGroups", self.elbv2_backend.describe_target_groups(balancer, arns, names))

    def describe_listeners(self) -> ActionResult:
        balancer, arns = self._get_param("LoadBalancerArn"), self._get_param("ListenerArns", [])
        if not balancer and not arns:
            raise ListenerOrBalancerMissingError()
        return self._page("Listeners", self.elbv2_backend.describe_listeners(balancer, arns))

    def describe_account_limits(self) -> ActionResult:
        here = region(self.region)
        return ActionResult({"Limits": [{"Name": name, "Max": str(here.quota(name))} for name in QUOTAS]})

    def _page(self, name: str, items: Any) -> ActionResult:
        """One page of the items. A marker is the ARN of the last one before it."""
        most = region(self.region).page
        size = min(int(self._get_param("PageSize", most)), most)
        if size < 1:
            raise invalid(f"The page size is not from 1 to {PAGE}")
        marker = self._get_param("Marker", "")
        rest = sorted((item for item in items if item.arn > marker), key=lambda item: item.arn)
        more = rest[size - 1].arn if len(rest) > size else None
        return ActionResult({name: rest[:size], "NextMarker": more})


def arn_for_load_balancer(account_id: str, lb_id: str, name: str, region_name: str) -> str:
    """moto gives all of them the ARN of an application load balancer."""
    return f"arn:aws:elasticloadbalancing:{region_name}:{account_id}:loadbalancer/net/{name}/{lb_id}"


models.FakeLoadBalancer = Balancer
models.FakeTargetGroup = Group
models.make_arn_for_load_balancer = arn_for_load_balancer
models.elbv2_backends.backend = Backend
moto.elb.urls.ELBV2Response = Responses
