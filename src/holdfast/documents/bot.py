"""The bot: a user that is a model with a persona."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from holdfast.documents.base import Document, Part
from holdfast.documents.frozen import EMPTY_DICT, EMPTY_LIST


class ResourceTranslation(Part, frozen=True, kw_only=True):
    """How a resource is shown in one language."""

    language: str
    name: str
    description: str | None = None


class ConfigResource(Part, frozen=True, kw_only=True, rename="camel"):
    """A link that belongs to a bot or a team.

    Attributes:
        used_for: its purpose in a word, such as ``Learning``.
    """

    link: str
    used_for: str | None = None
    translations: Sequence[ResourceTranslation] = EMPTY_LIST


class Bot(Document, frozen=True, kw_only=True, rename="camel"):
    """A bot's configuration.

    Attributes:
        handle: its unique short name.
        model: the model's name at its provider.
        persona: occupation, tone, creativity and the like; a free mapping.
        agent_spec: goal, subscriptions, behaviors, prompt; a free mapping.
        capabilities: names of the tools it may use.
        metadata: a free mapping.
    """

    name: str = ""
    handle: str | None = None
    resources: Sequence[ConfigResource] = EMPTY_LIST
    model: str | None = None
    max_tokens: int | None = None
    persona: Mapping[str, Any] = EMPTY_DICT
    agent_spec: Mapping[str, Any] = EMPTY_DICT
    capabilities: Sequence[str] = EMPTY_LIST
    metadata: Mapping[str, Any] = EMPTY_DICT
