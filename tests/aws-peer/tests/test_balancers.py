"""Load balancers: names, limits, what is created twice, what is gone."""

import time

import pytest
from conftest import Site, refused


def state(site, arn):
    (found,) = site.elb.describe_load_balancers(LoadBalancerArns=[arn])["LoadBalancers"]
    return found["State"]["Code"]


@pytest.mark.parametrize("name", ["a" * 33, "-a", "a-", "a_b", "internal-a", "a.b"])
def test_names_that_are_not_allowed(site, name):
    with refused("ValidationError"):
        site.balancer(name)


@pytest.mark.parametrize("name", ["a" * 32, "a--b", "internal", "A1"])
def test_names_that_are_allowed(site, name):
    assert site.balancer(name)


def test_the_same_load_balancer_is_created_once(site):
    tags = [{"Key": "a", "Value": "b"}]
    first = site.balancer(SecurityGroups=[site.security_group], Tags=tags)
    assert site.balancer(SecurityGroups=[site.security_group], Tags=tags) == first
    assert len(site.elb.describe_load_balancers()["LoadBalancers"]) == 1


@pytest.mark.parametrize(
    "other",
    [{"Scheme": "internal"}, {"IpAddressType": "dualstack"}, {"Tags": [{"Key": "a", "Value": "b"}]}],
)
def test_other_settings_under_the_same_name_are_an_error(site, other):
    site.balancer()
    with refused("DuplicateLoadBalancerName"):
        site.balancer(**other)
    assert len(site.elb.describe_load_balancers()["LoadBalancers"]) == 1


def test_the_number_of_load_balancers_is_limited(site):
    site.peer("settings", quotas={"network-load-balancers": 2})
    site.balancer("a"), site.balancer("b")
    with refused("TooManyLoadBalancers"):
        site.balancer("c")
    # One that is there is no new one.
    site.balancer("b")


def test_quotas_are_told(site):
    limits = {limit["Name"]: limit["Max"] for limit in site.elb.describe_account_limits()["Limits"]}
    assert limits["listeners-per-network-load-balancer"] == "50"
    assert limits["targets-per-network-load-balancer"] == "3000"
    assert limits["targets-per-availability-zone-per-network-load-balancer"] == "500"
    assert limits["network-load-balancers"] == "50"


def test_security_groups_and_subnets_must_be_there(site):
    with refused("InvalidSecurityGroup"):
        site.balancer(SecurityGroups=["sg-00000000000000000"])
    site.peer("call", service="ec2", call="delete_security_group", parameters={"GroupId": site.security_group})
    with refused("InvalidSecurityGroup"):
        site.balancer(SecurityGroups=[site.security_group])
    with refused("SubnetNotFound"):
        site.elb.create_load_balancer(Name="a", Type="network", Subnets=["subnet-00000000000000000"])
    with refused("AllocationIdNotFound"):
        mapping = {"SubnetId": site.subnets[0], "AllocationId": "eipalloc-00000000000000000"}
        site.elb.create_load_balancer(Name="a", Type="network", SubnetMappings=[mapping])
    site.peer("call", service="ec2", call="allocate_address", parameters={"Domain": "vpc"})


def test_one_subnet_a_zone(site):
    vpc = {"VpcId": site.vpc, "CidrBlock": "10.244.224.0/24", "AvailabilityZone": site.name + "a"}
    second = site.peer("call", service="ec2", call="create_subnet", parameters=vpc)["Subnet"]["SubnetId"]
    with refused("InvalidConfigurationRequest"):
        site.elb.create_load_balancer(Name="a", Type="network", Subnets=[site.subnets[0], second])


def test_security_groups_change_only_where_there_was_one(site):
    without = site.balancer("without")
    with refused("InvalidConfigurationRequest"):
        site.elb.set_security_groups(LoadBalancerArn=without, SecurityGroups=[site.security_group])
    having = site.balancer("having", SecurityGroups=[site.security_group])
    site.elb.set_security_groups(LoadBalancerArn=having, SecurityGroups=[site.security_group])
    with refused("InvalidSecurityGroup"):
        site.elb.set_security_groups(LoadBalancerArn=having, SecurityGroups=["sg-00000000000000000"])


