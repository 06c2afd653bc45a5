"""Target groups and targets: names, limits, states."""

import pytest
from conftest import refused

ADDRESSES = [f"10.244.{zone}.{host}" for zone in (0, 32, 64) for host in range(1, 200)]


def health(site, group, *targets):
    wanted = {"Targets": [{"Id": address, "Port": port} for address, port in targets]} if targets else {}
    found = site.elb.describe_target_health(TargetGroupArn=group, **wanted)["TargetHealthDescriptions"]
    return {(each["Target"]["Id"], each["Target"]["Port"]): each["TargetHealth"]["State"] for each in found}


def fill(site, group, *addresses, port=6379):
    for start in range(0, len(addresses), 200):
        site.register(group, *addresses[start : start + 200], port=port)


def cross_zone(site, balancer):
    attribute = {"Key": "load_balancing.cross_zone.enabled", "Value": "true"}
    site.elb.modify_load_balancer_attributes(LoadBalancerArn=balancer, Attributes=[attribute])


@pytest.mark.parametrize("name", ["a" * 33, "-a", "a-", "a_b"])
def test_names_that_are_not_allowed(site, name):
    with refused("ValidationError"):
        site.group(name)


def test_the_same_group_is_created_once(site):
    tags = [{"Key": "a", "Value": "b"}]
    first = site.group(Tags=tags)
    site.register(first, "10.244.0.1")
    assert site.group(Tags=tags) == first
    assert health(site, first) == {("10.244.0.1", 6379): "unused"}


@pytest.mark.parametrize(
    "other",
    [
        {"Port": 1},
        {"Protocol": "UDP"},
        {"TargetType": "instance"},
        {"HealthCheckIntervalSeconds": 10},
        {"HealthyThresholdCount": 3},
        {"HealthCheckPort": "80"},
        {"Tags": [{"Key": "a", "Value": "b"}]},
    ],
)
def test_other_settings_under_the_same_name_are_an_error(site, other):
    site.group()
    with refused("DuplicateTargetGroupName"):
        site.group(**other)


def test_what_was_modified_counts_for_what_is_the_same(site):
    arn = site.group()
    site.elb.modify_target_group(TargetGroupArn=arn, HealthCheckIntervalSeconds=10)
    with refused("DuplicateTargetGroupName"):
        site.group()
    assert site.group(HealthCheckIntervalSeconds=10) == arn


@pytest.mark.parametrize(
    "settings",
    [
        {"HealthCheckIntervalSeconds": 4},
        {"HealthCheckIntervalSeconds": 301},
        {"HealthyThresholdCount": 1},
        {"UnhealthyThresholdCount": 11},
        {"HealthCheckProtocol": "UDP"},
        {"Protocol": "HTTP"},
        {"VpcId": "vpc-00000000000000000"},
    ],
)
def test_settings_that_are_not_allowed(site, settings):
    with refused("ValidationError"):
        site.group(**settings)


def test_the_number_of_groups_is_limited(site):
    site.peer("settings", quotas={"target-groups": 2})
    site.group("a"), site.group("b")
    with refused("TooManyTargetGroups"):
        site.group("c")
    site.group("b")


def test_a_target_is_known_by_id_and_port(site):
    arn = site.group()
    site.register(arn, "10.244.0.1", port=1)
    site.register(arn, "10.244.0.1", port=2)
    assert health(site, arn).keys() == {("10.244.0.1", 1), ("10.244.0.1", 2)}
    site.elb.deregister_targets(TargetGroupArn=arn, Targets=[{"Id": "10.244.0.1", "Port": 1}])
    assert health(site, arn).keys() == {("10.244.0.1", 2)}
    # Without a port, the group's is meant: nothing is there.
    site.elb.deregister_targets(TargetGroupArn=arn, Targets=[{"Id": "10.244.0.1"}])
    assert health(site, arn).keys() == {("10.244.0.1", 2)}


def test_removing_what_is_gone_succeeds(site):
    arn = site.group()
    site.elb.deregister_targets(TargetGroupArn=arn, Targets=[{"Id": "10.244.0.1", "Port": 1}])
    site.elb.delete_target_group(TargetGroupArn=arn)
    site.elb.delete_target_group(TargetGroupArn=arn)
    with refused("TargetGroupNotFound"):
        site.elb.deregister_targets(TargetGroupArn=arn, Targets=[{"Id": "10.244.0.1", "Port": 1}])
    with refused("TargetGroupNotFound"):
        site.register(arn, "10.244.0.1")


