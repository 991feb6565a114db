"""What is decided once, by a person, or by a fallback when nobody has: what reviews and escalations have in common."""
