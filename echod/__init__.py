"""echod: a drop-in for Istio's tcp-echo sample that can be observed, limited and drained."""

__version__ = "0.1.0"
