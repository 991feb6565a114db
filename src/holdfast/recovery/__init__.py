"""What happens when something fails: each error has a type and a severity, each type a strategy, each outage a mode."""
