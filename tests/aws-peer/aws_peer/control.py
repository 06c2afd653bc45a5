"""The test's side: what it can set and ask. Every request is a JSON object that
is sent to `/_peer/VERB`, and so is every answer."""

import itertools
import json
from collections.abc import Callable
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError
from werkzeug.wrappers import Response

from aws_peer.faults import Fault
from aws_peer.regions import SETTINGS, region

Object = dict[str, Any]

# Whose calls meet no faults and are no part of what a controller costs.
STRANGER = "STRANGER"

_numbers = itertools.count(1)


def client(url: str, service: str, region_name: str) -> Any:
    """A client of the stand-in, for a stranger."""
    return boto3.client(
        service,
        region_name=region_name,
        endpoint_url=url,
        aws_access_key_id=STRANGER,
        aws_secret_access_key="secret",
        config=Config(retries={"total_max_attempts": 1}),
    )


def answer(url: str, verb: str, body: bytes) -> Response:
    """The answer to a request."""
    function = VERBS.get(verb)
    if function is None:
        return Response(f"there is no verb {verb!r}", status=404)
    try:
        result = function(url, json.loads(body or b"{}"))
    except ClientError as error:
        return Response(f"{error.response['Error']['Code']}: {error}", status=400)
    except Exception as error:  # noqa: BLE001 - told to the test, which fails by it
        return Response(f"{type(error).__name__}: {error}", status=400)
    return Response(json.dumps(result, default=str), mimetype="application/json")


def new_region(url: str, request: Object) -> Object:
    """Makes a region with a VPC, one subnet a zone and a security group."""
    # As AWS names its regions, which classes are checked for: there are 99 of
    # one word.
    words, number = divmod(next(_numbers) - 1, 99)
    name = f"us-test{'x' * words}-{number + 1}"
    region(name)
    ec2 = client(url, "ec2", name)
    # The addresses that the testbed's pods have.
    vpc = ec2.create_vpc(CidrBlock="10.244.0.0/16")["Vpc"]["VpcId"]
    subnets = [
        ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.244.{32 * number}.0/19", AvailabilityZone=name + letter)
        for number, letter in enumerate("abcdef"[: request.get("zones", 3)])
    ]
    group = ec2.create_security_group(GroupName="balancers", Description="of the tests", VpcId=vpc)
    return {
        "name": name,
        "vpc": vpc,
        "subnets": [subnet["Subnet"]["SubnetId"] for subnet in subnets],
        "security_group": group["GroupId"],
    }


def call(url: str, request: Object) -> Object:
    """Does a call of AWS as a stranger: `service`, `call` as boto3 has it, and `parameters`."""
    service = client(url, request.get("service", "elbv2"), request["region"])
    reply = getattr(service, request["call"])(**request.get("parameters", {}))
    reply.pop("ResponseMetadata", None)
    return reply


def instances(url: str, request: Object) -> list[str]:
    """Starts EC2 instances in a subnet, and answers their ids."""
    ec2 = client(url, "ec2", request["region"])
    started = ec2.run_instances(
        ImageId="ami-12345678",
        SubnetId=request["subnet"],
        MinCount=request["count"],
        MaxCount=request["count"],
    )
    return [instance["InstanceId"] for instance in started["Instances"]]


def log(_: str, request: Object) -> list[Object]:
    """The calls of one access key, or of all."""
    return region(request["region"]).calls(request.get("who"))


def forget(_: str, request: Object) -> Object:
    """Empties the request log."""
    region(request["region"]).forget_calls()
    return {}


def follow(_: str, request: Object) -> Object:
    """Has `calls` tell of all calls from now on: one asker of each region can."""
    region(request["region"]).feed.wanted = True
    return {}


def calls(_: str, request: Object) -> Object:
    """What was carried out after the call number `after`, waiting `seconds` for it; see `Feed`."""
    return region(request["region"]).feed.after(request["after"], request["seconds"])


def settings(_: str, request: Object) -> Object:
    """Sets what is named: `SETTINGS` has them, and `Region` what they mean."""
    here = region(request.pop("region"))
    for name, value in request.items():
        if name not in SETTINGS:
            raise ValueError(f"there is no setting {name!r}")
        setattr(here, name, value)
    return {}


def fault(_: str, request: Object) -> Object:
    """Makes calls fail; see `Fault`. Its name is in `fault`."""
    here = region(request.pop("region"))
    added = Fault(name=request.pop("fault"), **request)
    with here.lock:
        here.faults.append(added)
    return {}


def released(_: str, request: Object) -> Object:
    """Ends the fault of this name, and answers what it holds."""
    here = region(request["region"])
    with here.lock:
        for each in here.faults:
            if each.name == request["fault"]:
                each.released.set()
        here.faults = [each for each in here.faults if each.name != request["fault"]]
    return {}


def seen(_: str, request: Object) -> Object:
    """How many calls the fault of this name has hit."""
    here = region(request["region"])
    with here.lock:
        found = [each.seen for each in here.faults if each.name == request["fault"]]
    return {"seen": sum(found)}


VERBS: dict[str, Callable[[str, Object], Any]] = {
    "new-region": new_region,
    "call": call,
    "instances": instances,
    "log": log,
    "forget": forget,
    "follow": follow,
    "calls": calls,
    "settings": settings,
    "fault": fault,
    "release": released,
    "seen": seen,
}
