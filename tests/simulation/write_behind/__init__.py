"""Worlds of write-behind: servers that accept, journal and flush, and die at any step."""
