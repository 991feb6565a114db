"""The tree of errors: what a caller can catch, and what the messages say."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

import holdfast
from holdfast import errors
from holdfast.cli.demo.files import InputFileError
from holdfast.errors import (
    AppendOnly,
    Conflict,
    ContextCorrupt,
    CorruptDocument,
    DocumentTooDeep,
    DocumentTooLarge,
    EscalationSettled,
    HoldfastError,
    InvalidDocument,
    InvalidKey,
    KeyRetired,
    LimitExceeded,
    NotFound,
    OutcomeUnknown,
    Overloaded,
    ReadOnlyVariable,
    Refused,
    ReviewSettled,
    SchemaTooNew,
    StorageNotReady,
    TierError,
    TierUnavailable,
    Undecided,
)
from holdfast.keys import Key

ALL = [found for found in vars(errors).values() if isinstance(found, type) and issubclass(found, Exception)]


@pytest.mark.parametrize("error", ALL)
def test_one_except_catches_them_all(error: type[Exception]) -> None:
    """Every error derives from HoldfastError and can be caught by its name from the package."""
    assert issubclass(error, HoldfastError)
    assert getattr(holdfast, error.__name__) is error
    assert error.__name__ in holdfast.__all__


@pytest.mark.parametrize(
    ("error", "family"),
    [
        (InvalidKey, ValueError),
        (InvalidDocument, ValueError),
        (DocumentTooLarge, InvalidDocument),
        (DocumentTooDeep, InvalidDocument),
        (NotFound, LookupError),
        (TierUnavailable, TierError),
        (Overloaded, TierError),
        (OutcomeUnknown, TierError),
        (StorageNotReady, TierError),
    ],
)
def test_errors_are_of_the_family_that_callers_expect(error: type[Exception], family: type[Exception]) -> None:
    """Bad arguments are ValueErrors, a missing row is a LookupError, a failing tier is a TierError."""
    assert issubclass(error, family)


@pytest.mark.parametrize("error", [error for error in ALL if issubclass(error, TierError)])
def test_a_tier_that_failed_never_looks_like_a_missing_key(error: type[TierError]) -> None:
    """No error of a tier is caught by code that handles what is missing, corrupt or refused."""
    assert not issubclass(error, (LookupError, ValueError, OSError, CorruptDocument, Conflict, AppendOnly))


def test_a_newer_schema_is_not_corruption() -> None:
    """Rule E1: code that quarantines corrupt documents does not catch documents of a newer server."""
    assert not issubclass(SchemaTooNew, CorruptDocument)
    fault = SchemaTooNew("bot:b1", found=4, known=3)
    assert (fault.found, fault.known) == (4, 3)
    assert str(fault) == ("bot:b1 has schema 4, this server reads up to 3: update this server before it reads it")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("blackboard[3].value.price", "blackboard[3].value.price: is NaN"),
        ("", "document: is NaN"),
    ],
)
@pytest.mark.parametrize("error", [InvalidDocument, DocumentTooLarge, DocumentTooDeep])
def test_a_refused_document_names_the_place_of_its_fault(error: type[InvalidDocument], path: str, message: str) -> None:
    """Path and reason are attributes, and both are in the message; the root is called document."""
    fault = error(path, "is NaN")
    assert (fault.path, fault.reason, str(fault)) == (path, "is NaN", message)


@pytest.mark.parametrize(
    ("expected", "actual", "words"),
    [
        (7, 9, "expected version 7, found version 9"),
        (7, 0, "expected version 7, found nothing"),
        (7, None, "expected version 7, found another version"),
        (0, 9, "expected nothing, found version 9"),
        (0, None, "expected nothing, found another version"),
    ],
)
def test_a_conflict_says_what_was_expected_and_what_was_found(expected: int, actual: int | None, words: str) -> None:
    """0 reads as nothing, an unknown version as another one; key and versions are attributes."""
    key = Key("bot", "b1")
    fault = Conflict(key, expected=expected, actual=actual)
    assert (fault.key, fault.expected, fault.actual) == (key, expected, actual)
    assert str(fault) == f"bot:b1: {words}; read it again and decide anew"


MADE: dict[type[HoldfastError], Callable[[Any], HoldfastError]] = {
    InvalidDocument: lambda error: error("blackboard[3]", "is NaN"),
    SchemaTooNew: lambda error: error("bot:b1", found=4, known=3),
    Conflict: lambda error: error(Key("bot", "b1"), expected=7, actual=None),
    Refused: lambda error: error(Key("bot", "b1"), "gone", "the row is no longer there"),
    Undecided: lambda error: error("what happened"),
    ReviewSettled: lambda error: error("r1/c1/site", status="resolved", by="ada", at=None, choice="child"),
    EscalationSettled: lambda error: error("e1", status="resolved", by="ada", at=None, decision="wait"),
    ReadOnlyVariable: lambda error: error("run1", "budget"),
    LimitExceeded: lambda error: error("run1", "variables", value=11, allowed=10, setting="run_variables_max"),
    ContextCorrupt: lambda error: error("run1", ("run1/00000000.base",)),
    KeyRetired: lambda error: error("m1"),
}


def made(error: type[HoldfastError]) -> HoldfastError:
    """One of each; a class whose arguments are not known here fails."""
    make = next((make for family, make in MADE.items() if issubclass(error, family)), None)
    return error("what happened", 3) if make is None else make(error)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("error", ALL)
def test_an_error_survives_the_way_to_another_process(error: type[HoldfastError], protocol: int) -> None:
    """Multiprocessing and pytest-xdist pickle what was raised: class, message, attributes and notes arrive."""
    assert_same(made(error), lambda fault: pickle.loads(pickle.dumps(fault, protocol)))  # noqa: S301 - our own bytes


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
@pytest.mark.parametrize("error", ALL)
def test_an_error_can_be_copied(error: type[HoldfastError], copied: Callable[[HoldfastError], HoldfastError]) -> None:
    """A copy is another object that says the same."""
    assert_same(made(error), copied)


def test_an_undecided_write_keeps_its_receipt_in_its_own_process() -> None:
    """A receipt waits for its server's writes: what another process gets says the same, without one."""
    fault = Undecided("what happened", receipt := object())
    assert fault.receipt is receipt
    assert pickle.loads(pickle.dumps(fault)).receipt is None  # noqa: S301 - our own bytes


