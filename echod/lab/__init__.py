"""v1 and v2 behind a real Envoy on one machine."""
