"""Whether an expert's version is stale: which foundation version it should read, and the policies that compare."""