def test_deletion_protection(site):
    arn = site.balancer()
    attribute = {"Key": "deletion_protection.enabled", "Value": "true"}
    site.elb.modify_load_balancer_attributes(LoadBalancerArn=arn, Attributes=[attribute])
    with refused("OperationNotPermitted"):
        site.elb.delete_load_balancer(LoadBalancerArn=arn)
    site.elb.modify_load_balancer_attributes(LoadBalancerArn=arn, Attributes=[{**attribute, "Value": "false"}])
    site.elb.delete_load_balancer(LoadBalancerArn=arn)
    # Deleting what is gone succeeds.
    site.elb.delete_load_balancer(LoadBalancerArn=arn)
    with refused("LoadBalancerNotFound"):
        site.elb.describe_load_balancers(LoadBalancerArns=[arn])


def test_attributes_that_there_are_not(site):
    arn = site.balancer()
    for key, value in [("idle_timeout.timeout_seconds", "60"), ("deletion_protection.enabled", "yes")]:
        with refused("ValidationError"):
            attributes = [{"Key": key, "Value": value}]
            site.elb.modify_load_balancer_attributes(LoadBalancerArn=arn, Attributes=attributes)


def test_a_new_load_balancer_is_provisioning_for_as_long_as_is_set(site):
    site.peer("settings", provisioning_seconds=3600)
    arn = site.balancer()
    assert state(site, arn) == "provisioning"
    # Listeners can be made meanwhile.
    site.listener(arn, site.group(), 80)
    site.peer("settings", clock=1e6)
    assert state(site, arn) == "active"


def test_a_load_balancer_made_anew_has_another_name(site):
    def name():
        (found,) = site.elb.describe_load_balancers()["LoadBalancers"]
        return found["DNSName"]

    arn = site.balancer()
    first = name()
    assert "/net/" in arn
    site.elb.delete_load_balancer(LoadBalancerArn=arn)
    site.balancer()
    assert name() != first


def test_deleting_a_load_balancer_deletes_its_listeners(site):
    arn, group = site.balancer(), site.group()
    listener = site.listener(arn, group, 80)
    site.elb.delete_load_balancer(LoadBalancerArn=arn)
    with refused("ListenerNotFound"):
        site.elb.describe_listeners(ListenerArns=[listener])
    site.elb.delete_target_group(TargetGroupArn=group)


def test_paging(site):
    site.peer("settings", page=2)
    names = {f"lb-{n}" for n in range(5)}
    arns = [site.balancer(name) for name in names]
    first = site.elb.describe_load_balancers()
    assert len(first["LoadBalancers"]) == 2
    # One of the first page goes meanwhile, and none of the others is lost.
    site.elb.delete_load_balancer(LoadBalancerArn=first["LoadBalancers"][1]["LoadBalancerArn"])
    pages = site.elb.get_paginator("describe_load_balancers").paginate(PaginationConfig={"PageSize": 1})
    found = [each["LoadBalancerArn"] for page in pages for each in page["LoadBalancers"]]
    assert len(found) == len(set(found)) == 4
    assert set(found) < set(arns)
    rest = site.elb.describe_load_balancers(Marker=first["NextMarker"])
    assert len(rest["LoadBalancers"]) == 2


def test_no_more_than_twenty_arns(site):
    with refused("ValidationError"):
        site.elb.describe_load_balancers(LoadBalancerArns=[f"arn:{n}" for n in range(21)])


def test_zones_are_as_many_as_asked_for(url):
    site = Site(url, zones=1)
    assert len(site.subnets) == 1
    site.balancer()


def test_time_goes_as_fast_as_is_set(site):
    site.peer("settings", provisioning_seconds=1000, clock=1.0)
    arn = site.balancer()
    started = time.monotonic()
    site.peer("settings", clock=1e6)
    assert state(site, arn) == "active"
    assert time.monotonic() - started < 100
