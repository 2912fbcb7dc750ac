"""What can go wrong with a store."""

from __future__ import annotations


class StoreFailed(Exception):
    """A write, sync or read failed: what is on disk is no longer known for sure, so the daemon must stop."""


class StoreRefused(Exception):
    """The store cannot be opened: in use, too new, damaged or on a network file system. The message says what to do."""
