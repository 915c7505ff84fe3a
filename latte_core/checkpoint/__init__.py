"""Reading, recognising, loading and writing weights."""
