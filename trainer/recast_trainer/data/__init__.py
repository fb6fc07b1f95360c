"""Event data: the folder layout, generators, and the way from rows to batches.

:mod:`schema` says what a data set is, :mod:`segments` reads it, :mod:`histories` and :mod:`requests` turn rows into
batches, :mod:`synthetic` and :mod:`movielens` write data sets, :mod:`convert` brings one of format 1 to format 2.
``python -m recast_trainer.data`` is their command line.
"""
