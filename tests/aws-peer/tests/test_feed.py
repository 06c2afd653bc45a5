"""The feed: every state that there was, and by whose call it came."""

import threading
import time

import pytest
from botocore.exceptions import ConnectionClosedError
from conftest import Site

from aws_peer.regions import region


def calls(site: Site, after: int = 0, seconds: float = 0) -> list[dict]:
    return site.peer("calls", after=after, seconds=seconds)["calls"]


@pytest.fixture
def followed(site: Site) -> Site:
    site.peer("follow")
    return site


def test_every_state_is_told_in_order_with_the_call_that_made_it(followed):
    site, tags = followed, [{"Key": "of", "Value": "us"}]
    balancer, group = site.balancer(Tags=tags), site.group(Tags=tags)
    listener = site.listener(balancer, group, 80, Tags=tags)
    site.register(group, "10.244.0.1", "10.244.0.2")
    site.stranger("delete_listener", ListenerArn=listener)
    told = calls(site)
    assert [(call["number"], call["who"], call["action"]) for call in told] == [
        (1, "CONTROLLER", "CreateLoadBalancer"),
        (2, "CONTROLLER", "CreateTargetGroup"),
        (3, "CONTROLLER", "CreateListener"),
        (4, "CONTROLLER", "RegisterTargets"),
        (5, "STRANGER", "DeleteListener"),
    ]
    assert told[4]["parameters"] == {"ListenerArn": listener}
    (of_first,) = told[0]["state"]["balancers"]
    assert (of_first["arn"], of_first["listeners"], of_first["tags"]) == (balancer, [], {"of": "us"})
    assert of_first["address"].startswith(f"{of_first['name']}-")
    opened = {"arn": listener, "port": 80, "protocol": "TCP", "tags": {"of": "us"}, "groups": [group]}
    assert told[2]["state"]["balancers"][0]["listeners"] == [opened]
    filled = {"arn": group, "name": "tg", "protocol": "TCP", "tags": {"of": "us"}}
    assert told[2]["state"]["groups"] == [{**filled, "targets": []}]
    assert told[3]["state"]["groups"] == [{**filled, "targets": ["10.244.0.1:6379", "10.244.0.2:6379"]}]
    assert told[4]["state"]["balancers"][0]["listeners"] == []


def test_a_call_that_changes_nothing_is_told_without_a_state(followed):
    followed.group()
    followed.group()
    followed.stranger("describe_target_groups")
    assert [call["state"] is None for call in calls(followed)] == [False, True, True]


def test_a_target_that_drains_is_gone(followed):
    site = followed
    balancer, group = site.balancer(), site.group()
    site.listener(balancer, group, 80)
    site.register(group, "10.244.0.1")
    site.elb.deregister_targets(TargetGroupArn=group, Targets=[{"Id": "10.244.0.1", "Port": 6379}])
    assert calls(site)[-1]["state"]["groups"][0]["targets"] == []


def test_a_call_whose_answer_is_lost_is_told_and_one_that_was_not_carried_out_is_not(followed):
    for kind in ["lost", "unreached"]:
        followed.fault(kind, "CreateTargetGroup")
        with pytest.raises(ConnectionClosedError):
            followed.group(kind)
    assert [call["parameters"]["Name"] for call in calls(followed)] == ["lost"]


def test_it_waits_for_the_next_call_and_forgets_those_that_were_told(followed):
    followed.group("a")
    threading.Timer(0.1, followed.group, ["b"]).start()
    (told,) = calls(followed, after=1, seconds=10)
    assert (told["number"], told["parameters"]["Name"]) == (2, "b")
    assert calls(followed) == [told]
    assert calls(followed, after=2) == []


def test_the_times_are_those_of_all_processes_of_the_machine(followed):
    before = time.monotonic()
    followed.group()
    answer = followed.peer("calls", after=0, seconds=0)
    (told,) = answer["calls"]
    assert before < told["began"] < told["ended"] < answer["until"] < time.monotonic()


def test_what_is_being_carried_out_is_not_past(followed):
    with region(followed.name).feed.call(followed.name, "CONTROLLER", "CreateTargetGroup", {}):
        begun = time.monotonic()
        assert followed.peer("calls", after=0, seconds=0)["until"] < begun
    assert followed.peer("calls", after=0, seconds=0)["until"] > begun


def test_who_does_not_follow_costs_nothing(site):
    site.group()
    assert calls(site) == []
