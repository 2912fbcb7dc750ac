"""Work submitted by the clock."""
