"""Worlds of owners: documents that one server writes to at a time, and another takes over."""
