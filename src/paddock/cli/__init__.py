"""Starts roles or calls the HTTP API; no logic of its own.

Modules import what is heavy (httpx, YAML, the roles) inside the functions that need it: `paddock --help` is quick.
"""
