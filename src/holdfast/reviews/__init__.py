"""Reviews: conflicts that a person decides, or the fallback when nobody has."""
