"""The job API, by what is asked for: jobs, what they have recorded, and problem sets."""
