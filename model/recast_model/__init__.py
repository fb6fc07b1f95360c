"""The networks of Recast, their inputs and their files: what trainer and servers share.

:mod:`config`, :mod:`features`, :mod:`items` and :mod:`history` need no torch; the rest does.
"""
