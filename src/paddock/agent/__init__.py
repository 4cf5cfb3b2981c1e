"""What an author of agents imports. Small, stable, quick to import.

No server code, no SQL, no web framework may be imported from here.
"""
