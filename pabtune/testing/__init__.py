"""Checks that a user can run on a card of their own, and that our own tests run: see `check_card`."""

from pabtune.testing.cards import check_card

__all__ = ["check_card"]
