"""Controllers, one file each: read what is wanted and what is, decide (in `decide/`), act, record.

They wake by events and decide by state; each can be killed at any line. No HTTP here, no SQL, no NATS: only ports.
"""
