"""Google's own Python client, for tests in Rust: it reads one call a line from standard
input, as JSON, and answers each with a line.

    {"url": ..., "token": ..., "resource": "addresses", "method": "insert", "arguments": {...}}
    {"result": {...}}  or  {"error": {"status": 404, "reason": "notFound", "message": ...}}

Instead of a token, a call can have the key of a service account ("key"): the client then
authenticates as Google's library does with it.
"""

import json
import sys
from pathlib import Path

import google_auth_httplib2
import googleapiclient
import httplib2
from google.oauth2.credentials import Credentials
from google.oauth2.service_account import Credentials as ServiceAccount
from googleapiclient.discovery import build_from_document
from googleapiclient.errors import HttpError

SCOPE = "https://www.googleapis.com/auth/compute"
DOCUMENT = Path(googleapiclient.__file__).parent / "discovery_cache/documents/compute.v1.json"

# Everything is on one machine, so an answer that has not come by then was lost.
TIMEOUT_SECONDS = 150


def credentials(call):
    if "key" in call:
        return ServiceAccount.from_service_account_info(call["key"], scopes=[SCOPE])
    return Credentials(token=call["token"])


def service(document, call):
    """The API at another root than Google's."""
    root = call["url"].rstrip("/") + "/"
    document = document | {"rootUrl": root, "baseUrl": root + document["servicePath"]}
    http = httplib2.Http(timeout=TIMEOUT_SECONDS)
    return build_from_document(document, http=google_auth_httplib2.AuthorizedHttp(credentials(call), http=http))


def execute(services, document, call):
    key = (call["url"], call.get("token"), json.dumps(call.get("key")))
    if key not in services:
        services[key] = service(document, call)
    resource = getattr(services[key], call["resource"])()
    return getattr(resource, call["method"])(**call["arguments"]).execute(num_retries=0)


def answer(services, document, call):
    try:
        return {"result": execute(services, document, call)}
    except HttpError as error:
        details = error.error_details if isinstance(error.error_details, list) else []
        reason = next((detail.get("reason", "") for detail in details), "")
        return {"error": {"status": error.status_code, "reason": reason, "message": error.reason}}
    except Exception as error:  # what the client itself refuses, and connections that break
        return {"error": {"status": 0, "reason": type(error).__name__, "message": str(error)}}


def main():
    document = json.loads(DOCUMENT.read_text())
    services = {}
    for line in sys.stdin:
        print(json.dumps(answer(services, document, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
