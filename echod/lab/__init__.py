"""Two versions of echod behind a real Envoy on one machine, with weights that shift while they
run.

It runs echod as a command, and must not know how echod serves.
"""
