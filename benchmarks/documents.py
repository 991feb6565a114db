"""Documents of an exact size with contents such as swarms and bots have, the same for the same seed."""

from __future__ import annotations

import datetime as dt
import random
from typing import Any, Final

import msgspec

from holdfast.documents import (
    BlackboardItem,
    Bot,
    BotParticipant,
    Document,
    Swarm,
    SwarmSubTask,
    ToolCallRecord,
    encode,
)
from holdfast.kinds import BOT, SWARM, Kind

SIZES: Final = (200, 1700, 6000)
"""Bytes of JSON: a small configuration, a young swarm, a busy one."""

_BOT_BYTES_MAX: Final = 700
_SWARM_EMPTY_BYTES: Final = 850  # its limits and its schedule are stored, and the first of each part comes with it
_PART_BYTES: Final = 470  # a blackboard item, a record of a call, every third time a subtask
_BEGIN: Final = dt.datetime(2025, 1, 1, tzinfo=dt.UTC)
_TEXT: Final = """
agent analysis approve budget build check cluster code compare context cost credit data deploy draft error
export fetch fix flow goal index input issue latency leader list log merge model monitor note order output
parse patch plan pool query queue rank report retry review routine run score search send server slot state
step store summary swarm table task team test token tool trace update value vote wait watch write
"""
_WORDS: Final = tuple(_TEXT.split())


def kind_of(size: int) -> Kind[Any]:
    """The kind whose documents come in this size: an empty swarm has 640 bytes already."""
    return BOT if size <= _BOT_BYTES_MAX else SWARM


def size_text(size: int) -> str:
    """The size as the report has it."""
    return f"{size / 1000:g} KB"


def document_of(size: int, seed: int) -> Any:
    """A document with `size` bytes of JSON."""
    source = random.Random(seed)
    if size <= _BOT_BYTES_MAX:
        bot = _bot(source)
        return msgspec.structs.replace(bot, persona={"occupation": _padding(bot, size, source)})
    swarm = _swarm(source, parts=max(1, (size - _SWARM_EMPTY_BYTES) // _PART_BYTES))
    return msgspec.structs.replace(swarm, goal=_padding(swarm, size, source))


def documents_of(size: int, count: int) -> dict[str, Any]:
    """Documents by id, all different."""
    return {f"d{number:05d}": document_of(size, number) for number in range(count)}


def _padding(draft: Document, size: int, source: random.Random) -> str:
    """Words that bring the draft, whose padded field is empty, to the size."""
    missing = size - len(encode(draft))
    if missing < 0:
        raise ValueError(f"a {type(draft).__name__} of {size} bytes: the draft is {-missing} bytes larger already")
    return text(source, missing)[:missing]


def text(source: random.Random, words: int) -> str:
    """So many words."""
    return " ".join(source.choices(_WORDS, k=words))


def _bot(source: random.Random) -> Bot:
    return Bot(name=text(source, 1), model="gpt-4o-mini", persona={"occupation": ""})


def _swarm(source: random.Random, *, parts: int) -> Swarm:
    return Swarm(
        name=text(source, 3),
        goal="",
        swarm_leader="bot-0",
        blackboard=[_item(source, number) for number in range(parts)],
        records=[_record(source, number) for number in range(parts)],
        subtasks=[_subtask(source, number) for number in range(0, parts, 3)],
        participants=[BotParticipant(id="bot-0", name=text(source, 1), meta={"role": "leader"})],
    )


def _item(source: random.Random, number: int) -> BlackboardItem:
    value = {"note": text(source, 8), "score": source.random(), "tags": source.sample(_WORDS, 3)}
    return BlackboardItem(id=f"item-{number}", value=value, created_at=_BEGIN + dt.timedelta(seconds=number))


def _record(source: random.Random, number: int) -> ToolCallRecord:
    return ToolCallRecord(
        id=f"call-{number}",
        routine_id=f"routine-{source.randrange(900)}",
        routine_name=text(source, 2),
        params={"query": text(source, 4), "limit": source.randrange(100)},
        caller_bot_id="bot-0",
        created_at=_BEGIN + dt.timedelta(seconds=number),
    )


def _subtask(source: random.Random, number: int) -> SwarmSubTask:
    return SwarmSubTask(id=f"task-{number}", description=text(source, 6), status="in_progress", priority="high")
