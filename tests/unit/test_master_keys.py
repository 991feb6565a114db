"""Master keys: read from the setting, and data keys wrapped by them."""

from __future__ import annotations

import base64

import pytest

from fix_secrets import NEW, OLD
from holdfast import Settings
from holdfast.embedded import Running
from holdfast.errors import KeyMissing, SettingsError
from holdfast.sensitivity.data_keys import DataKey
from holdfast.sensitivity.master_keys import MasterKeys, master_key_line, shown
from holdfast.settings import load_settings

KEY = DataKey("k1", b"d" * 32)
NONCE = b"n" * 12
LETTERS = base64.b64encode(b"o" * 32).decode()


def test_the_first_wraps_and_each_unwraps() -> None:
    """In the order of the setting."""
    masters = MasterKeys.read([NEW, OLD])
    assert (masters.ids, masters.first.id) == (("new", "old"), "new")
    for number, master in enumerate(("new", "old")):
        wrapped = MasterKeys.read([(NEW, OLD)[number]]).first.wrap(KEY, NONCE)
        assert b"d" * 32 not in wrapped
        assert masters.unwrap("k1", master, wrapped).secret() == b"d" * 32


def test_a_missing_master_key_is_named() -> None:
    """With the setting that it belongs to; or, if there is none at all, how to make one."""
    with pytest.raises(KeyMissing, match="data key k1 is wrapped by the master key old: add it to master_keys"):
        MasterKeys.read([NEW]).unwrap("k1", "old", b"")
    with pytest.raises(KeyMissing, match="`holdfast keys new` makes one"):
        _ = MasterKeys.read([]).first


def test_a_wrapped_key_is_unwrapped_in_its_place_alone() -> None:
    """Not as another data key, not under another master key, not if a bit of it was changed."""
    first = MasterKeys.read([OLD]).first
    wrapped = first.wrap(KEY, NONCE)
    attempts = [(first, "k2", wrapped), (MasterKeys.read([NEW]).first, "k1", wrapped), (first, "k1", wrapped[:-1])]
    attempts += [(MasterKeys.read([master_key_line("alias", b"o" * 32)]).first, "k1", wrapped)]
    attempts += [(first, "k1", wrapped[:at] + bytes([wrapped[at] ^ 1]) + wrapped[at + 1 :]) for at in range(1, 61)]
    for master, key_id, content in attempts:
        with pytest.raises(KeyMissing, match="cannot be unwrapped"):
            master.unwrap(key_id, content)
    with pytest.raises(KeyMissing, match="does not know"):
        first.unwrap("k1", b"\x02" + wrapped[1:])


@pytest.mark.parametrize(
    "line",
    [
        "",
        LETTERS,
        f"old{LETTERS}",
        f":{LETTERS}",
        f"o d:{LETTERS}",
        f"{'x' * 65}:{LETTERS}",
        "old:",
        f"old:{LETTERS[:-4]}",
        f"old: {LETTERS}",
        f"old:{LETTERS[:-1]}",
        "old:" + base64.b64encode(b"o" * 33).decode(),
        f"old:{LETTERS}==",
    ],
)
def test_a_line_that_is_none_is_refused_without_showing_it(line: str) -> None:
    """By its number and the form it should have."""
    with pytest.raises(SettingsError, match=r"master_keys: number 2 is id:key") as caught:
        Settings(master_keys=(NEW, line))
    assert LETTERS[:8] not in str(caught.value)
    assert caught.value.__cause__ is None


def test_two_of_one_id_are_refused() -> None:
    """So are too many."""
    with pytest.raises(SettingsError, match="two of them have one id"):
        Settings(master_keys=(OLD, OLD))
    with pytest.raises(SettingsError, match="at most 32"):
        Settings(master_keys=tuple(master_key_line(f"m{number}", b"o" * 32) for number in range(33)))


def test_no_text_of_the_settings_has_a_key() -> None:
    """Their ids alone; also where the environment has them, and where one is wrong."""
    settings = load_settings(environment={"HOLDFAST_MASTER_KEYS": f"{OLD},{NEW}"})
    assert "master_keys=('old:***', 'new:***')" in repr(settings)
    texts = f"{settings!r} {settings.__rich_repr__()} {MasterKeys.read([OLD])!r} {MasterKeys.read([OLD]).first!r}"
    assert LETTERS[:8] not in texts
    assert shown(["no master key", f"old:{LETTERS}"]) == ("***", "old:***")
    with pytest.raises(SettingsError) as caught:
        load_settings(environment={}, arguments={"master_keys": OLD})
    assert LETTERS[:8] not in str(caught.value)


def test_embedded_servers_are_shown_without_what_opens_them() -> None:
    """Neither the home's master key nor the passwords in URLs."""
    running = Running("postgres://me:hidden1@h/db", ("redis://:hidden2@h",), ("postgres",), (NEW,))
    assert f"{running} {running!r} {[running]}".count("started=('postgres',)") == 3
    assert not [word for word in ("hidden", NEW, LETTERS) if word in f"{running} {running!r}"]


def test_a_made_line_is_one_that_is_read() -> None:
    """And an id that cannot be is refused."""
    assert MasterKeys.read([master_key_line("a.b-c_1", b"x" * 32)]).ids == ("a.b-c_1",)
    with pytest.raises(SettingsError, match="letters, digits"):
        master_key_line("a,b", b"x" * 32)
