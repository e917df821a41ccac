"""The client that judges a traffic split: connections, statistics, report."""
