"""A long run: connections that come and go, scrapes and drains, with every count compared."""
