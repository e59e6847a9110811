"""Conformance checks for cards, for users' own cards as for the shipped ones: see `check_card`."""

from pabtune.testing.cards import check_card

__all__ = ["check_card"]
