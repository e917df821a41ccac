"""echod: a drop-in for Istio's tcp-echo sample that can be observed, limited and drained."""

__version__ = "0.2.0"
