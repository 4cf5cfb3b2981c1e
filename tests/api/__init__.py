"""The HTTP edge over a control in memory."""
