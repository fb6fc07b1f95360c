"""``make mutants``: break the code on purpose, one small change at a time, and see whether a unit test notices.

Each ``*.toml`` here lists mutants of one part of the tree: what to replace by what, and what would go wrong. They are
written by hand, so that each stands for a mistake that somebody could make; tools that mutate every operator report
thousands of changes, most of them equivalent. ``catalogue`` reads the lists, ``nearest`` chooses the tests, ``run``
runs them on a copy of the tree, and ``__main__`` prints the table.
"""
