"""Throttling, as AWS documents it: token buckets for an account and region."""

from aws_peer.quotas import BUCKETS


def kind(action: str) -> str:
    """The bucket that an action takes from."""
    if action.startswith("Describe"):
        return "reads"
    return "targets" if action in ("RegisterTargets", "DeregisterTargets") else "writes"


class Buckets:
    """The buckets of one region. Time is seconds of the region's clock."""

    def __init__(self) -> None:
        self.tokens: dict[str, float] = {name: size for name, (size, _) in BUCKETS.items()}
        self.since = dict.fromkeys(BUCKETS, 0.0)

    def take(self, action: str, now: float) -> bool:
        """Whether there is a token for this call, which it then took."""
        name = kind(action)
        size, a_second = BUCKETS[name]
        self.tokens[name] = min(size, self.tokens[name] + (now - self.since[name]) * a_second)
        self.since[name] = now
        if self.tokens[name] < 1:
            return False
        self.tokens[name] -= 1
        return True
