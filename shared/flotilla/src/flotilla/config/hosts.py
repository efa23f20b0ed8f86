"""Hosts that a fleet may call in its tenants' names: a list in the settings, and nothing beside it."""

import re

import httpx

from flotilla.contracts.errors import Forbidden, Invalid

_LISTED = re.compile(r"(https?://)?([a-z0-9.-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?", re.ASCII)


def check_allowed_hosts(setting: str, hosts: tuple[str, ...]) -> tuple[str, ...]:
    """Return `hosts` if each is one.

    Raises:
        ValueError: one is not such as `api.example.com:8443` or `http://10.0.0.5:8080`.
    """
    for host in hosts:
        if not _LISTED.fullmatch(host):
            raise ValueError(f"{setting}: {host} is not a host such as api.example.com:8443")
    return hosts


def parse_allowed_url(address: str, hosts: tuple[str, ...], setting: str) -> httpx.URL:
    """Return `address` as a URL; a host without a scheme is listed for https.

    Raises:
        Invalid: it is not a URL.
        Forbidden: its host is not on the list.
    """
    try:
        url = httpx.URL(address)
    except (httpx.InvalidURL, ValueError) as error:
        raise Invalid(f"not a URL: {error}") from error
    origin = f"{url.scheme}://{url.host}" + (f":{url.port}" if url.port else "")
    allowed = {each if "://" in each else f"https://{each}" for each in hosts}
    if url.userinfo or origin not in allowed:
        raise Forbidden(f"{origin} is not on the list {setting} (a host without a scheme is https)")
    return url
