"""Sessions with agents, their silence, their leases, and what people order about them."""
