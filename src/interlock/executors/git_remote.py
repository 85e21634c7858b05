"""Where the git tools connect to: a checked URL and a checked address.

Behind namespaces, git reaches the host and port of its URL through the egress proxy, and nothing else. Without them,
git is made to connect to the address that was resolved and checked here, so DNS rebinding gains nothing: by
`http.curloptResolve`, by ssh's `HostName`, and by writing the address into a `git://` URL. Redirects are not followed,
and only the URL's own transport is allowed, so no helpers such as `ext::`.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from interlock.executors.http_wire import Resolver
from interlock.model.errors import ToolError
from interlock.model.hosts import Endpoint, endpoint

AddressJudge = Callable[[str], str | None]
"""Returns why an address or host name is private, or None: `interlock.detect.address_is_private`."""

_SCHEMES: Final = frozenset(("http", "https", "ssh", "git"))
_SSH: Final = (
    "BatchMode=yes",
    "ProxyCommand=none",
    "ProxyJump=none",
    "ControlMaster=no",
    "ControlPath=none",
    "ClearAllForwardings=yes",
    "PermitLocalCommand=no",
)
"""SSH options that allow only a direct connection to the host: no proxies, and no connection that the user already has open."""
_SAFE: Final = re.compile(r"[!-~]{1,4096}")
_USER: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")


class Remote(NamedTuple):
    """A checked URL, with the settings and environment that make git connect there."""

    url: str
    there: Endpoint
    scheme: str
    proxied: bool
    """True if the egress proxy resolves the name, checks its addresses and connects."""
    settings: dict[str, str]
    environment: dict[str, str]


async def check_remote(url: str, judge: AddressJudge, resolver: Resolver, *, proxied: bool) -> Remote:
    """Check a URL and return its remote.

    Raises: ToolError `url_refused`; unless `proxied`, `private_address`, `connection_failed`.
    """
    try:
        there = endpoint(url)
        split = urlsplit(url)
        user, password = split.username, split.password
    except ValueError as error:
        raise _refused(f"it {error}") from None
    scheme = split.scheme.lower()
    if scheme not in _SCHEMES or not _SAFE.fullmatch(url) or there.port is None:
        raise _refused("the URL is not an http, https, ssh or git URL in plain characters")
    if password is not None or (user is not None and (scheme != "ssh" or not _USER.fullmatch(user))):
        raise _refused("the URL contains credentials, which would be recorded")
    if split.query or split.fragment or not split.path.strip("/") or split.path.startswith("/-"):
        raise _refused("the URL does not name a repository")
    address = there.host if proxied else await _judged(there.host, there.port, judge, resolver)
    host = f"[{there.host}]" if ":" in there.host else there.host
    literal = f"[{address}]" if ":" in address else address
    settings: dict[str, str] = {}
    environment = {"GIT_ALLOW_PROTOCOL": scheme, "GIT_SSH_COMMAND": "false"}
    authority = f"{host}:{there.port}"
    if scheme in ("http", "https"):
        settings["http.followRedirects"] = "false"
        settings["http.proxy"] = (
            ""  # the host's name already resolves to the egress proxy, which keeps the connection open
        )
        if not proxied:
            settings["http.curloptResolve"] = f"{authority}:{literal}"
    elif scheme == "ssh":
        # `endpoint` allows only safe characters in host and address, so the shell that git starts reads them as plain
        # words.
        options = "".join(f" -o{option}" for option in (*_SSH, f"HostName={address}", f"HostKeyAlias={there.host}"))
        environment["GIT_SSH_COMMAND"] = f"ssh{options}"
        authority = f"{user}@{authority}" if user else authority
    else:
        authority = f"{literal}:{there.port}"
    return Remote(f"{scheme}://{authority}{split.path}", there, scheme, proxied, settings, environment)


async def _judged(host: str, port: int, judge: AddressJudge, resolver: Resolver) -> str:
    """Resolve a host to an address. Raises: ToolError if any of its addresses is private."""
    if judge(host) is not None:
        raise _private()
    addresses: Sequence[str]
    try:
        addresses = [str(ipaddress.ip_address(host))]
    except ValueError:
        try:
            addresses = await asyncio.to_thread(resolver, host, port)
        except OSError as error:
            raise ToolError("url: the host's name does not resolve", code="connection_failed") from error
    if not addresses:
        raise ToolError("url: the host's name does not resolve", code="connection_failed")
    if any(judge(address) is not None for address in addresses):
        raise _private()
    return addresses[0]


def _private() -> ToolError:
    return ToolError(
        "url: the host is, or resolves to, an address that is not public",
        code="private_address",
        path="$.parameters.url",
        retryable=False,
        hint="this tool reaches only public addresses; a program that the rules allow `exec` to run may reach others",
    )


def _refused(why: str) -> ToolError:
    return ToolError(f"url: {why}", code="url_refused", path="$.parameters.url", retryable=False)
