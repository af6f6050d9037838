"""The three services. Each imports `shared`; none imports another."""
