"""Listeners: ports, protocols, and what they forward to."""

import pytest
from conftest import refused


def ports(site, balancer):
    found = site.elb.describe_listeners(LoadBalancerArn=balancer)["Listeners"]
    return sorted((listener["Port"], listener["Protocol"]) for listener in found)


def certificate():
    return {"Certificates": [{"CertificateArn": "arn:aws:iam::123456789012:server-certificate/a"}]}


def test_a_port_number_is_taken_whatever_the_protocol(site):
    balancer = site.balancer()
    site.listener(balancer, site.group("tcp"), 53)
    with refused("DuplicateListener"):
        site.listener(balancer, site.group("udp", Protocol="UDP"), 53, "UDP")
    with refused("DuplicateListener"):
        site.listener(balancer, site.group("other"), 53)
    assert ports(site, balancer) == [(53, "TCP")]


def test_the_same_listener_is_created_once(site):
    balancer, group, tags = site.balancer(), site.group(), [{"Key": "a", "Value": "b"}]
    first = site.listener(balancer, group, 80, Tags=tags)
    assert site.listener(balancer, group, 80, Tags=tags) == first
    with refused("DuplicateListener"):
        site.listener(balancer, group, 80)


def test_fifty_listeners(site):
    balancer, group = site.balancer(), site.group()
    for port in range(1, 51):
        site.listener(balancer, group, port)
    with refused("TooManyListeners") as error:
        site.listener(balancer, group, 51)
    assert "'50'" in error.message
    site.listener(balancer, group, 50)


@pytest.mark.parametrize(
    ("listener", "group", "fits"),
    [
        ("TCP", "TCP", True), ("TCP", "TCP_UDP", True), ("TCP", "UDP", False), ("TCP", "TLS", False),
        ("UDP", "UDP", True), ("UDP", "TCP_UDP", True), ("UDP", "TCP", False),
        ("TCP_UDP", "TCP_UDP", True), ("TCP_UDP", "TCP", False), ("TCP_UDP", "UDP", False),
        ("TLS", "TCP", True), ("TLS", "TLS", True), ("TLS", "UDP", False),
    ],
)  # fmt: skip
def test_protocols_that_fit(site, listener, group, fits):
    balancer, target = site.balancer(), site.group(Protocol=group)
    more = certificate() if listener == "TLS" else {}
    if fits:
        site.listener(balancer, target, 80, listener, **more)
    else:
        with refused("IncompatibleProtocols"):
            site.listener(balancer, target, 80, listener, **more)


def test_a_tls_listener_needs_a_certificate(site):
    with refused("InvalidConfigurationRequest"):
        site.listener(site.balancer(), site.group(), 443, "TLS")


@pytest.mark.parametrize("port", [-1, 65536, 70000])
def test_ports_that_there_are_not(site, port):
    with refused("ValidationError"):
        site.listener(site.balancer(), site.group(), port)


def test_protocols_that_there_are_not(site):
    with refused("UnsupportedProtocol"):
        site.listener(site.balancer(), site.group(), 80, "HTTP")


def test_what_is_not_there(site):
    balancer, group = site.balancer(), site.group()
    with refused("LoadBalancerNotFound"):
        site.listener(balancer + "0", group, 80)
    with refused("TargetGroupNotFound"):
        site.listener(balancer, group + "0", 80)
    listener = site.listener(balancer, group, 80)
    site.elb.delete_listener(ListenerArn=listener)
    with refused("ListenerNotFound"):
        site.elb.delete_listener(ListenerArn=listener)
    other = site.listener(balancer, group, 81)
    with refused("ListenerNotFound"):
        site.elb.describe_listeners(ListenerArns=[other, listener])
    with refused("LoadBalancerNotFound"):
        site.elb.describe_listeners(LoadBalancerArn=balancer + "0")


def test_a_group_is_in_one_load_balancer(site):
    one, two, group = site.balancer("one"), site.balancer("two"), site.group()
    listener = site.listener(one, group, 80)
    site.listener(one, group, 81)
    with refused("TargetGroupAssociationLimit"):
        site.listener(two, group, 80)
    site.elb.delete_listener(ListenerArn=listener)
    with refused("TargetGroupAssociationLimit"):
        site.listener(two, group, 80)
    (found,) = site.elb.describe_target_groups(TargetGroupArns=[group])["TargetGroups"]
    assert found["LoadBalancerArns"] == [one]
    site.elb.delete_load_balancer(LoadBalancerArn=one)
    site.listener(two, group, 80)


def test_a_listener_is_modified(site):
    balancer = site.balancer()
    groups = {each: site.group(each.replace("_", "-"), Protocol=each) for each in ("TCP", "UDP", "TCP_UDP", "TLS")}
    listener = site.listener(balancer, groups["TCP"], 80)

    def modify(group, **more):
        action = {"Type": "forward", "TargetGroupArn": groups[group]}
        site.elb.modify_listener(ListenerArn=listener, DefaultActions=[action], **more)

    modify("UDP", Protocol="UDP")
    modify("TCP_UDP", Protocol="TCP_UDP", Port=81)
    assert ports(site, balancer) == [(81, "TCP_UDP")]
    with refused("IncompatibleProtocols"):
        site.elb.modify_listener(ListenerArn=listener, Protocol="TCP_UDP", DefaultActions=[
            {"Type": "forward", "TargetGroupArn": groups["TCP"]}])  # fmt: skip
    with refused("InvalidConfigurationRequest"):
        modify("TLS", Protocol="TLS")
    modify("TLS", Protocol="TLS", **certificate())
    assert ports(site, balancer) == [(81, "TLS")]
    # Those that it no longer forwards to are free.
    for each in ("TCP", "UDP", "TCP_UDP"):
        site.elb.delete_target_group(TargetGroupArn=groups[each])
    site.listener(balancer, site.group("other"), 82)
    with refused("DuplicateListener"):
        site.elb.modify_listener(ListenerArn=listener, Port=82)
    with refused("ListenerNotFound"):
        site.elb.modify_listener(ListenerArn=listener + "0", Port=83)


def test_udp_on_dualstack_needs_ipv6_targets(site):
    balancer = site.balancer(IpAddressType="dualstack")
    with refused("InvalidConfigurationRequest"):
        site.listener(balancer, site.group("v4", Protocol="UDP"), 53, "UDP")
    site.listener(balancer, site.group("v6", Protocol="UDP", IpAddressType="ipv6"), 53, "UDP")
    site.listener(balancer, site.group("tcp"), 80)


def test_paging(site):
    site.peer("settings", page=2)
    balancer, group = site.balancer(), site.group()
    for port in range(1, 6):
        site.listener(balancer, group, port)
    assert len(site.elb.describe_listeners(LoadBalancerArn=balancer)["Listeners"]) == 2
    pages = site.elb.get_paginator("describe_listeners").paginate(LoadBalancerArn=balancer)
    assert sorted(each["Port"] for page in pages for each in page["Listeners"]) == [1, 2, 3, 4, 5]
