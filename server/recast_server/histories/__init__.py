"""Users' histories outside the artefact: what they are, where they are kept, and what a request reads of them.

``user_history`` is the value and its rules, ``packing`` its bytes, ``records`` what an append does to them: all pure.
``store`` is the protocol; ``artifact``, ``embedded`` and ``redis`` implement it; ``reader`` reads within a time that a
request can afford; ``export`` writes segments that the trainer reads.
"""
