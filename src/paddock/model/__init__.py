"""Frozen specs, states and errors: the nouns of Paddock.

Nothing here does I/O, reads a clock or knows a library other than msgspec, except that the manifest's reader
knows PyYAML, cronsim and RE2; validation of everything that comes from outside (manifests, names, tasks) lives here.
"""
