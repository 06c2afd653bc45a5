"""The rules for names and tags, from the API reference of the creating actions."""

import re
from typing import Any

from aws_peer.errors import invalid, refused
from aws_peer.quotas import TAGS

# "can have a maximum of 32 characters, must contain only alphanumeric
# characters or hyphens, and must not begin or end with a hyphen".
NAME = re.compile(r"(?!-)[A-Za-z0-9-]{1,32}(?<!-)")

# `Tag`: letters, spaces, digits and these; keys of 1 to 128 characters, values
# of at most 256.
TAG = re.compile(r"[\w\s.:/=+\-@]*")


def check_name(what: str, name: str) -> None:
    """Fails unless a load balancer or target group can be called this."""
    if not name or not NAME.fullmatch(name):
        raise invalid(
            f"The {what} name '{name}' must have at most 32 characters, alphanumeric or hyphens, "
            "and not begin or end with a hyphen"
        )
    if what == "load balancer" and name.startswith("internal-"):
        raise invalid(f"The load balancer name '{name}' must not begin with 'internal-'")


def check_tags(tags: list[dict[str, Any]] | None, present: dict[str, str] | None = None) -> None:
    """Fails unless a resource that has the present tags can be given these."""
    keys = [tag["Key"] for tag in tags or []]
    twice = {key for key in keys if keys.count(key) > 1}
    if twice:
        raise refused("DuplicateTagKeys", f"Tag keys were specified more than once: {sorted(twice)}")
    for tag in tags or []:
        key, value = tag["Key"], tag.get("Value") or ""
        if not 1 <= len(key) <= 128 or len(value) > 256 or not TAG.fullmatch(key) or not TAG.fullmatch(value):
            raise invalid(f"The tag '{key}' = '{value}' is not valid")
        if key.lower().startswith("aws:"):
            raise invalid(f"The tag key '{key}' begins with 'aws:', which is reserved")
    if len({*keys, *(present or {})}) > TAGS:
        raise refused("TooManyTags", f"A resource can have at most {TAGS} tags")
