"""Durable records: one writer, many readers, one transaction per batch."""