def test_errors_of_applications_survive_too() -> None:
    """A subclass with a constructor of its own needs nothing more."""
    assert_same(InputFileError("a.json", "is no list", line=3, place="bots[1]"), copy.copy)


def assert_same(fault: HoldfastError, again: Callable[[HoldfastError], HoldfastError]) -> None:
    """The other one has the same class, message, arguments and attributes."""
    fault.add_note("seen in a test")
    other = again(fault)
    assert other is not fault
    assert type(other) is type(fault)
    assert (str(other), other.args, vars(other)) == (str(fault), fault.args, vars(fault))
    assert other.__notes__ == ["seen in a test"]


def test_a_limit_names_the_setting_that_raises_it() -> None:
    """With the run, and both numbers."""
    fault = LimitExceeded("run1", "variables", value=11, allowed=10, setting="run_variables_max")
    assert str(fault) == "run run1: 11 variables would be over the limit of 10; setting run_variables_max"


def test_a_corrupt_context_says_what_was_tried() -> None:
    """The first eight of many; and that there was nothing to try."""
    assert str(ContextCorrupt("r", ("r/1", "r/0"))) == "run r: no base of its context verifies (tried: r/1, r/0)"
    assert str(ContextCorrupt("r", ("b",) * 9)).endswith("b, b, ...)")
    assert str(ContextCorrupt("r", ())).endswith(
        "base of its context is left: they were dropped with their months, or pruned"
    )
