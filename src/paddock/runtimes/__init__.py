"""How a template becomes a live thing: `python` (fork server) and `exec` (any command).

A runtime starts, finds again and stops processes; when and why is decided elsewhere. They are strangers to each other.
"""
