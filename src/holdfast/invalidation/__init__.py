"""Keeping the caches from answering with the past: fences of committed writes."""
