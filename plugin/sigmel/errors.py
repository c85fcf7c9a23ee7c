"""Errors that are the user's to mend."""

from __future__ import annotations


class SigmelError(ValueError):
    """Input from outside that cannot be used; the message says what is wrong, where, and what would be right.

    Commands print it as one line and exit with status 2, without a traceback.
    """
