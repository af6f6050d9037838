"""The commands of `drift`, by what they are about.

What only one command needs and takes long to load (graders, plots, data frames) is imported when that command runs, so
that every other one, and `--help`, is there at once.
"""
