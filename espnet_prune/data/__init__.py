"""Data folders on disk: labels, durations."""
