"""Two servers share one swarm. Runs as it stands: with no settings the embedded PostgreSQL and Valkey cluster are used.

What it shows: typed documents, the three tiers, an update that loses nothing, a write that checks its version.
What to type:   python examples/quickstart.py
"""

import asyncio

import msgspec

import holdfast
from holdfast import Bot, Conflict, Consistency, Swarm


async def main() -> None:
    """Write on one server, read and change on another."""
    async with holdfast.connect() as here, holdfast.connect() as there:
        await here.bots.put("ada", Bot(name="Ada"))
        receipt = await here.swarms.put("s1", Swarm(goal="Find the leak"))

        entry = await there.swarms.entry("s1")  # L3 now, then L2 for others and L1 for us
        assert entry is not None
        print(entry.value.goal, "| version", entry.version, "| from", entry.tier.value)
        print("in memory:", there.swarms.peek("s1") is not None)  # synchronous, about a microsecond

        def lead(swarm: Swarm) -> Swarm:  # pure: it may run again if somebody else was faster
            return msgspec.structs.replace(swarm, swarm_leader="ada")

        await there.swarms.update("s1", lead)
        fresh = await here.swarms.get("s1", consistency=Consistency.STRONG)
        print("leader:", fresh and fresh.swarm_leader)

        try:
            await here.swarms.put("s1", Swarm(goal="Overwrite"), expected_version=receipt.version)
        except Conflict as conflict:
            print(conflict)


if __name__ == "__main__":
    asyncio.run(main())
