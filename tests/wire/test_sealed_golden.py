"""Golden bytes of what is sealed and wrapped, which every version must go on opening."""

from __future__ import annotations

from decimal import Decimal

from holdfast.documents import ContextVariable, Run, Sealed, decode, encode
from holdfast.documents.run import ContextChange
from holdfast.sensitivity.data_keys import DataKey
from holdfast.sensitivity.master_keys import MasterKeys, master_key_line
from holdfast.sensitivity.sealing import Place, plain_bytes, seal, unseal, value_in

KEY = DataKey("00112233aabbccdd", bytes(range(32)))
PLACE = Place("run", "run1", "token", "0197.0000.n1")
VALUE = {"user": "ada", "limit": Decimal("1.10"), "scopes": ("read", "write")}
SALT, NONCE = b"0123456789abcdef", b"nonce of 12."

SEALED = (
    "011030303131323233336161626263636464303132333435363738396162636465666e6f6e6365206f662031322eea680769"
    "d96d94d0ad181e7aca70991e2dacb9b7faff46cc40940a102006d09acced5ada71ac2cfeb2734c2b3ad9a342d3ae56957b89"
    "c1162e97561f33ee4205240e1c6dc8c3ca3a5449e46d8e8a3a20486d0ea5cc435ad283febc9901e173db74607107e2555ff2"
    "34244438858157c3f82429fad22ffb"
)
STORED = (
    '{"__version":1,"routineId":"search","depth":0,"status":"running","epoch":1,"handedOver":0,"children"'
    ':0,"sequence":0,"base":0,"baseBytes":0,"deltaBytes":0,"changes":[{"variables":{"token":{"key":"token'
    '","value":{"$sealed":"ARAwMDExMjIzM2FhYmJjY2RkMDEyMzQ1Njc4OWFiY2RlZm5vbmNlIG9mIDEyLupoB2nZbZTQrRgees'
    "pwmR4trLm3+v9GzECUChAgBtCazO1a2nGsLP6yc0wrOtmjQtOuVpV7icEWLpdWHzPuQgUkDhxtyMPKOlRJ5G2OijogSG0OpcxDWt"
    'KD/ryZAeFz23RgcQfiVV/yNCREOIWBV8P4JCn60i/7"},"source":"step","clock":"0197.0000.n1","sensitivity":"s'
    'ecret"}}}]}'
)
WRAPPED = (
    "016e6f6e6365206f662031322eeedf3f253e2394d398e3beed92dede4c556a52ad21b0035a51c8d97c9cf98b360473bd565a"
    "260cf08ba9f601fc66797f"
)


def test_a_value_is_sealed_in_these_bytes() -> None:
    """Format, key id, salt, nonce, ciphertext; and they are opened to the value."""
    assert seal(plain_bytes(VALUE, PLACE), PLACE, KEY, SALT, NONCE).content.hex() == SEALED
    assert value_in(unseal(Sealed(bytes.fromhex(SEALED)), PLACE, lambda _: KEY), PLACE) == VALUE


def test_a_secret_variable_is_stored_in_these_bytes() -> None:
    """Under its tag, in a row; and they read back."""
    variable = ContextVariable(
        key="token", value=Sealed(bytes.fromhex(SEALED)), sensitivity="secret", clock=PLACE.version
    )
    row = Run(routine_id="search", changes=[ContextChange(variables={"token": variable})])
    assert encode(row).decode() == STORED
    assert decode(Run, STORED.encode()) == row


def test_a_data_key_is_wrapped_in_these_bytes() -> None:
    """Format, nonce, ciphertext."""
    masters = MasterKeys.read([master_key_line("m1", bytes(range(32, 64)))])
    assert masters.first.wrap(KEY, NONCE).hex() == WRAPPED
    assert masters.unwrap(KEY.id, "m1", bytes.fromhex(WRAPPED)).secret() == KEY.secret()
