"""Pure decisions: (wanted, observed, now) to actions.

No I/O, no clock, no randomness of its own: time, facts and dice come in as arguments.
"""
