"""Scopes: stretches of work that read their own writes and never go back in time, on any server (rules S1, S2)."""

from holdfast.scopes.scope import Scope, Scopes

__all__ = ["Scope", "Scopes"]
