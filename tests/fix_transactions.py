"""A transaction through the door, by raw SQL and by a cascade, and what servers answer before and after."""

from __future__ import annotations

from fix_feed import connected
from holdfast import Bot, Document, Kind
from holdfast.node import OpenStore
from holdfast.settings import Settings
from holdfast.transactions import Transaction

OLD, NEW = Bot(name="old"), Bot(name="new")
RENAME = """UPDATE holdfast."User" SET document = '{"__version": 1, "name": "new"}' WHERE id = 'b2'"""


class Note(Document, frozen=True, kw_only=True):
    """What goes with a bot, and is deleted with it."""

    text: str = ""


NOTES = Kind("note", Note)
NOTE = Note(text="of b3")


async def prepare(store: OpenStore, settings: Settings) -> None:
    """Rows that a server holds in memory: three bots, and a note that is deleted with the third."""
    async with connected(settings.postgres_url) as sql:
        await sql.execute(
            """ALTER TABLE holdfast.note ADD FOREIGN KEY (id) REFERENCES holdfast."User" (id) ON DELETE CASCADE"""
        )
    await store.bots.put_many({"b1": OLD, "b2": OLD, "b3": OLD})
    await store.collection(NOTES).put("b3", NOTE)


async def held(store: OpenStore) -> list[object]:
    """What a server answers for them."""
    notes = store.collection(NOTES)
    return [*[await store.bots.get(each) for each in ("b1", "b2", "b3")], await notes.get("b3")]


BEFORE: list[object] = [OLD, OLD, OLD, NOTE]
AFTER: list[object] = [NEW, NEW, None, None]


async def change_all(tx: Transaction) -> None:
    """Through the door, by raw SQL, and by a cascade."""
    await tx.bots.put("b1", NEW)
    await tx.connection.execute(RENAME)
    await tx.connection.execute("""DELETE FROM holdfast."User" WHERE id = 'b3'""")
