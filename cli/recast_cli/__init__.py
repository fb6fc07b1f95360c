"""``kubectl recast``: reads the three kinds and says in words what Recast does and why. It never writes.

``main`` parses the command line, ``cluster`` reads and watches, and three pure modules turn typed resources into
text: ``tree`` (``status``), ``why`` (``why <expert>``) and ``timeline`` (``timeline``, and the demo's live view).
"""
