"""``make test-cluster``: a real cluster, the page typed into it, and what the page leaves out.

``__main__`` is the command: it asks first (``asking``), runs the cases (``walk``, ``beyond``,
``leaving``) and cleans up. A ``Cluster`` (``setting``) is what the cases share.
"""
