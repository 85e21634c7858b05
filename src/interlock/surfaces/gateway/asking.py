"""Requests to the client during a call: sent directly to an older client, as `input_required` to a newer one.

A newer client (2026-07-28) cannot be sent requests. Its call is left open, and it gets the request as a result with a
sealed `requestState`; it then repeats the call with its answer. The state names the open call, the agent, tool and
arguments, and its expiry. It is accepted once, and only by the process that sealed it.
"""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Final

from interlock.detect import find_unseen
from interlock.executors.mcp.peer import RpcError
from interlock.lazy import lazy
from interlock.model.canonical import CanonicalError, digest
from interlock.model.json_rpc import INTERNAL_ERROR
from interlock.surfaces.gateway.callers import Caller

if TYPE_CHECKING:
    from cryptography import exceptions
    from cryptography.hazmat.primitives.ciphers import aead
else:
    exceptions, aead = lazy("cryptography.exceptions"), lazy("cryptography.hazmat.primitives.ciphers.aead")

OPEN_S: Final = 600.0
"""How long an open call waits for its client."""
OPEN_MAX: Final = 256
_KEY_CHARS_MAX: Final = 128


class OpenCall:
    """A call of a newer client, which sends its answers by repeating the call."""

    task: asyncio.Task[dict[str, Any]]
    """The task of the call, once it has started."""
    caller: Caller

    def __init__(self, given: Mapping[str, Any]) -> None:
        """Not started yet. `given` are answers that came with the call, by the key of the request."""
        self._given = dict(given)
        self._asked: dict[str, tuple[dict[str, Any], asyncio.Future[dict[str, Any]]]] = {}
        self._number = 0
        self._news = asyncio.Event()

    def begin(self, caller: Caller, call: Coroutine[Any, Any, dict[str, Any]]) -> None:
        """Start the call."""
        self.caller = caller
        self.task = asyncio.get_running_loop().create_task(call)
        self.task.add_done_callback(lambda _: self._withdraw())

    async def ask(self, method: str, params: dict[str, Any], key: str) -> dict[str, Any]:
        """Send the client a request with its next result, and wait for the answer.

        `key` is the request's name, if it is unused.
        """
        if isinstance(said := self._given.pop(key, None), dict):
            return said
        self._number += 1
        if not key or len(key) > _KEY_CHARS_MAX or find_unseen(key) or key in self._asked:
            key = f"q{self._number}"
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._asked[key] = ({"method": method, "params": params}, answer)
        self._news.set()
        try:
            return await answer
        finally:
            self._asked.pop(key, None)

    async def wait_news(self) -> dict[str, Any] | None:
        """Wait until the call ends (None), or has requests to the client: the requests by key. Cancelling it cancels the call."""
        while True:
            self._news.clear()
            if self.task.done():
                return None
            waiting = {key: question for key, (question, answer) in self._asked.items() if not answer.done()}
            if waiting:
                return waiting
            news = asyncio.ensure_future(self._news.wait())
            try:
                await asyncio.wait([news, self.task], return_when=asyncio.FIRST_COMPLETED)
            finally:
                news.cancel()

    def answer(self, responses: Mapping[str, Any]) -> None:
        """Accept the client's answers; a request without an answer counts as declined."""
        for key, (_, answer) in list(self._asked.items()):
            response = responses.get(key)
            if answer.done():
                continue
            if isinstance(response, dict):
                answer.set_result(response)
            else:
                answer.set_exception(RpcError(INTERNAL_ERROR, "the client did not answer"))

    def _withdraw(self) -> None:
        """The call has ended, so its requests can no longer be answered."""
        for _, answer in self._asked.values():
            if not answer.done():
                answer.set_exception(RpcError(INTERNAL_ERROR, "the call that made this request has ended"))


class OpenCalls:
    """The open calls of one agent's clients, and the seal of their states."""

    def __init__(self, principal: str) -> None:
        """`principal` names the agent and session; states of others are not accepted."""
        self._principal = principal.encode()
        self._key = secrets.token_bytes(32)
        self._open: dict[str, tuple[OpenCall, asyncio.TimerHandle]] = {}

    def keep(self, call: OpenCall, method: str, params: Mapping[str, Any]) -> str | None:
        """Keep a call open until its client returns. Returns the state for the client; None if too many calls are open."""
        if len(self._open) >= OPEN_MAX:
            return None
        loop = asyncio.get_running_loop()
        redeemed = secrets.token_hex(16)  # makes each state unique, so that it can be used only once
        timer = loop.call_later(OPEN_S, self._expire, redeemed)
        self._open[redeemed] = (call, timer)
        sealed = {"call": redeemed, "of": _about(method, params), "until": loop.time() + OPEN_S}
        nonce = secrets.token_bytes(12)
        return base64.urlsafe_b64encode(
            nonce + aead.AESGCM(self._key).encrypt(nonce, json.dumps(sealed).encode(), self._principal)
        ).decode()

    def take(self, state: Any, method: str, params: Mapping[str, Any]) -> OpenCall | None:
        """The call of a state; None if the state is not ours, was used, has expired, or belongs to another call."""
        try:
            data = base64.b64decode(state, altchars=b"-_", validate=True)
            found = json.loads(aead.AESGCM(self._key).decrypt(data[:12], data[12:], self._principal))
        except (exceptions.InvalidTag, ValueError, TypeError):
            return None
        if found["of"] != _about(method, params) or found["until"] < asyncio.get_running_loop().time():
            return None
        kept = self._open.pop(found["call"], None)
        if kept is None:
            return None
        call, timer = kept
        timer.cancel()
        return call

    async def close(self) -> None:
        """End all open calls."""
        left = [call.task for call, _ in self._open.values()]
        for _, timer in self._open.values():
            timer.cancel()
        self._open.clear()
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)

    def _expire(self, key: str) -> None:
        kept = self._open.pop(key, None)
        if kept is not None:
            kept[0].task.cancel()


def _about(method: str, params: Mapping[str, Any]) -> str:
    """The part of a call that a state is bound to, which stays the same when the call is repeated."""
    try:
        return digest("mcp_call", [method, params.get("name"), params.get("arguments")])
    except CanonicalError:  # the gate refuses such parameters
        return ""
