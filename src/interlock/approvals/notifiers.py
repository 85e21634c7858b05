"""The notifiers that come with Interlock: terminal bell, webhook, command."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import SplitResult, urlsplit

import msgspec

from interlock.approvals.hold import Hold
from interlock.approvals.notify import NotifyError
from interlock.approvals.time import SharedTime
from interlock.lazy import lazy
from interlock.model.errors import ConfigurationError

if TYPE_CHECKING:
    import ssl
    from http import client
else:
    ssl = lazy("ssl")
    client = lazy("http.client")

SIGNATURE_HEADER: Final = "X-Interlock-Signature"
TIMESTAMP_HEADER: Final = "X-Interlock-Timestamp"
_TEXT_CHARS_MAX: Final = 2900  # Slack refuses a section of more than 3000


class TerminalBell:
    """Rings the bell of the terminal that the process belongs to, if it has one."""

    name = "bell"

    def __init__(self, terminal: str = "/dev/tty") -> None:
        """`terminal` is the device to write to."""
        self._terminal = terminal

    def notify(self, hold: Hold, timeout_s: float) -> None:  # noqa: ARG002 # a bell carries no text and takes no time
        """Write one BEL. Does nothing without a terminal."""
        with contextlib.suppress(OSError):
            fd = os.open(self._terminal, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                _ring(fd)
            finally:
                os.close(fd)


def _ring(fd: int) -> None:
    """Write one BEL. Waits at most a fifth of a second while another process writes, or output is stopped."""
    for _ in range(40):
        try:
            os.write(fd, b"\a")
        except BlockingIOError:
            time.sleep(0.005)
        else:
            return


class Function:
    """Calls the application's own function, which should return soon. Retries if it raises, then audits the failure."""

    def __init__(self, function: Callable[[Hold], None]) -> None:
        """The notifier is named after the function."""
        self.name = getattr(function, "__name__", "function")
        self._function = function

    def notify(self, hold: Hold, timeout_s: float) -> None:  # noqa: ARG002 # the function must keep the limit
        """Call the function."""
        self._function(hold)


class Webhook:
    """Posts the hold as signed JSON in the format of Slack's incoming webhooks.

    `X-Interlock-Signature: v1=<hex>` is HMAC-SHA256 with the shared secret over `v1:<timestamp>:<body>`, where the timestamp
    (seconds since the epoch) is `X-Interlock-Timestamp`. A receiver should refuse old timestamps. Redirects are not followed.
    """

    def __init__(self, url: str, secret: bytes | None, time: SharedTime, *, name: str = "webhook") -> None:
        """`url` may contain a token (as Slack's do) and is never repeated in a message. Raises: ConfigurationError.

        Without a `secret`, for a URL that is itself secret, posts are not signed.
        """
        parts = _web_address(url)
        if parts is None:
            message = (
                "the URL of a webhook must be `http://...` or `https://...`, without spaces or non-ASCII characters"
            )
            raise ConfigurationError(message)
        if secret is not None and not secret:
            raise ConfigurationError("a webhook needs a signing secret", hint="name it with `secret_env`")
        self.name = name
        self._parts = parts
        self._secret = secret
        self._time = time

    def notify(self, hold: Hold, timeout_s: float) -> None:
        """Post the hold. Raises: NotifyError, permanent if the response reports a bad request."""
        self.post(msgspec.json.encode(slack_message(hold)), timeout_s)

    def post(self, body: bytes, timeout_s: float) -> None:
        """Post JSON. Raises: NotifyError."""
        timestamp = str(self._time.now_us() // 1_000_000)
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "interlock",
            TIMESTAMP_HEADER: timestamp,
        }
        if self._secret is not None:
            headers[SIGNATURE_HEADER] = signature(self._secret, timestamp, body)
        host, port = self._parts.hostname or "", self._parts.port
        connection = (
            client.HTTPSConnection(host, port, timeout=timeout_s, context=ssl.create_default_context())
            if self._parts.scheme == "https"
            else client.HTTPConnection(host, port, timeout=timeout_s)
        )
        path = (self._parts.path or "/") + (f"?{self._parts.query}" if self._parts.query else "")
        try:
            connection.request("POST", path, body, headers)
            status = connection.getresponse().status
        except (OSError, client.HTTPException) as error:
            raise NotifyError(f"the webhook could not be reached: {type(error).__name__}") from None
        finally:
            connection.close()
        if not 200 <= status < 300:
            raise NotifyError(
                f"the webhook responded with {status}", permanent=status < 500 and status not in {408, 429}
            )


