"""The functional forms of scaling laws, and what counts as N and C."""
