"""The audit log: who did what to what, why and when; never with which values."""
