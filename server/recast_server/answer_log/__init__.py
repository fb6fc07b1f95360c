"""The log of what an expert answered and of what was then shown, from which experts are trained again.

:mod:`answer` says what of an answer is kept; :mod:`ranker` makes it where the scores are known; :mod:`log` takes it off
the event loop; :mod:`store` has the files. What was shown comes from :mod:`recast_server.expert.impressions_api`.
"""
