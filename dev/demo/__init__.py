"""The demo: the whole loop on a real cluster, driven by ``kubectl apply`` on files of ``examples/`` alone.

===============  =====================================================================================
``story``        the steps in their order, and what must be true after each
``scenario``     which files and which surfaces: the generated stream, or MovieLens
``target``       which cluster: ours, or the one that CONTEXT names
``install``      namespace, chart, volumes, data
``volumes``      releases volumes that an earlier run claimed
``pods``         the pods that the demo makes by itself
``questions``    what the client asks, out of the scenario's data
``live``         one watch on the three kinds: prints the timeline, and is what every wait looks at
``screen``       prints and records what the demo says
``picture``      draws a recording as an SVG
``client``       the open-loop traffic client; a process of its own, standard library only
``traffic``      starts the client and counts what it reports
``reconcile``    the client's counts against the servers' own
``diagnose``     what to print when a wait runs out
``show``         the state of the cluster at the end
===============  =====================================================================================
"""
