"""The HTTP edge: checks who asks and what, calls `control`, shapes the answer. No decisions live here."""
