"""What is of the account: tags, throttling, permissions."""

import pytest
from conftest import refused


def tags(*keys):
    return [{"Key": key, "Value": "value"} for key in keys]


def described(site, *arns):
    found = site.elb.describe_tags(ResourceArns=list(arns))["TagDescriptions"]
    return {each["ResourceArn"]: {tag["Key"] for tag in each["Tags"]} for each in found}


def test_tags_come_with_what_is_made(site):
    balancer, group = site.balancer(Tags=tags("a")), site.group(Tags=tags("b"))
    listener = site.listener(balancer, group, 80, Tags=tags("c"))
    assert described(site, balancer, group, listener) == {balancer: {"a"}, group: {"b"}, listener: {"c"}}
    site.elb.add_tags(ResourceArns=[listener, group], Tags=tags("d"))
    site.elb.remove_tags(ResourceArns=[group], TagKeys=["b"])
    assert described(site, group, listener) == {group: {"d"}, listener: {"c", "d"}}


def test_tags_of_what_is_not_there_cannot_be_described(site):
    balancer, group = site.balancer(), site.group()
    listener = site.listener(balancer, group, 80)
    site.elb.delete_listener(ListenerArn=listener)
    site.elb.delete_target_group(TargetGroupArn=group)
    with refused("ListenerNotFound"):
        described(site, balancer, listener)
    with refused("TargetGroupNotFound"):
        described(site, balancer, group)
    site.elb.delete_load_balancer(LoadBalancerArn=balancer)
    with refused("LoadBalancerNotFound"):
        described(site, balancer)


def test_tags_of_twenty_are_described_in_a_call(site):
    arns = [site.group(f"tg-{n}") for n in range(21)]
    assert len(described(site, *arns[:20])) == 20
    with refused("ValidationError"):
        described(site, *arns)


def test_fifty_tags(site):
    group = site.group(Tags=tags(*[f"key-{n}" for n in range(50)]))
    site.elb.add_tags(ResourceArns=[group], Tags=tags("key-1"))
    with refused("TooManyTags"):
        site.elb.add_tags(ResourceArns=[group], Tags=tags("more"))
    with refused("TooManyTags"):
        site.balancer(Tags=tags(*[f"key-{n}" for n in range(51)]))


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (tags("a", "a"), "DuplicateTagKeys"),
        (tags("aws:a"), "ValidationError"),
        (tags("k" * 129), "ValidationError"),
        ([{"Key": "a", "Value": "v" * 257}], "ValidationError"),
        ([{"Key": "a", "Value": "a,b"}], "ValidationError"),
    ],
)
def test_tags_that_are_not_allowed(site, wrong, code):
    with refused(code):
        site.group(Tags=wrong)
    with refused(code):
        site.balancer(Tags=wrong)
    with refused(code):
        site.listener(site.balancer(), site.group(), 80, Tags=wrong)


def outcomes(site, count, call):
    site.peer("forget")
    for _ in range(count):
        try:
            call()
        except site.elb.exceptions.ClientError as error:
            assert error.response["Error"]["Code"] == "ThrottlingException"
            assert error.response["Error"]["Message"] == "Rate exceeded"
    found = [outcome for _, outcome in site.log()]
    return found.count("ok"), found.count("ThrottlingException")


def test_each_kind_of_call_has_a_bucket(site):
    group = site.group()
    # So slowly that nothing comes back while this runs.
    site.peer("settings", throttled=True, clock=1e-6)
    assert outcomes(site, 25, lambda: site.register(group, "10.244.0.1")) == (20, 5)
    assert outcomes(site, 25, lambda: site.group()) == (20, 5)
    assert outcomes(site, 45, lambda: site.elb.describe_target_groups()) == (40, 5)
    # Strangers have an account of their own.
    site.stranger("describe_target_groups")


def test_tokens_come_back(site):
    group = site.group()
    site.peer("settings", throttled=True, clock=1e-6)
    assert outcomes(site, 21, lambda: site.register(group, "10.244.0.1")) == (20, 1)
    site.peer("settings", clock=1e6)
    assert outcomes(site, 5, lambda: site.register(group, "10.244.0.1")) == (5, 0)


def test_a_policy_that_is_about_a_tag(site):
    theirs = site.group("theirs")
    site.peer("settings", required_tag=["cluster", "one"])
    ours = [{"Key": "cluster", "Value": "one"}]
    with refused("AccessDenied") as error:
        site.group("a")
    assert "elasticloadbalancing:CreateTargetGroup" in error.message
    with refused("AccessDenied"):
        site.group("b", Tags=[{"Key": "cluster", "Value": "two"}])
    group = site.group("c", Tags=ours)
    site.register(group, "10.244.0.1")
    for call in (lambda: site.register(theirs, "10.244.0.1"),
                 lambda: site.elb.delete_target_group(TargetGroupArn=theirs),
                 lambda: site.elb.add_tags(ResourceArns=[group, theirs], Tags=ours)):  # fmt: skip
        with refused("AccessDenied"):
            call()
    site.elb.describe_target_health(TargetGroupArn=theirs)
