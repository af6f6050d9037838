"""The inference engines: one client each, the pool that shares out requests, and the policies that they serve."""
