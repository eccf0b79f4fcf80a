"""Waveforms and voices: references, vocoders, synthesis, packed models."""
