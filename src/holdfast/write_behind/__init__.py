"""Writes that are accepted first and committed later: operations, how they apply, and how they are decided."""
