"""Faults by machine: each call of a life of echod fails once, is delayed, or meets a signal."""
