"""Tasks and graphs of tasks coming in, and how a run goes on and ends; long work in slices."""
