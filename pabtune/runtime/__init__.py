"""Interception of a running model: clock, engine (applies a policy), recorder (measures)."""
