"""The errors of the API that moto lacks."""

from moto.elbv2.exceptions import ELBClientError


def refused(code: str, message: str) -> ELBClientError:
    """An error with this code, as the API reference names it for the action."""
    return ELBClientError(code, message)


def invalid(message: str) -> ELBClientError:
    """What every action answers to a parameter that it does not take."""
    return refused("ValidationError", message)
