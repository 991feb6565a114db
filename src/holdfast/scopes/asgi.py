"""Scopes for web applications: a middleware that carries the token in a header (ASGI 3, no framework needed).

    app = ScopeMiddleware(app, lambda: state)      # a function, since the store is opened when the server starts

    async def endpoint(request):                   # Starlette, say
        scope = request.scope[SCOPE]
        swarm = await scope.swarms.get("s1")

A caller who sends back with each request the header it got last never goes back in time, whichever server answers, as
long as its requests follow one another: of two that overlap the later answer need not cover the other. Where the
application fails before it answers there is no header, though what it wrote may be committed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final, Protocol

from holdfast.errors import IncarnationChanged, InvalidToken, TierUnavailable
from holdfast.scopes.scope import Scope

SCOPE: Final = "holdfast.scope"
"""Where an application finds its `Scope`, in ASGI's own scope of a request."""
HEADER: Final = "holdfast-scope"

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


class OpensScopes(Protocol):
    """A store, as far as this needs one."""

    def scope(self, token: str | None = None) -> Scope:
        """See `Scopes.open`."""
        ...


class ScopeMiddleware:
    """Gives each request, and each web socket, a scope of its own that goes on from the caller's.

    The answer's header covers what was done before the answer began; an application that writes while it streams its
    answer cannot tell of that. A token that is none is answered with 400, one of another L3 with 409 (leave it out the
    next time), and 503 says that L3 could not be asked which of the two it is.

    Args:
        store: gives the open store, when a request comes.
        header: its name, in lower case.
    """

    def __init__(self, app: Application, store: Callable[[], OpensScopes], *, header: str = HEADER) -> None:
        self._app = app
        self._store = store
        self._header = header.lower().encode("ascii")

    async def __call__(self, request: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """One connection of ASGI."""
        if request["type"] not in {"http", "websocket"}:
            await self._app(request, receive, send)
            return
        answer = _Answer(send, self._header)
        try:
            async with self._store().scope(_token(request["headers"], self._header)) as scope:
                await self._app({**request, SCOPE: scope}, receive, answer.telling(scope))
        except (InvalidToken, IncarnationChanged, TierUnavailable) as fault:
            if answer.begun or (answer.asked and not isinstance(fault, IncarnationChanged)):
                raise  # the application's own
            await _refuse(request["type"], fault, send)


class _Answer:
    """What goes back to a caller.

    Attributes:
        asked: the application was called.
        begun: it has begun to answer.
    """

    def __init__(self, send: Send, header: bytes) -> None:
        self._send = send
        self._header = header
        self.asked = self.begun = False

    def telling(self, scope: Scope) -> Send:
        """How the application sends, so that the beginning of its answer carries the scope's token."""
        self.asked = True

        async def tell(message: Message) -> None:
            if message["type"] in {"http.response.start", "websocket.accept"}:
                others = [each for each in message.get("headers", ()) if each[0].lower() != self._header]
                message = {**message, "headers": [*others, *self._headers(scope)]}
            self.begun = True
            await self._send(message)

        return tell

    def _headers(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        try:
            return [(self._header, scope.token.encode("ascii"))]
        except IncarnationChanged:  # there is nothing to go on from; the caller learns it with the next request
            return []


def _token(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> str | None:
    found = [value for key, value in headers if key.lower() == name]
    if len(found) > 1:
        raise InvalidToken(f"{len(found)} headers {name.decode()}; one request goes on from one scope")
    return found[0].decode("latin-1") if found else None


async def _refuse(kind: str, fault: Exception, send: Send) -> None:
    if kind == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": str(fault)[:120]})
        return
    status = 400 if isinstance(fault, InvalidToken) else 409 if isinstance(fault, IncarnationChanged) else 503
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    if status == 503:
        headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": f"{fault}\n".encode()})
