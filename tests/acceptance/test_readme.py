"""The code of the README, of the pages and of the examples runs as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.embedded import Running

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def blocks(page: str) -> list[str]:
    """The Python code of a page."""
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


BLOCKS = blocks("README.md")


def run(program: str, servers: Running, postgres_url: str) -> str:
    """What a program prints, with the session's servers in its environment."""
    environment = {
        **os.environ,
        "HOLDFAST_POSTGRES_URL": postgres_url,
        "HOLDFAST_REDIS_URLS": ",".join(servers.redis_urls),
    }
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_first_example(servers: Running, postgres_url: str) -> None:
    """The 25 lines print what their comments say."""
    code = [line for line in BLOCKS[0].splitlines() if line.strip()]
    assert len(code) <= 25
    assert run(BLOCKS[0], servers, postgres_url).splitlines() == ["Find the leak", "ada True Tier.L3", "None"]


def test_an_own_kind(servers: Running, postgres_url: str) -> None:
    """The own kind of the README is stored."""
    program = f"import asyncio, holdfast\n{BLOCKS[1]}\nasyncio.run(own())\nprint('stored')"
    assert run(program, servers, postgres_url).strip() == "stored"


def test_live_state_by_operations(servers: Running, postgres_url: str) -> None:
    """The patch is accepted, journaled or committed, and committed in the end."""
    program = f"""
import asyncio, holdfast
from holdfast import Swarm
from holdfast.documents import BlackboardItem
{BLOCKS[3]}
async def main():
    async with holdfast.connect() as state:
        await step(state, BlackboardItem(id="n1", value=1))
        print((await state.swarms.get("s1")).stats.total_tool_calls)
asyncio.run(main())
"""
    assert run(program, servers, postgres_url).splitlines()[-1] == "1"


def test_the_scope_the_watch_and_the_events(servers: Running, postgres_url: str) -> None:
    """They run as they stand, after the transaction's block."""
    program = f"""
import asyncio, msgspec, holdfast
from holdfast import Bot, Swarm
{BLOCKS[2]}
{BLOCKS[4]}
async def main():
    async with holdfast.connect() as state, holdfast.connect() as other:
        await state.bots.put("ada", Bot(name="Ada"))
        await move(state)
        token = await work(state, None)
        async with other.scope(token) as scope:
            assert (await scope.bots.get("ada")).model == "small"
        following = asyncio.ensure_future(follow(other))
        heard = asyncio.Event()
        async def hear(event):
            heard.set()
        await other.subscribe("goals/reached", hear).ready()
        await events(state)
        async with asyncio.timeout(30):
            await heard.wait()
        await state.swarms.put("s1", Swarm(goal="x"))
        following.cancel()
        print("done")
asyncio.run(main())
"""
    assert "done" in run(program, servers, postgres_url).splitlines()


def test_a_run(servers: Running, postgres_url: str) -> None:
    """It is kept when its block ends, with what its child found."""
    program = f"""
import asyncio, holdfast
{BLOCKS[5]}
async def main():
    async with holdfast.connect() as state, holdfast.connect() as other:
        await research(state)
        (run,) = await other.runs.list(routine_id="research")
        view = await other.runs.get(run.id, consistency=holdfast.Consistency.STRONG)
        print(view.run.status, list(view.state.steps), view.state.variables["sources"].value)
        try:
            await go_on(other, run.id)
        except holdfast.RunOver:
            print("it is over")
asyncio.run(main())
"""
    lines = run(program, servers, postgres_url).splitlines()
    assert lines[-2:] == ["completed ['search'] ['a.example']", "it is over"]


def test_the_page_of_run_contexts(servers: Running, postgres_url: str) -> None:
    """A run's life over two servers, in under 60 lines, prints what the page says."""
    code, _ = blocks("docs/run-contexts.md")
    assert len(code.splitlines()) < 60
    program = f"""
{code}
import asyncio
async def main():
    async with holdfast.connect() as here, holdfast.connect() as there:
        run_id = await report(here)
        await go_on(there, run_id)
        await look(here, run_id)
asyncio.run(main())
"""
    lines = run(program, servers, postgres_url).splitlines()
    assert lines[0] == "lost: 0 steps, [] 0.0 seconds"
    assert lines[1] == "completed valve 2 ['look', 'confirm']"
    assert lines[-2].startswith("['culprit'] Changed(before='running', after='completed')")
    assert lines[-1] == "0 snapshots were not needed any more"


def test_the_page_of_run_contexts_tells_of_secrets(servers: Running, postgres_url: str) -> None:
    """With a key that was made as it says, and from the environment."""
    _, code = blocks("docs/run-contexts.md")
    program = f"""
{code}
import asyncio, os
from holdfast.sensitivity.master_keys import MASTER_KEY_BYTES, master_key_line
os.environ["HOLDFAST_MASTER_KEYS"] = master_key_line("m1", os.urandom(MASTER_KEY_BYTES))
async def main():
    async with holdfast.connect() as state:
        print(await send(state, "hush"))
asyncio.run(main())
"""
    lines = run(program, servers, postgres_url).splitlines()
    assert lines[0] == "4"
    assert re.fullmatch(r"Sealed\(key [0-9a-f]{16}, \d+ bytes\)", lines[1])


def test_the_page_of_exports(servers: Running, postgres_url: str) -> None:
    """Children that ended in another order are merged in that of their begin, and what leaves them arrives."""
    (code,) = blocks("docs/exports.md")
    lines = run(f"{code}\nasyncio.run(main())\n", servers, postgres_url).splitlines()
    assert "culprit; child_wins; valve 1; the later write stands, whatever it had not seen" in lines
    assert "{'culprit': 'valve 1'}" in lines
    assert "['VALVE 1', 'VALVE 0']" in lines
    assert {"crm: culprit valve 0", "crm: culprit valve 1"} <= set(lines)


def test_the_page_of_escalations(servers: Running, postgres_url: str) -> None:
    """The hook is told of both, and the decision stands. How a webhook is verified is run by its own tests."""
    code, _ = blocks("docs/escalations.md")
    lines = run(code, servers, postgres_url).splitlines()
    assert "resolved by carol" in lines
    assert {"pager: desk:d1 open None", "pager: desk:d1 resolved bob"} <= set(lines)


def test_the_page_of_recovery(servers: Running, postgres_url: str) -> None:
    """A healthy server says so; of a kind with a strategy of its own a person is asked, by its steps alone."""
    health, strategy = blocks("docs/recovery.md")
    mode, tiers, age, backlog, modes, recovery = run(health, servers, postgres_url).splitlines()
    assert re.fullmatch(r"normal for \d+ s: every tier answers", mode)
    assert re.fullmatch(r"cached answers are at most [\d.]+ s old", age)
    assert (tiers, backlog) == ("L2 there L3 there", "0 writes wait for L3")
    assert re.fullmatch(r"\{'normal': [\d.]+\} \{'L2': 0, 'L3': 0\}", modes)
    assert recovery == "0 {}"
    lines = run(strategy, servers, postgres_url).splitlines()
    assert lines == [
        "plan:p1 is not a JSON object but list",
        "plan:p1 force_reload_from_l3 failed",
        "plan:p1 escalate_to_human escalated",
        "plan:p1 completed escalated",
        "asked about plan:p1",
    ]


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_each_example_runs(example: Path, servers: Running, postgres_url: str) -> None:
    """Every file under examples ends well."""
    assert run(example.read_text(encoding="utf-8"), servers, postgres_url)
