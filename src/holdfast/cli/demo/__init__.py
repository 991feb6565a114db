"""The main job: recorded swarms, replayed across server processes that share the tiers."""

from holdfast.cli.demo.command import demo

__all__ = ["demo"]
