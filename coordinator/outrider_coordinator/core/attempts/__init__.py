"""What becomes of an attempt: its reports, deadlines, stops, second tries, and the end of its task."""
