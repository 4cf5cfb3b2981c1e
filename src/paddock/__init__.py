"""Paddock keeps fleets of agents alive. Authors of agents import `paddock.agent`; everything else is the house."""

__version__ = "0.1.0"
