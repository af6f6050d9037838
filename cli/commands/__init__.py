"""The commands of `drift`, by what they are about."""
