"""Protocols between the rooms: Clock, Fabric, Record, Runtime. Small; extras are capability protocols of their own.

Only signatures and the frozen values that cross them; no behaviour lives here.
"""
