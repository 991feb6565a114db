"""The team: bots and people with roles, what they are after, and how they are organised."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

from holdfast.documents.base import Document, Part
from holdfast.documents.bot import ConfigResource
from holdfast.documents.frozen import EMPTY_DICT, EMPTY_LIST
from holdfast.documents.vocabulary import SubTaskStatus


class TeamMember(Part, frozen=True, kw_only=True, rename="camel"):
    """A bot or person in the team.

    Attributes:
        id: of the bot or user.
        role: as the team's structure names it.
    """

    id: str
    role: str = "member"
    is_admin: bool = False
    joined_at: dt.datetime | None = None


class TeamObjective(Part, frozen=True, kw_only=True, rename="camel"):
    """Something the team is after.

    Attributes:
        status: a `SubTaskStatus`.
        priority: a `Priority`.
    """

    id: str
    description: str
    status: str = SubTaskStatus.TODO.value
    priority: str | None = None
    due_at: dt.datetime | None = None


class TeamStructure(Part, frozen=True, kw_only=True):
    """The team's organisation in a modelling language.

    Attributes:
        type: the language; ``MOISE+`` is made for agents.
        version: of the language.
        content: the model, as text.
    """

    type: str = "MOISE+"
    version: str | None = "1.0"
    content: str = ""


class Team(Document, frozen=True, kw_only=True, rename="camel"):
    """A team's configuration.

    Attributes:
        metadata: a free mapping.
    """

    name: str = ""
    description: str | None = None
    members: Sequence[TeamMember] = EMPTY_LIST
    objectives: Sequence[TeamObjective] = EMPTY_LIST
    structure: TeamStructure | None = None
    resources: Sequence[ConfigResource] = EMPTY_LIST
    metadata: Mapping[str, Any] = EMPTY_DICT
