"""A foundation and its experts: which version leads, who may refresh now, which lineages still need servers.

*Current* is what everybody reads. *Candidate* is the newest accepted version above it, served beside it until its
pilots have promoted it; then it becomes current and the others follow, a few at a time.

:mod:`members` says who reads the foundation, :mod:`pilots` who holds a candidate back and why, :mod:`lead` rejects,
chooses and promotes, :mod:`wave` grants slots, :mod:`lineages` keeps and retires servers.
"""
