"""The middleware carries a scope's token from answer to request, and refuses what is none."""

from __future__ import annotations

from collections.abc import AsyncIterator, MutableMapping
from contextlib import AsyncExitStack
from typing import Any

import pytest

from fix_clock import Ticking
from holdfast import Bot, Scope, StateStore, TierUnavailable
from holdfast.scopes.asgi import HEADER, SCOPE, ScopeMiddleware
from holdfast.testing import MemoryCache, MemoryFeed, MemoryStorage, connect

Headers = list[tuple[bytes, bytes]]


class Caller:
    """A client that sends requests to one application on several servers."""

    def __init__(self, stores: list[StateStore]) -> None:
        self._stores = stores
        self.seen: list[object] = []

    async def call(self, server: int, headers: Headers, *, kind: str = "http") -> list[MutableMapping[str, Any]]:
        """One request; what the server sent."""
        sent: list[MutableMapping[str, Any]] = []

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message)

        async def receive() -> MutableMapping[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        await ScopeMiddleware(self._app, lambda: self._stores[server])(
            {"type": kind, "headers": headers}, receive, send
        )
        return sent

    async def hear(self, server: int) -> None:
        """Let a server learn what was committed."""
        assert await self._stores[server].bots.watching.feed.refresh()

    def deafen(self, server: int) -> None:
        """Let a server learn nothing any more."""
        source = self._stores[server].bots.watching.feed._source
        assert isinstance(source, MemoryFeed)
        source.fail = True

    async def _app(self, request: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        scope = request.get(SCOPE)
        self.seen.append(scope)
        if scope is None:
            return
        assert isinstance(scope, Scope)
        count = await scope.bots.update("b1", lambda bot: Bot(name=f"{bot.name}x"), default=Bot(name=""))
        start = "http.response.start" if request["type"] == "http" else "websocket.accept"
        await send({"type": start, "status": 200, "headers": [(b"x-own", b"1")]})
        await send({"type": "http.response.body", "body": str(count.name).encode()})


@pytest.fixture
async def caller(l3: MemoryStorage) -> AsyncIterator[Caller]:
    clock = Ticking()
    l2 = MemoryCache(clock)
    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(connect(l2=l2, l3=l3, clock=clock)) for _ in range(2)]
        yield Caller(stores)


@pytest.fixture
def l3() -> MemoryStorage:
    return MemoryStorage()


def token_in(sent: list[MutableMapping[str, Any]]) -> bytes:
    """The header in an answer."""
    return bytes(dict(sent[0]["headers"])[HEADER.encode()])


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_each_answer_carries_what_the_next_request_goes_on_from(caller: Caller, kind: str) -> None:
    """To whichever server it goes; the application's own headers stay."""
    headers: Headers = []
    for number in range(4):
        sent = await caller.call(number % 2, headers, kind=kind)
        assert sent[1]["body"] == b"x" * (number + 1)
        assert dict(sent[0]["headers"])[b"x-own"] == b"1"
        headers = [(b"Holdfast-Scope", token_in(sent))]
    scopes = caller.seen
    assert len(set(map(id, scopes))) == 4


async def test_the_scope_ends_with_the_request(caller: Caller) -> None:
    """An application that keeps it is told so."""
    await caller.call(0, [])
    (scope,) = caller.seen
    assert isinstance(scope, Scope)
    with pytest.raises(Exception, match="this scope has ended"):
        await scope.bots.get("b1")


@pytest.mark.parametrize("headers", [[(b"holdfast-scope", b"junk")], [(b"holdfast-scope", b"\xff\xff")], None])
async def test_what_is_no_token_is_refused(caller: Caller, headers: Headers | None) -> None:
    """In words, before the application is called; two tokens are none either."""
    if headers is None:
        headers = [(HEADER.encode(), token_in(await caller.call(0, [])))] * 2
        caller.seen.clear()
    sent = await caller.call(0, headers)
    assert sent[0]["status"] == 400
    assert b"scope" in sent[1]["body"]
    assert caller.seen == []


async def test_a_token_of_another_l3_is_told_apart(caller: Caller, l3: MemoryStorage) -> None:
    """The client leaves it out the next time."""
    headers = [(HEADER.encode(), token_in(await caller.call(0, [])))]
    l3.crash()
    for _ in range(2):  # found out by the application's own call, then before it
        sent = await caller.call(1, headers)
        assert sent[0]["status"] == 409
    assert len(caller.seen) == 2
    assert (await caller.call(1, []))[0]["status"] == 200


async def test_what_the_application_raises_is_its_own(caller: Caller, l3: MemoryStorage) -> None:
    """An L3 that is away is not blamed on the token."""
    l3.away = True
    with pytest.raises(TierUnavailable):
        await caller.call(0, [])


async def test_an_l3_that_cannot_be_asked_is_the_servers_fault(caller: Caller, l3: MemoryStorage) -> None:
    """Try again soon, the answer says; a web socket is closed."""
    caller.deafen(1)
    l3.crash()
    await caller.hear(0)
    headers = [(HEADER.encode(), token_in(await caller.call(0, [])))]
    l3.away = True
    sent = await caller.call(1, headers)
    assert (sent[0]["status"], dict(sent[0]["headers"])[b"retry-after"]) == (503, b"1")
    sent = await caller.call(1, headers, kind="websocket")
    assert (sent[0]["type"], sent[0]["code"]) == ("websocket.close", 1008)


async def test_what_is_no_request_passes(caller: Caller) -> None:
    """The server's start and end."""
    await caller.call(0, [], kind="lifespan")
    assert caller.seen == [None]
