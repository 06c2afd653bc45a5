"""Faults, the request log, and a region for each test."""

import threading
import time

import pytest
from botocore.exceptions import ConnectionClosedError
from conftest import Site, refused


def names(site: Site) -> list[str]:
    return [group["TargetGroupName"] for group in site.stranger("describe_target_groups")["TargetGroups"]]


def test_an_error_is_answered_and_nothing_done(site):
    site.fault("error", "CreateTargetGroup", code="AccessDenied", message="not you", status=403)
    with refused("AccessDenied"):
        site.group()
    assert names(site) == []
    site.group()
    assert site.log() == [("CreateTargetGroup", "AccessDenied"), ("CreateTargetGroup", "ok")]


def test_an_answer_is_lost_after_the_call_was_done(site):
    site.fault("lost", "Create*")
    with pytest.raises(ConnectionClosedError):
        site.group()
    assert names(site) == ["tg"]
    assert site.log() == [("CreateTargetGroup", "lost")]


def test_a_call_that_does_not_arrive_is_not_done(site):
    site.fault("unreached", "Create*")
    with pytest.raises(ConnectionClosedError):
        site.group()
    assert names(site) == []


def test_a_fault_lets_the_first_calls_pass_and_ends_by_count(site):
    site.fault("error", "CreateTargetGroup", skip=1, count=2)
    outcomes = []
    for name in ["a", "b", "c", "d"]:
        try:
            site.group(name)
            outcomes.append("ok")
        except site.elb.exceptions.ClientError:
            outcomes.append("failed")
    assert outcomes == ["ok", "failed", "failed", "ok"]


@pytest.mark.parametrize(("kind", "meanwhile"), [("hold", ["tg"]), ("hold_before", [])])
def test_a_call_is_held_until_the_release(site, kind, meanwhile):
    site.fault(kind, "CreateTargetGroup")
    calling = threading.Thread(target=site.group)
    calling.start()
    deadline = time.monotonic() + 10
    # Carried out or not, the call is in the log, and is not answered.
    while site.log() != [("CreateTargetGroup", "")] or names(site) != meanwhile:
        assert time.monotonic() < deadline, site.log()
        time.sleep(0.01)
    assert calling.is_alive()
    site.peer("release", fault="fault")
    calling.join(10)
    assert names(site) == ["tg"]
    assert site.log() == [("CreateTargetGroup", "ok")]


def test_a_call_is_stalled_and_never_done(site):
    site.fault("stall", "CreateTargetGroup")
    outcome = []

    def call():
        try:
            site.group()
        except ConnectionClosedError:
            outcome.append("closed")

    calling = threading.Thread(target=call)
    calling.start()
    deadline = time.monotonic() + 10
    while site.log() != [("CreateTargetGroup", "")]:
        assert time.monotonic() < deadline, site.log()
        time.sleep(0.01)
    site.peer("release", fault="fault")
    calling.join(10)
    assert outcome == ["closed"]
    assert names(site) == []


def test_latency_is_by_action(site):
    site.peer("settings", latency={"CreateTargetGroup": 0.2})
    started = time.monotonic()
    site.group()
    assert time.monotonic() - started >= 0.2


def test_strangers_meet_no_faults_and_are_not_in_the_log(site):
    site.fault("error", "*", count=None)
    site.stranger("create_target_group", Name="theirs", Protocol="TCP", Port=1, VpcId=site.vpc)
    assert names(site) == ["theirs"]
    assert site.log() == []


def test_the_log_names_the_parameters(site):
    site.group(Tags=[{"Key": "a", "Value": "b"}])
    (call,) = site.peer("log", who="CONTROLLER")
    assert call["parameters"]["Name"] == "tg"
    assert call["parameters"]["Tags.member.1.Key"] == "a"
    site.peer("forget")
    assert site.log() == []


def test_regions_are_apart(site, url):
    site.group()
    other = Site(url)
    assert other.name != site.name
    assert names(other) == []
    other.group()
