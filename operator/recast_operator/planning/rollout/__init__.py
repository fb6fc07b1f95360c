"""How a revision takes over: candidates, steps, the machine, what it measures, and the pods that follow from it."""
