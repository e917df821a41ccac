"""The lab's page: traffic, verdict and faults in a browser, for this host only."""
