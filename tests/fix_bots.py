"""The bot that tests of failures write and read."""

from __future__ import annotations

from holdfast import Bot

ADA = Bot(name="Ada")
