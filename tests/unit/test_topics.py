"""Topics, patterns and groups: what is allowed, and what matches."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import InvalidTopic
from holdfast.invalidation.topics import check_group, check_topic, compile_pattern

SEGMENTS = st.sampled_from(["a", "b", "a.b", "x_1", "-"])
TOPICS = st.lists(SEGMENTS, min_size=1, max_size=5).map("/".join)
PATTERNS = st.builds(
    lambda parts, tail: "/".join([*parts, *tail]) or "**",
    st.lists(SEGMENTS | st.just("*"), max_size=4),
    st.sampled_from([[], ["**"]]),
)


@pytest.mark.parametrize(
    ("pattern", "topic", "expected"),
    [
        ("config/changed", "config/changed", True),
        ("config/changed", "config/change", False),
        ("config/*", "config/changed", True),
        ("config/*", "config", False),
        ("config/*", "config/a/b", False),
        ("*/changed", "config/changed", True),
        ("config/**", "config", True),
        ("config/**", "config/a/b", True),
        ("config/**", "configs/a", False),
        ("run/*/step", "run/r1/step", True),
        ("run/*/**", "run", False),
        ("run/*/**", "run/r1", True),
        ("**", "anything/at/all", True),
        ("a.b", "axb", False),
    ],
)
def test_what_matches(pattern: str, topic: str, *, expected: bool) -> None:
    """One segment for a star, any number for two at the end, and nothing else has a meaning."""
    assert compile_pattern(pattern).matches(topic) is expected


@given(PATTERNS, TOPICS)
def test_matching_is_that_of_a_regular_expression(pattern: str, topic: str) -> None:
    """Whatever pattern and topic."""
    words = pattern.split("/")
    tail = words[-1] == "**"
    parts = ["[^/]+" if word == "*" else re.escape(word) for word in (words[:-1] if tail else words)]
    expression = "/".join(parts) + (("(/.*)?" if parts else ".*") if tail else "")
    assert compile_pattern(pattern).matches(topic) is (re.fullmatch(expression, topic) is not None)


@pytest.mark.parametrize(
    "topic", ["", "/a", "a/", "a//b", "A", "a b", "a*", "a/*", "**", "{a}", "é", "a" * 65, "/".join("a" * 17), 7, None]
)
def test_refused_topics(topic: Any) -> None:
    """A topic has no stars, no capitals, no empty segments and an end."""
    with pytest.raises(InvalidTopic):
        check_topic(topic)


@pytest.mark.parametrize("pattern", ["", "a/**/b", "a*", "a/***", "**/a", "/", "A/*", "/".join("*" * 17), None])
def test_refused_patterns(pattern: Any) -> None:
    """Two stars stand at the end only, and a star is a segment of its own."""
    with pytest.raises(InvalidTopic):
        compile_pattern(pattern)


@pytest.mark.parametrize("name", ["", "@a", "a:b", "a b", "{a}", "a" * 65, None])
def test_refused_groups(name: Any) -> None:
    """A group's name is part of names in L2: no separator of ours, no braces."""
    with pytest.raises(InvalidTopic):
        check_group(name, compile_pattern("x"))


def test_the_fault_is_shown_and_cut() -> None:
    """The message names the segment, and does not repeat a text of any length."""
    with pytest.raises(InvalidTopic, match="'B'"):
        check_topic("a/B")
    with pytest.raises(InvalidTopic) as fault:
        check_topic("a/" * 5000)
    assert len(str(fault.value)) < 200