def test_a_group_in_use_is_not_deleted(site):
    balancer, group = site.balancer(), site.group()
    listener = site.listener(balancer, group, 80)
    with refused("ResourceInUse"):
        site.elb.delete_target_group(TargetGroupArn=group)
    site.peer("settings", in_use_seconds=3600)
    site.elb.delete_listener(ListenerArn=listener)
    with refused("ResourceInUse"):
        site.elb.delete_target_group(TargetGroupArn=group)
    site.peer("settings", clock=1e6)
    site.elb.delete_target_group(TargetGroupArn=group)


def test_targets_begin_as_initial_and_drain(site):
    balancer, group = site.balancer(), site.group()
    site.peer("settings", initial_seconds=3600)
    site.register(group, "10.244.0.1")
    assert health(site, group) == {("10.244.0.1", 6379): "unused"}
    site.listener(balancer, group, 80)
    assert health(site, group) == {("10.244.0.1", 6379): "initial"}
    site.peer("settings", initial_seconds=0)
    site.register(group, "10.244.0.2")
    assert health(site, group)[("10.244.0.2", 6379)] == "healthy"
    site.elb.deregister_targets(TargetGroupArn=group, Targets=[{"Id": "10.244.0.2", "Port": 6379}])
    assert health(site, group)[("10.244.0.2", 6379)] == "draining"
    site.peer("settings", clock=1e6)
    assert health(site, group) == {("10.244.0.1", 6379): "healthy"}
    assert health(site, group, ("10.244.0.2", 6379)) == {("10.244.0.2", 6379): "unused"}


def test_targets_are_checked_only_while_a_listener_uses_their_group(site):
    balancer, before, after = site.balancer(), site.group("before"), site.group("after", Protocol="TCP_UDP")
    listener = site.listener(balancer, before, 80)
    for group in (before, after):
        site.register(group, "10.244.0.1")
    site.peer("settings", initial_seconds=3600)

    def states():
        found = [site.elb.describe_target_health(TargetGroupArn=group) for group in (before, after)]
        described = [each["TargetHealthDescriptions"][0]["TargetHealth"] for each in found]
        return [(each["State"], each.get("Reason")) for each in described]

    unused, initial = ("unused", "Target.NotInUse"), ("initial", "Elb.RegistrationInProgress")
    assert states() == [("healthy", None), unused]
    action = {"Type": "forward", "TargetGroupArn": after}
    site.elb.modify_listener(ListenerArn=listener, Protocol="TCP_UDP", DefaultActions=[action])
    assert states() == [unused, initial]
    action["TargetGroupArn"] = before
    site.elb.modify_listener(ListenerArn=listener, Protocol="TCP", DefaultActions=[action])
    assert states() == [initial, unused]
    site.peer("settings", clock=1e6)
    assert states() == [("healthy", None), unused]


def test_a_draining_target_can_be_registered_again(site):
    balancer, group = site.balancer(), site.group()
    site.listener(balancer, group, 80)
    site.register(group, "10.244.0.1")
    site.elb.deregister_targets(TargetGroupArn=group, Targets=[{"Id": "10.244.0.1", "Port": 6379}])
    site.register(group, "10.244.0.1")
    site.peer("settings", clock=1e6)
    assert health(site, group) == {("10.244.0.1", 6379): "healthy"}


@pytest.mark.parametrize("address", ["10.244.0", "fd00::1", "192.0.2.1", "i-0123456789abcdef0"])
def test_addresses_that_a_group_does_not_take(site, address):
    with refused("ValidationError"):
        site.register(site.group(), address)


def test_instances_must_run_in_the_vpc(site):
    arn = site.group(TargetType="instance")
    (instance,) = site.peer("instances", subnet=site.subnets[1], count=1)
    site.register(arn, instance)
    assert health(site, arn) == {(instance, 6379): "unused"}
    with refused("InvalidTarget"):
        site.register(arn, "i-0123456789abcdef0")
    site.peer("call", service="ec2", call="terminate_instances", parameters={"InstanceIds": [instance]})
    with refused("InvalidTarget"):
        site.register(arn, instance, port=1)


def test_no_more_than_two_hundred_targets_a_call(site):
    with refused("ValidationError"):
        site.register(site.group(), *ADDRESSES[:201])


