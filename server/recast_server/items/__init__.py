"""Items that appeared after the version landed: read from a file, and put behind those that the version knows."""
