"""`holdfast reviews`: conflicts that a person decides, from a shell."""

from holdfast.cli.reviews.command import reviews

__all__ = ["reviews"]
