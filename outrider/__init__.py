"""Outrider runs long work on many machines and keeps it honest.

Importing this package loads nothing else, so that a worker process can import ``outrider.worker`` without paying for
gRPC.
"""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
