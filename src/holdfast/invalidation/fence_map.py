"""What changed in the last minute, by which a server judges the answers of L2 (pure; rules C3, C4 and R1).

The map knows every change between two snapshots of L3: its start, about a minute ago, and the last poll of the feed.
A node of L2 that was told everything up to some snapshot at or after the start may therefore be asked: what it was
not told is in the map. Keys this server wrote itself are noted at once, before the feed brings them.

Beside them it knows the generations of all tags that L3 still knows; those that L3 forgot lie below a floor for
whatever has tags, so that there are never many more of them than L3 keeps.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Collection, Mapping

from holdfast.keys import Key
from holdfast.protocols import ANY_VERSION, Coherence, Cursor, Snapshot, Watermark
from holdfast.tags import EVERY_TAG

WINDOW_SECONDS = 60.0
KEYS_MAX = 100_000
_STEP_SECONDS = 1.0
_NOTHING = (0.0, 0, None)


class FenceMap:
    """The changes of the last minute; implements `View`.

    Args:
        coherence: what is known of L3 now.
        window_seconds: how long a change is kept at least, room permitting.
        keys_max: changes kept at most; beyond, the oldest go and the map starts later.
        tagged: the kinds that declare tags.
    """

    def __init__(
        self,
        coherence: Coherence,
        *,
        window_seconds: float = WINDOW_SECONDS,
        keys_max: int = KEYS_MAX,
        tagged: frozenset[str] = frozenset(),
    ) -> None:
        self.tagged = tagged
        self._coherence = coherence
        self._window_seconds = window_seconds
        self._keys_max = keys_max
        self._start: Snapshot | None = None  # None: the feed has not begun; no node can be trusted
        self._life: tuple[str, ...] = ()  # of L3's server, from one start to the next
        self._later: deque[tuple[float, Snapshot]] = (
            deque()
        )  # snapshots the map may start from next, by their poll's begin
        # By key: when it was noted last, its highest version, and when an unknown one (ANY_VERSION) was noted last.
        self._keys: OrderedDict[Key, tuple[float, int, float | None]] = OrderedDict()
        # Told here by who wrote or checked: when, and which version, until a poll that began later.
        self._unheard: dict[Key, tuple[float, int]] = {}
        self._began = -math.inf  # when the poll of the start began
        # When any number of a kind's keys changed, and the kind's generation that was known then.
        self._kinds: dict[str, tuple[float, int]] = {}
        self._tags: dict[str, int] = {}  # generations; that of EVERY_TAG is the newest of all

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def coherence(self) -> Coherence:
        """The newest identity known."""
        return self._coherence

    def reset(self, coherence: Coherence) -> None:
        """Know nothing any more, of an L3 whose past cannot be continued; trust no node before the next poll."""
        self._coherence = coherence
        self._start = None
        self._later.clear()
        self._keys.clear()
        self._unheard.clear()
        self._kinds.clear()
        self._tags.clear()

    def learn(self, coherence: Coherence) -> None:
        """Take over newer generations of the same incarnation."""
        if coherence != self._coherence and coherence.highest >= self._coherence.highest:
            if coherence.tagged > self._coherence.tagged:
                self._tags = {tag: each for tag, each in self._tags.items() if each > coherence.tagged}
            self._coherence = coherence

    def advance(self, cursor: Cursor, began: float) -> None:
        """A poll begun at `began` (monotonic seconds) has come to a cursor, and all it brought was noted."""
        self.learn(cursor.coherence)
        self._life = cursor.life
        if self._unheard:
            self._unheard = {key: told for key, told in self._unheard.items() if told[0] >= began}
        if self._start is None:
            self._start = cursor.snapshot
        if not self._later or began - self._later[-1][0] >= _STEP_SECONDS:
            self._later.append((began, cursor.snapshot))
        self._forget_before(began - self._window_seconds)
        while len(self._keys) > self._keys_max and self._later:
            self._start_at(*self._later.popleft())
        if len(self._keys) > self._keys_max:  # all of them younger than any snapshot kept
            self._start_at(began, cursor.snapshot)

    def note(self, key: Key, version: int, now: float) -> None:
        """A change of a key is known: an answer must have at least this version."""
        _, known, unknown_at = self._keys.pop(key, _NOTHING)
        if version == ANY_VERSION:
            unknown_at = now
        elif version > known:
            known = version
        self._keys[key] = (now, known, unknown_at)

    def note_unheard(self, key: Key, version: int, now: float) -> None:
        """This server wrote a key, and its feed has not come past that: no version proves that an answer is newer."""
        self._unheard[key] = now, version

    def is_noted(self, key: Key, version: int) -> bool:
        """Whether the feed tells what this server has noted itself, and nothing else of the key since."""
        noted = self._unheard.get(key)
        return noted is not None and noted[1] == version

    def note_kind(self, kind: str, now: float) -> None:
        """Any number of a kind's keys changed: what L2 holds of them counts only from a later generation on.

        One that is not known yet was committed later than the change. Who fills under it began to read later still.
        """
        self._kinds[kind] = (now, self._coherence.shared_floor(kind))

    def note_tags(self, generations: Mapping[str, int]) -> set[str]:
        """Generations of tags are known; returns the tags of which that is news."""
        risen = {tag: each for tag, each in generations.items() if each > self._tags.get(tag, self._coherence.tagged)}
        self._tags |= risen
        self._tags[EVERY_TAG] = max(self._tags.get(EVERY_TAG, 0), *risen.values(), 0)
        return set(risen)

    def void_below(self, tags: Collection[str]) -> int:
        """The lowest generation that an entry with these tags may carry; see `View.void_below`."""
        floor = self._coherence.tagged if tags else 0
        for tag in tags:
            if (raised := self._tags.get(tag, 0)) > floor:
                floor = raised
        return floor

    @property
    def tags_known(self) -> int:
        """How many generations of tags are known."""
        return len(self._tags)

    def trusts(self, mark: Watermark) -> bool:
        """Whether every change that a node may not have been told is known here.

        A mark from before L3's server was started anew proves nothing until the relay has found that L3 is no older
        copy: snapshots of what came after the copy are no part of the present line.
        """
        return (
            self._start is not None
            and mark.incarnation == self._coherence.incarnation.bytes
            and mark.anchor[:1] == self._life
            and mark.known_generation <= self._coherence.highest
            and mark.snapshot.covers(self._start)
        )

    def fenced(self, key: Key) -> int:
        """The lowest version that an answer may have; see `View.fenced`."""
        if (
            self._kinds
            and (changed := self._kinds.get(key.kind))
            and self._coherence.shared_floor(key.kind) <= changed[1]
        ):
            return ANY_VERSION
        if self._unheard and key in self._unheard:
            return ANY_VERSION
        noted = self._keys.get(key)
        if noted is None:
            return 0
        return ANY_VERSION if noted[2] is not None and noted[2] >= self._began else noted[1]

    def _forget_before(self, moment: float) -> None:
        while self._later and self._later[0][0] <= moment:
            self._start_at(*self._later.popleft())

    def _start_at(self, began: float, snapshot: Snapshot) -> None:
        """Start later: what was noted before a poll began is seen by its snapshot."""
        self._start, self._began = snapshot, began
        while self._keys and next(iter(self._keys.values()))[0] < began:
            self._keys.popitem(last=False)
        self._kinds = {kind: noted for kind, noted in self._kinds.items() if noted[0] >= began}
