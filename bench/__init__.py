"""echod beside its peers, in one run on one machine: ``make bench``, or ``python -m bench``.

Each scenario has its rounds, and in each round every peer its turn (A B A B), so that what a busy
machine does to one it does to all. Figures are medians with their range, ratios are made within
a round. Needs Linux, and cc for the load generators and the C limit.
"""
