"""The simulated world: virtual time, fakes for the ports, the fault menu, contract suites. Public.

Fakes here keep the whole promise of their port and are tested by the same contract suite as the real thing.
Nothing here is used when Paddock runs.
"""
