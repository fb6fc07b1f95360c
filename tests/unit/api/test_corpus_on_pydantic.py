"""The corpus that pydantic and the apiserver must judge alike, on pydantic alone: a wrong rule is seen in a second."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from recast_api.resources import KINDS
from tests.integration.api.corpus_cases import Case, cases

CLASSES = {kind.__name__: kind for kind in KINDS}


@pytest.mark.parametrize("case", cases(), ids=lambda case: f"{case.kind}: {case.reason}")
def test_an_object_is_judged_as_the_corpus_says(case: Case) -> None:
    if case.valid or "immutable" in case.says:  # pydantic sees one object, and not the one before it
        parsed = CLASSES[case.kind].model_validate(case.object)
        assert CLASSES[case.kind].model_validate(parsed.wire()) == parsed
    else:
        with pytest.raises(ValidationError):
            CLASSES[case.kind].model_validate(case.object)
