"""Properties are judged by what they find, not by how busy the machine is, and alike on every run."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("decisions", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("decisions")
