"""Waiting for descriptors and children in the keeper's loop, without holding it up."""

from __future__ import annotations

import asyncio
import os
import subprocess


async def readable(descriptor: int) -> None:
    """Wait until there is something to read, or its other end is gone."""
    loop = asyncio.get_running_loop()
    is_readable = asyncio.Event()
    loop.add_reader(descriptor, is_readable.set)
    try:
        await is_readable.wait()
    finally:
        loop.remove_reader(descriptor)


async def ended(process: subprocess.Popen[bytes]) -> None:
    """Wait until a child has ended; it is left to be reaped."""
    pidfd = os.pidfd_open(process.pid)
    try:
        await readable(pidfd)
    finally:
        os.close(pidfd)
