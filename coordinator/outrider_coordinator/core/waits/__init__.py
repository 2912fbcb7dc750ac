"""Blocked attempts: what they wait for, who resolves it, how long they may."""
