"""echod beside its peers, in one run on one machine: ``make bench``, or ``python -m bench``.

Each scenario has rounds, and in each round every peer is measured once (A B A B), so that a busy
machine affects all peers alike. Figures are medians with their range, ratios are made within a
round. Needs Linux, and cc for the load generators and the C limit.
"""
