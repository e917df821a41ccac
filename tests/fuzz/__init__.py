"""Targets for a fuzzer with coverage, and the small corpora that it has found."""
