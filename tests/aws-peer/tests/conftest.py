"""The stand-in, in a thread of this process, and a region of it for each test."""

import json
import os
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ["MOTO_ALLOW_NONEXISTENT_REGION"] = "true"

from werkzeug.serving import make_server  # noqa: E402

from aws_peer.front import CONTROLLER, Front, Handler  # noqa: E402


class Site:
    """A region of the stand-in, and a client that is the one who is tried."""

    def __init__(self, url: str, zones: int = 3) -> None:
        self.url = url
        self.__dict__.update(self.peer("new-region", zones=zones))
        self.elb = boto3.client(
            "elbv2",
            region_name=self.name,
            endpoint_url=url,
            aws_access_key_id=CONTROLLER,
            aws_secret_access_key="secret",
            # What is not allowed is to be seen by the stand-in.
            config=Config(retries={"total_max_attempts": 1}, parameter_validation=False),
        )

    def peer(self, verb: str, **request: Any) -> Any:
        """Asks the stand-in's control side."""
        if "name" in self.__dict__:
            request["region"] = self.__dict__["name"]
        question = urllib.request.Request(f"{self.url}/_peer/{verb}", data=json.dumps(request).encode())
        try:
            with urllib.request.urlopen(question) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()) from None

    def stranger(self, call: str, **parameters: Any) -> Any:
        return self.peer("call", call=call, parameters=parameters)

    def fault(self, kind: str, *actions: str, **more: Any) -> None:
        self.peer("fault", fault="fault", kind=kind, actions=actions, **more)

    def log(self) -> list[tuple[str, str]]:
        return [(call["action"], call["outcome"]) for call in self.peer("log", who=CONTROLLER)]

    def balancer(self, name: str = "slb-a-0", **more: Any) -> str:
        made = self.elb.create_load_balancer(Name=name, Type="network", Subnets=self.subnets, **more)
        return made["LoadBalancers"][0]["LoadBalancerArn"]

    def group(self, name: str = "tg", **more: Any) -> str:
        settings = {"Protocol": "TCP", "Port": 6379, "VpcId": self.vpc, "TargetType": "ip", **more}
        return self.elb.create_target_group(Name=name, **settings)["TargetGroups"][0]["TargetGroupArn"]

    def listener(self, balancer: str, group: str, port: int, protocol: str = "TCP", **more: Any) -> str:
        made = self.elb.create_listener(
            LoadBalancerArn=balancer,
            Port=port,
            Protocol=protocol,
            DefaultActions=[{"Type": "forward", "TargetGroupArn": group}],
            **more,
        )
        return made["Listeners"][0]["ListenerArn"]

    def register(self, group: str, *addresses: str, port: int = 6379) -> None:
        targets = [{"Id": address, "Port": port} for address in addresses]
        self.elb.register_targets(TargetGroupArn=group, Targets=targets)


def refused(code: str) -> Any:
    """Expects an error with this code."""

    class Refused:
        def __enter__(self) -> "Refused":
            return self

        def __exit__(self, kind: Any, error: Any, _: Any) -> bool:
            assert error is not None, f"expected {code}, and it was done"
            if not isinstance(error, ClientError):
                return False
            self.message = error.response["Error"]["Message"]
            assert error.response["Error"]["Code"] == code, str(error)
            return True

    return Refused()


@pytest.fixture(scope="session")
def url() -> Any:
    front = Front()
    server = make_server("127.0.0.1", 0, front, threaded=True, request_handler=Handler)
    front.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield front.url
    server.shutdown()


@pytest.fixture
def site(url: str) -> Site:
    return Site(url)