class Command:
    """Runs a program with the hold as JSON on standard input. No shell, and nothing from the hold in its arguments.

    It runs in `/`, because an agent could leave files in the workspace that the program would load by a relative name.
    """

    def __init__(self, argv: Sequence[str], environment: Mapping[str, str], *, name: str = "command") -> None:
        """`environment` is the program's whole environment. Raises: ConfigurationError for a program that cannot be found."""
        if not argv or ("/" in argv[0] and not argv[0].startswith("/")):
            raise ConfigurationError("a notification command needs a program: a name or an absolute path")
        self.name = name
        self._argv = tuple(argv)
        self._environment = dict(environment)

    def notify(self, hold: Hold, timeout_s: float) -> None:
        """Run the program to its end. Raises: NotifyError; permanent if the program cannot be started."""
        self.run(msgspec.json.encode(summary_of(hold)), timeout_s)

    def run(self, document: bytes, timeout_s: float) -> None:
        """Run the program to its end, with JSON on standard input. Raises: NotifyError."""
        try:
            process = subprocess.Popen(
                self._argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=self._environment,
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            raise NotifyError(
                f"the command could not be started: {os.strerror(error.errno or 0)}", permanent=True
            ) from None
        with process:
            try:
                process.communicate(document, timeout=timeout_s)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, 9)
                raise NotifyError("the command did not end within its time limit") from None
        if process.returncode != 0:
            raise NotifyError(f"the command exited with {process.returncode}")


def _web_address(url: str) -> SplitResult | None:
    """Returns the parts of a webhook URL; None if the URL is invalid."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:  # an invalid port or IPv6 address
        return None
    return parts if good and url.isascii() and url.isprintable() and " " not in url else None


def signature(secret: bytes, timestamp: str, body: bytes) -> str:
    """Returns the value of the signature header: compare it with `hmac.compare_digest`."""
    return "v1=" + hmac.new(secret, b"v1:%b:%b" % (timestamp.encode(), body), hashlib.sha256).hexdigest()


def summary_of(hold: Hold) -> dict[str, Any]:
    """Returns the content of a notification: enough to find and judge the hold, without raw values."""
    return {
        "id": hold.id,
        "agent": hold.agent,
        "kind": hold.kind,
        "tool": hold.tool,
        "summary": hold.summary,
        "reason": hold.reason,
        "run": hold.run,
        "groups": sorted({r.group for r in hold.requirements if r.group is not None}),
        "created_at_us": hold.created_at_us,
        "expires_at_us": hold.expires_at_us,
        "digest": hold.digest,
    }


def slack_message(hold: Hold) -> dict[str, Any]:
    """Returns the body of the webhook: text for people, and the summary as Slack message metadata for programs."""
    lines = [f"*{_escape(hold.agent)}* asks: {_escape(hold.summary)}"]
    if hold.reason:
        lines.append(_escape(hold.reason))
    lines.append(f"`interlock approvals show {hold.id}`")
    text = "\n".join(lines)[:_TEXT_CHARS_MAX]
    return {
        "text": text,
        "blocks": [{"type": "section", "text": {"type": "mrkdwn", "text": text}}],
        "metadata": {"event_type": "interlock_approval", "event_payload": summary_of(hold)},
    }


def _escape(text: str) -> str:
    """Escape Slack's three control characters: otherwise an agent could mention people or forge a link."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
