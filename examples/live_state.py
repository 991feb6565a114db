"""State that changes all the time: operations, accepted in memory, journaled in Redis, committed seconds later.

What it shows: `patch` and its receipt, reads that see accepted writes at once, and when they are in PostgreSQL.
What to type:   python examples/live_state.py
"""

import asyncio

import holdfast
from holdfast import Append, Durability, Increment, Set, Swarm
from holdfast.documents import BlackboardItem


async def main() -> None:
    """A bot works on a swarm: each step is a few operations, and none waits for PostgreSQL."""
    async with holdfast.connect() as state, holdfast.connect() as other:
        await state.swarms.put("live-2", Swarm(goal="Find the leak"))

        for step in range(20):  # all operations of a call take effect together, or none
            receipt = await state.swarms.patch(
                "live-2",
                Increment("stats", "total_tool_calls"),
                Set("blackboard", BlackboardItem(id="step", value=step), item="step"),
                Append("metadata", "seen", f"valve {step}"),
            )
        print("the last write is", receipt.durability.value)  # journaled, as swarms are unless a call says otherwise

        entry = await state.swarms.entry("live-2")  # what is not committed yet is laid over what is
        assert entry is not None
        print(entry.value.stats.total_tool_calls, "calls; not all committed:", entry.pending)

        await receipt.reached(Durability.COMMITTED)  # after two quiet seconds; `state.flush()` waits for none
        swarm = await other.swarms.get("live-2", consistency=holdfast.Consistency.STRONG)
        assert swarm is not None
        print("another server sees", len(swarm.metadata["seen"]), "valves, committed as version", receipt.version)


if __name__ == "__main__":
    asyncio.run(main())
