"""What this machine's owner lets a coordinator do here, whatever the coordinator says."""
