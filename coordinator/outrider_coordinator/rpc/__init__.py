"""The coordinator's edge: validates what comes in, renders what goes out, pumps streams. Decides nothing."""
