"""Secrets of runs that are shown to a person: recorded first, without the value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from fix_run_servers import RUN, Hall, hall
from fix_secrets import NEW, OLD
from holdfast.audit.chain import AuditNote
from holdfast.errors import InvalidKey, KeyMissing, NotFound, TierUnavailable
from holdfast.run_context import revealing
from holdfast.run_context.secrets import opened
from holdfast.sensitivity.known_keys import KnownKeys
from holdfast.testing import MemoryAudit

MARK = "qzvxwj"


def noted(at: Hall) -> Sequence[AuditNote]:
    """What the audit log says."""
    return [entry.note for entry in at.l3.log.marks.audit]


async def with_secret(at: Hall) -> Any:
    """A run of server a that has one."""
    run = await at.a.begin("search", secrets={"token": {"first": f"{MARK}-1"}}, run_id=RUN)
    run.context["plain"] = (1, 2)
    await run.checkpoint()
    run.context["token"] = [f"{MARK}-2"]
    await run.checkpoint()
    return run


async def test_a_secret_is_revealed_on_any_server_and_recorded() -> None:
    """The newest value; who, why, of which variable, and not the value. What is not secret is recorded too."""
    async with hall(master_keys=(OLD,)) as at:
        await with_secret(at)
        at.servers["b"].keys.known = KnownKeys()
        assert await at.b.reveal(RUN, "token", by="ada", reason="an audit") == [f"{MARK}-2"]
        assert await at.b.reveal(RUN, "plain", by="ada", reason="to compare") == (1, 2)
        first, second = noted(at)
        assert (first.action, first.subject, first.actor, first.reason) == ("revealed", f"run:{RUN}", "ada", "an audit")
        assert '"variable":"token","sensitivity":"secret"' in first.detail
        assert '"variable":"plain"' in second.detail
        assert MARK not in repr(noted(at))
        assert at.servers["b"].keys.known.masked(f"{MARK}-2") == "***"


async def test_nothing_is_opened_that_cannot_be_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor if who asks says not who, or not why. What is opened is in the log by then."""
    when: list[int] = []

    def told(*given: Any) -> Any:
        when.append(len(noted(at)))
        return opened(*given)

    async with hall(master_keys=(OLD,)) as at:
        monkeypatch.setattr(revealing, "opened", told)
        await with_secret(at)

        async def full(_: MemoryAudit, note: AuditNote) -> None:
            raise TierUnavailable(f"no room for {note.action}")

        with monkeypatch.context() as broken:
            broken.setattr(MemoryAudit, "append", full)
            with pytest.raises(TierUnavailable, match="no room for revealed"):
                await at.b.reveal(RUN, "token", by="ada", reason="an audit")
        for by, reason in (("", "an audit"), ("ada", "")):
            with pytest.raises(InvalidKey):
                await at.b.reveal(RUN, "token", by=by, reason=reason)
        assert (when, noted(at)) == ([], [])
        await at.b.reveal(RUN, "token", by="ada", reason="an audit")
        assert when == [1]


async def test_what_is_not_there_cannot_be_revealed() -> None:
    """Nothing is recorded then."""
    async with hall(master_keys=(OLD,)) as at:
        await with_secret(at)
        for run_id, key in (("none", "token"), (RUN, "none")):
            with pytest.raises(NotFound, match="none"):
                await at.b.reveal(run_id, key, by="ada", reason="an audit")
        assert noted(at) == []


async def test_without_its_master_key_it_stays_closed() -> None:
    """That it was asked for is recorded."""
    async with hall("a", master_keys=(OLD,)) as at:
        await with_secret(at)
        at.settings = at.settings.__class__(master_keys=(NEW,))
        async with at.server("b"):
            with pytest.raises(KeyMissing, match="master key old"):
                await at.b.reveal(RUN, "token", by="ada", reason="an audit")
        assert [each.action for each in noted(at)] == ["revealed"]
