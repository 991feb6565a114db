"""An input directory: `scenarios`, `routines`, `agents` and `teams`, each with JSON files at any depth.

Files are taken in sorted order of their paths. The first file of an id keeps it; a later one with the same id
becomes ``id@relative/path``, so that the same directory always gives the same ids.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import msgspec
from msgspec import Meta

from holdfast.cli.demo.files import InputError, InputFileError, JsonFile, convert, json_paths, read_json
from holdfast.cli.demo.recordings import parse_scenario
from holdfast.cli.demo.replay import ChangeRefusedError, replay
from holdfast.cli.demo.scenario import Scenario
from holdfast.errors import InvalidKey
from holdfast.keys import check_id

FOLDERS = ("scenarios", "routines", "agents", "teams")
Shape = TypeVar("Shape")


class Translation(msgspec.Struct):
    """A routine's words in one language."""

    language: str
    name: str
    description: str = ""
    instructions: str = ""


class RoutineVersion(msgspec.Struct, rename="camel"):
    """One version of a routine."""

    id: str
    version_label: str = ""
    resource_sub_type: str = ""
    is_complete: bool = False
    config: dict[str, Any] = {}
    translations: tuple[Translation, ...] = ()


class RoutineFile(msgspec.Struct, rename="camel"):
    """A routine as its file has it; `versions` are oldest first, and one at least."""

    id: str
    resource_type: str
    versions: Annotated[tuple[RoutineVersion, ...], Meta(min_length=1)]
    public_id: str = ""
    is_private: bool = False
    is_internal: bool = False
    tags: tuple[dict[str, Any], ...] = ()


class AgentIdentity(msgspec.Struct):
    """Who an agent is."""

    name: str
    version: str = ""


class AgentFile(msgspec.Struct):
    """An agent as its file has it. Its prompt is text or an object."""

    identity: AgentIdentity
    goal: str
    role: str
    subscriptions: tuple[str, ...] = ()
    behaviors: tuple[dict[str, Any], ...] = ()
    prompt: str | dict[str, Any] = ""
    resources: tuple[dict[str, Any], ...] = ()


class TeamMemberFile(msgspec.Struct):
    """An agent's place in a team."""

    agent: str
    role: str = ""


class TeamFile(msgspec.Struct):
    """A team as its file has it."""

    id: str
    name: str
    members: tuple[TeamMemberFile, ...] = ()
    objectives: tuple[str, ...] = ()


class Collision(msgspec.Struct, frozen=True):
    """Two files with one id.

    Attributes:
        folder: where both are.
        id: the one they share.
        kept_by: the file that keeps it.
        path: the other file.
        new_id: what the other is stored as.
    """

    folder: str
    id: str
    kept_by: str
    path: str
    new_id: str


class Item(msgspec.Struct, Generic[Shape], frozen=True):
    """One file that was imported.

    Attributes:
        path: relative to the input directory.
        parsed: the fields that the demo reads.
        value: all of it.
    """

    path: str
    parsed: Shape
    value: Any


class Corpus(msgspec.Struct):
    """Everything that could be read, and everything that could not.

    Attributes:
        scenarios: by name; `routines`, `agents` and `teams` by id.
        files: how many JSON files each folder has.
        faults: why files were not imported; nothing of these files is in the corpus.
        collisions: files imported under another id.
        remarks: oddities of files that were imported nevertheless.
    """

    scenarios: dict[str, Item[Scenario]]
    routines: dict[str, Item[RoutineFile]]
    agents: dict[str, Item[AgentFile]]
    teams: dict[str, Item[TeamFile]]
    files: dict[str, int]
    faults: list[InputFileError]
    collisions: list[Collision]
    remarks: list[str]


def load_corpus(root: Path) -> Corpus:
    """Read an input directory.

    Raises:
        InputError: it is no directory, holds no scenario that can be replayed, or is over a limit.
    """
    if not root.is_dir():
        raise InputError(f"{root} is not a directory; give one with {', '.join(FOLDERS[:-1])} or {FOLDERS[-1]}")
    reader = _Reader(root)
    corpus = Corpus(
        scenarios=reader.folder("scenarios", _scenario, lambda scenario: scenario.name),
        routines=reader.folder("routines", _shape(RoutineFile), lambda routine: routine.id),
        agents=reader.folder("agents", _shape(AgentFile), lambda agent: agent.identity.name),
        teams=reader.folder("teams", _shape(TeamFile), lambda team: team.id),
        files=reader.files,
        faults=reader.faults,
        collisions=reader.collisions,
        remarks=reader.remarks,
    )
    if not corpus.scenarios:
        found = f"{corpus.files['scenarios']} files, none of them usable" if corpus.files["scenarios"] else "none"
        first = f"; the first fault is {corpus.faults[0]}" if corpus.faults else ""
        raise InputError(f"the demo needs a scenario in {root / 'scenarios'} and found {found}{first}")
    return corpus


def _scenario(file: JsonFile) -> Scenario:
    scenario = parse_scenario(file)
    try:
        replay(scenario)
    except ChangeRefusedError as refusal:
        raise InputFileError(file.path, str(refusal)) from refusal
    return scenario


def _shape(shape: type[Shape]) -> Callable[[JsonFile], Shape]:
    return lambda file: convert(file.path, file.value, shape)


class _Reader:
    """Reads folder after folder and keeps the lists that the report needs."""

    def __init__(self, root: Path) -> None:
        self.files: dict[str, int] = {}
        self.faults: list[InputFileError] = []
        self.collisions: list[Collision] = []
        self.remarks: list[str] = []
        self._root = root

    def folder(
        self, folder: str, parse: Callable[[JsonFile], Shape], name: Callable[[Shape], str]
    ) -> dict[str, Item[Shape]]:
        """Everything in one folder, by id."""
        found: dict[str, Item[Shape]] = {}
        self.files[folder] = 0
        for path, file in json_paths(self._root, folder):
            self.files[folder] += 1
            try:
                content = read_json(path, file)
                parsed = parse(content)
                identifier = self._free_id(folder, path, name(parsed), found)
            except InputFileError as fault:
                self.faults.append(fault)
                continue
            self.remarks += (f"{path}: {key!r} stands twice in one object; the last counts" for key in content.repeated)
            found[identifier] = Item(path, parsed, content.value)
        return found

    def _free_id(self, folder: str, path: str, identifier: str, taken: Mapping[str, Item[Shape]]) -> str:
        """The id to store the file under.

        Raises:
            InputFileError: the id cannot name a document, or the one made for a collision is taken itself.
        """
        free = identifier if identifier not in taken else f"{identifier}@{path}"
        try:
            check_id(free)
        except InvalidKey as error:
            raise InputFileError(path, str(error)) from error
        if free in taken:
            raise InputFileError(path, f"the ids {identifier!r} and {free!r} are both taken")
        if free != identifier:
            self.collisions.append(Collision(folder, identifier, taken[identifier].path, path, free))
        return free
