"""The networks of Recast, their inputs and their files: what trainer and servers share.

:mod:`config`, :mod:`context`, :mod:`features`, :mod:`items` and :mod:`history` need no torch; the rest does.
"""
