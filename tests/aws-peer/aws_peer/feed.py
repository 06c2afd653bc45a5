"""What there is in a region after each call: for who must miss no state of it.

Nothing but calls changes what is told here. (What AWS does by itself, such as
that a target which was deregistered has drained, is not told.)
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from moto.core import DEFAULT_ACCOUNT_ID
from moto.elbv2.models import elbv2_backends

Object = dict[str, Any]


class Feed:
    """The calls that were carried out since somebody wanted to know them.

    Times are seconds of the clock CLOCK_MONOTONIC, which all processes of a
    machine share.
    """

    def __init__(self) -> None:
        self.wanted = False
        self._entries: list[Object] = []
        self._count = 0
        self._state: Object | None = None
        # When the call began that is being carried out.
        self._began: float | None = None
        self._changed = threading.Condition()

    @contextmanager
    def call(self, region: str, who: str, action: str, parameters: dict[str, str]) -> Iterator[None]:
        """Carries out a call in it, and tells of that, and of what there is then if
        that is something else. There is one at a time."""
        with self._changed:
            self._began = time.monotonic()
        try:
            yield
        finally:
            with self._changed:
                if self.wanted:
                    self._note(region, {"who": who, "action": action, "parameters": parameters})
                self._began = None

    def _note(self, region: str, call: Object) -> None:
        found = self._state if call["action"].startswith("Describe") else state(region)
        call["state"] = found if found != self._state else None
        self._state = found
        self._count += 1
        call.update(number=self._count, began=self._began, ended=time.monotonic())
        self._entries.append(call)
        self._changed.notify_all()

    def after(self, number: int, seconds: float) -> Object:
        """The calls after the one of this number, for which it waits so long, and
        the time up to which there was no other. Those before it are forgotten."""
        with self._changed:
            self._changed.wait_for(lambda: self._count > number, seconds)
            self._entries = [entry for entry in self._entries if entry["number"] > number]
            return {"until": self._began or time.monotonic(), "calls": list(self._entries)}


def state(region: str) -> Object:
    """All load balancers with their listeners, and all target groups with the
    targets that do not drain. Nobody may be changing it."""
    backend = elbv2_backends[DEFAULT_ACCOUNT_ID][region]
    tags = backend.tagging_service.get_tag_dict_for_resource
    return {
        "balancers": [
            {
                "arn": balancer.arn,
                "name": balancer.name,
                "address": balancer.dns_name,
                "tags": tags(balancer.arn),
                "listeners": [
                    {
                        "arn": listener.arn,
                        "port": int(listener.port),
                        "protocol": listener.protocol,
                        "tags": tags(listener.arn),
                        "groups": backend.groups_of(listener),
                    }
                    for listener in balancer.listeners.values()
                ],
            }
            for balancer in backend.load_balancers.values()
        ],
        "groups": [
            {
                "arn": group.arn,
                "name": group.name,
                "protocol": group.protocol,
                "tags": tags(group.arn),
                "targets": sorted(f"{target}:{port}" for (target, port), each in group.members.items() if each.gone_at is None),
            }
            for group in backend.target_groups.values()
        ],
    }
