"""Reads what is in a region with boto3, and prints it as JSON: what the tests of
the controller compare its promises with. It knows nothing of the controller.

    observe.py URL REGION
"""

import json
import sys
from typing import Any

import boto3
from botocore.config import Config

# AWS' own: DescribeTags takes so many ARNs in a call.
ARNS_A_CALL = 20


def main(url: str, region: str) -> None:
    elb = boto3.client(
        "elbv2",
        region_name=region,
        endpoint_url=url,
        aws_access_key_id="OBSERVER",
        aws_secret_access_key="secret",
        config=Config(retries={"total_max_attempts": 1}),
    )
    balancers = pages(elb, "describe_load_balancers", "LoadBalancers")
    groups = {each["TargetGroupArn"]: each for each in pages(elb, "describe_target_groups", "TargetGroups")}
    listeners = {
        balancer["LoadBalancerArn"]: pages(
            elb, "describe_listeners", "Listeners", LoadBalancerArn=balancer["LoadBalancerArn"]
        )
        for balancer in balancers
    }
    arns = [*listeners, *groups, *(each["ListenerArn"] for some in listeners.values() for each in some)]
    tags = all_tags(elb, arns)
    seen = {arn: group_seen(elb, group, tags) for arn, group in groups.items()}
    used = {forwards_to(each) for some in listeners.values() for each in some}
    result = {
        "balancers": [
            {
                "arn": balancer["LoadBalancerArn"],
                "name": balancer["LoadBalancerName"],
                "address": balancer["DNSName"],
                "tags": tags[balancer["LoadBalancerArn"]],
                "listeners": [
                    {
                        "arn": each["ListenerArn"],
                        "port": each["Port"],
                        "protocol": each["Protocol"],
                        "tags": tags[each["ListenerArn"]],
                        "group": seen[forwards_to(each)],
                    }
                    for each in sorted(listeners[balancer["LoadBalancerArn"]], key=lambda each: each["Port"])
                ],
            }
            for balancer in sorted(balancers, key=lambda each: each["LoadBalancerName"])
        ],
        "unused_groups": [seen[arn] for arn in sorted(groups.keys() - used)],
    }
    json.dump(result, sys.stdout)


def pages(elb: Any, call: str, name: str, **parameters: Any) -> list[dict[str, Any]]:
    return [each for page in elb.get_paginator(call).paginate(**parameters) for each in page[name]]


def all_tags(elb: Any, arns: list[str]) -> dict[str, dict[str, str]]:
    found = {}
    for start in range(0, len(arns), ARNS_A_CALL):
        for each in elb.describe_tags(ResourceArns=arns[start : start + ARNS_A_CALL])["TagDescriptions"]:
            found[each["ResourceArn"]] = {tag["Key"]: tag.get("Value", "") for tag in each["Tags"]}
    return found


def forwards_to(listener: dict[str, Any]) -> str:
    (action,) = listener["DefaultActions"]
    return action["TargetGroupArn"]


def group_seen(elb: Any, group: dict[str, Any], tags: dict[str, dict[str, str]]) -> dict[str, Any]:
    health = elb.describe_target_health(TargetGroupArn=group["TargetGroupArn"])["TargetHealthDescriptions"]
    registered = [each["Target"] for each in health if each["TargetHealth"]["State"] != "draining"]
    return {
        "arn": group["TargetGroupArn"],
        "name": group["TargetGroupName"],
        "protocol": group["Protocol"],
        "type": group["TargetType"],
        "tags": tags[group["TargetGroupArn"]],
        "targets": sorted(f"{target['Id']}:{target['Port']}" for target in registered),
    }


main(*sys.argv[1:])
