"""``recast eval compare``: what a foundation's target-aware embeddings (TAE) are worth to each surface's expert.

:mod:`settings` is what a person chooses, :mod:`arms` what is compared, :mod:`training` how the arms that learn are
tuned and trained, :mod:`statistics` how sure their figures are, which :mod:`measured` puts together. :mod:`surface` is
one surface in order, :mod:`comparison` all of them, :mod:`results` what it comes to; :mod:`markdown`, :mod:`picture`
and :mod:`reports` show it.
"""
