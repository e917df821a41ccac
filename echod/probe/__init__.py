"""The client that judges a traffic split: sampled connections, exact statistics and reports.

It sees a server by its ports and its metrics alone, and must not know how echod serves.
"""