def test_a_group_holds_a_thousand_targets(site):
    arn = site.group()
    for port in range(1, 6):
        site.register(arn, *ADDRESSES[:199], port=port)
    site.register(arn, *ADDRESSES[:5], port=6)
    with refused("TooManyTargets"):
        site.register(arn, "10.244.0.100", port=7)
    # Those that are there are no new ones.
    site.register(arn, "10.244.0.1", port=1)


def test_a_target_counts_once_for_each_group_that_it_is_in(site):
    site.peer("settings", quotas={"targets-per-availability-zone-per-network-load-balancer": 3})
    balancer, first, second = site.balancer(), site.group("a"), site.group("b")
    site.listener(balancer, first, 1), site.listener(balancer, second, 2)
    site.register(first, "10.244.0.1", "10.244.0.2")
    site.register(second, "10.244.0.1")
    with refused("TooManyTargets"):
        site.register(second, "10.244.0.2")
    # Another zone has room of its own.
    site.register(second, "10.244.32.1")


def test_a_zone_takes_five_hundred_targets(site):
    balancer, group = site.balancer(), site.group()
    site.listener(balancer, group, 1)
    addresses = [f"10.244.{n // 250}.{n % 250 + 1}" for n in range(501)]
    fill(site, group, *addresses[:500])
    with refused("TooManyTargets") as error:
        site.register(group, addresses[500])
    assert "'500'" in error.message and balancer in error.message


def test_with_cross_zone_a_load_balancer_takes_five_hundred_targets(site):
    balancer, group = site.balancer(), site.group()
    cross_zone(site, balancer)
    site.listener(balancer, group, 1)
    fill(site, group, *ADDRESSES[:500])
    with refused("TooManyTargets"):
        site.register(group, ADDRESSES[500])


def test_a_load_balancer_takes_so_many_targets_over_all_zones(site):
    site.peer("settings", quotas={"targets-per-network-load-balancer": 4})
    balancer, group = site.balancer(), site.group()
    site.listener(balancer, group, 1)
    site.register(group, "10.244.0.1", "10.244.32.1", "10.244.64.1", "10.244.64.2")
    with refused("TooManyTargets"):
        site.register(group, "10.244.0.2")
    site.elb.deregister_targets(TargetGroupArn=group, Targets=[{"Id": "10.244.0.1", "Port": 6379}])
    site.register(group, "10.244.0.2")


def test_a_listener_brings_its_targets_along(site):
    site.peer("settings", quotas={"targets-per-network-load-balancer": 1})
    balancer, group = site.balancer(), site.group()
    site.register(group, "10.244.0.1", "10.244.0.2")
    with refused("TooManyTargets"):
        site.listener(balancer, group, 1)


def test_attributes(site):
    def attributes(arn):
        found = site.elb.describe_target_group_attributes(TargetGroupArn=arn)["Attributes"]
        return {each["Key"]: each["Value"] for each in found}

    def modify(arn, key, value):
        site.elb.modify_target_group_attributes(TargetGroupArn=arn, Attributes=[{"Key": key, "Value": value}])

    tcp, udp = site.group("tcp"), site.group("udp", Protocol="UDP")
    assert attributes(tcp)["preserve_client_ip.enabled"] == "false"
    assert attributes(udp)["preserve_client_ip.enabled"] == "true"
    modify(tcp, "deregistration_delay.timeout_seconds", "3600")
    assert attributes(tcp)["deregistration_delay.timeout_seconds"] == "3600"
    with refused("ValidationError"):
        modify(tcp, "deregistration_delay.timeout_seconds", "3601")
    with refused("ValidationError"):
        modify(tcp, "slow_start.duration_seconds", "30")
    for group in (tcp, udp):
        modify(group, "stickiness.enabled", "true")
        assert attributes(group)["stickiness.enabled"] == "true"
        modify(group, "stickiness.type", "source_ip")
        with refused("ValidationError"):
            modify(group, "stickiness.type", "lb_cookie")
        with refused("ValidationError"):
            modify(group, "stickiness.lb_cookie.duration_seconds", "60")
    with refused("InvalidConfigurationRequest"):
        modify(udp, "preserve_client_ip.enabled", "false")


def test_paging(site):
    site.peer("settings", page=2)
    arns = {site.group(f"tg-{n}") for n in range(5)}
    first = site.elb.describe_target_groups()
    assert len(first["TargetGroups"]) == 2 and first["NextMarker"]
    pages = site.elb.get_paginator("describe_target_groups").paginate()
    assert {group["TargetGroupArn"] for page in pages for group in page["TargetGroups"]} == arns
