"""Studies as Ray Jobs, the package that travels with them, and what works on this machine."""
