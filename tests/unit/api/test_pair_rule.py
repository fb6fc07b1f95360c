"""Which version of a foundation may answer an expert."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recast_api.pair import is_pair
from recast_api.resources.version import FoundationPin


def version(number: int, lineage: int = 2, name: str = "home-fm", content: str = "a") -> FoundationPin:
    return FoundationPin(name=name, version=number, lineage=lineage, digest=f"sha256:{content * 64}")


@pytest.mark.parametrize(
    ("served", "pair"),
    [
        pytest.param(version(3), True, id="the version it was trained with"),
        pytest.param(version(4, content="b"), True, id="a later one that continues it"),
        pytest.param(version(2, content="b"), False, id="one that it continues"),
        pytest.param(version(3, content="b"), False, id="other bytes under the same number"),
        pytest.param(version(4, lineage=4), False, id="a later one of another lineage"),
        pytest.param(version(3, lineage=3), False, id="the same number and bytes in another lineage"),
        pytest.param(version(3, name="ads-fm"), False, id="another foundation's"),
    ],
)
def test_an_expert_is_answered_by_its_own_version_or_a_later_one_of_the_lineage(
    served: FoundationPin, pair: bool
) -> None:
    assert is_pair(served, version(3)) is pair


VERSIONS = st.builds(version, st.integers(1, 4), st.integers(1, 2), st.sampled_from(["a-fm", "b-fm"]))


@given(VERSIONS, VERSIONS, VERSIONS)
def test_what_answers_the_experts_of_a_version_answers_those_that_it_may_answer_itself(
    newest: FoundationPin, middle: FoundationPin, oldest: FoundationPin
) -> None:
    assert is_pair(oldest, oldest)
    if is_pair(newest, middle) and is_pair(middle, oldest):
        assert is_pair(newest, oldest)
