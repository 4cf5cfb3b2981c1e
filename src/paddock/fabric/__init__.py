"""The fabric, by NATS: embedded server, connections, identities, subjects, streams, buckets.

Nothing else speaks to NATS. Nothing here knows what a fleet controller, a node or an API does with it.
"""
