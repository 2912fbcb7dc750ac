"""The agent's rules as plain state: no clock, no randomness, no input or output."""
