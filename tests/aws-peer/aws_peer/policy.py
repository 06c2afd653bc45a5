"""IAM, as far as a policy is about one tag: what is made must have it, and only
what has it may be changed."""

import re

from moto.core import DEFAULT_ACCOUNT_ID
from moto.elbv2.models import elbv2_backends

from aws_peer.buckets import kind
from aws_peer.regions import Region

# The parameters that name what a call changes.
CHANGED = re.compile(r"(LoadBalancerArn|TargetGroupArn|ListenerArn|ResourceArns\.member\.\d+)")


def denied(here: Region, action: str, parameters: dict[str, str]) -> str | None:
    """Why a call is not allowed, or None."""
    if here.required_tag is None or kind(action) == "reads":
        return None
    key, value = here.required_tag
    if action.startswith("Create"):
        allowed = any(
            parameter.endswith(".Key") and found == key and parameters.get(parameter[:-3] + "Value") == value
            for parameter, found in parameters.items()
            if parameter.startswith("Tags.member.")
        )
    else:
        tags = elbv2_backends[DEFAULT_ACCOUNT_ID][here.name].tagging_service.get_tag_dict_for_resource
        changed = [arn for parameter, arn in parameters.items() if CHANGED.fullmatch(parameter)]
        allowed = all(tags(arn).get(key) == value for arn in changed)
    if allowed:
        return None
    return (
        f"User: arn:aws:iam::{DEFAULT_ACCOUNT_ID}:user/controller is not authorized to perform: "
        f"elasticloadbalancing:{action} because no identity-based policy allows the "
        f"elasticloadbalancing:{action} action"
    )
