"""Named limits, write scopes and caps: who holds them, who waits for them, and circles among those who wait."""
