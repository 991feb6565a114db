"""What the tiers did, as numbers."""
