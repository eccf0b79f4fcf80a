"""Characters and phonemes."""
