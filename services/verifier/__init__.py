"""The verifier: grades answers over HTTP; knows nothing of jobs, Redis or models; usable alone."""
