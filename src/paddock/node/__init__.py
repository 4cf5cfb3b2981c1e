"""One host's supervisor: process table, journal, local socket, in-flight notes, probes, re-adoption.

It acts on what is wanted of this host and tells what is; it places nothing and knows no HTTP and no SQL.
"""
