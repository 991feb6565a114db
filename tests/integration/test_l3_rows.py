"""What L3 sees to, whoever writes: versions of rows, and history of any month and size."""

from __future__ import annotations

import pytest

import holdfast
from fix_bots import ADA
from fix_feed import connected
from holdfast import Consistency
from holdfast.settings import Settings


async def test_raw_sql_cannot_choose_a_version(settings: Settings) -> None:
    """V1 and V3: whatever a statement says, version and birth are the trigger's, also under replication role."""
    async with holdfast.connect(settings) as state, connected(settings.postgres_url) as connection:
        receipt = await state.bots.put("b1", ADA)
        await connection.execute("SET session_replication_role = replica")
        await connection.execute("""UPDATE holdfast."User" SET version = 1, birth = 1 WHERE id = 'b1'""")
        row = await connection.fetchrow("""SELECT version, birth FROM holdfast."User" WHERE id = 'b1'""")
        assert row["version"] > receipt.version
        assert row["birth"] == receipt.version


async def test_a_month_without_partition_is_made(settings: Settings) -> None:
    """The first snapshot of a month nobody prepared makes its partition and is stored."""
    async with holdfast.connect(settings) as state, connected(settings.postgres_url) as connection:
        for (part,) in await connection.fetch(
            """SELECT inhrelid::regclass::text FROM pg_inherits
            WHERE inhparent = 'holdfast."RunContextSnapshot"'::regclass"""
        ):
            await connection.execute(f"DROP TABLE {part}")
        snapshot = holdfast.RunContextSnapshot(run_id="r1", routine_id="q1", sequence=1)
        await state.run_snapshots.put("r1/1", snapshot)
        assert await state.run_snapshots.get("r1/1", consistency=Consistency.STRONG) == snapshot


async def test_thousands_of_snapshots_in_one_call(settings: Settings) -> None:
    """One put_many takes as much history as it takes of any other kind, all or none."""
    snapshots = {
        f"r1/{number:04}": holdfast.RunContextSnapshot(run_id="r1", routine_id="q1", sequence=number)
        for number in range(5000)
    }
    async with holdfast.connect(settings) as state:
        receipts = await state.run_snapshots.put_many(snapshots)
        assert len({receipt.version for receipt in receipts.values()}) == 5000
        assert [pair async for pair in state.run_snapshots.scan()] == list(snapshots.items())
        more = {"r0/1": snapshots["r1/0001"], "r1/4999": snapshots["r1/4999"]}
        with pytest.raises(holdfast.AppendOnly, match="r1/4999"):
            await state.run_snapshots.put_many(more)
        assert await state.run_snapshots.get("r0/1", consistency=Consistency.STRONG) is None
