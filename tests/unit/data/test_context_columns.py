"""Context of requests in a data set: what dataset.json may say of it, how columns are read, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_builders import DATASET, ITEMS, START, requests_of, rows, stream_of

from recast_api.run import RecastError
from recast_model.context import ContextFeature
from recast_trainer.data.commands import main
from recast_trainer.data.requests import Requests
from recast_trainer.data.schema import Dataset, Rows
from recast_trainer.data.segments import list_segments, load_dataset, read_segment, require_readable
from recast_trainer.data.writing import DatasetWriter, write_description

NAN = float("nan")
CONTEXT: list[dict[str, Any]] = [
    {"name": "battery", "type": "Numeric"},
    {"name": "device", "type": "Categorical", "values": ["phone", "tablet", "tv"]},
    {"name": "app", "type": "Categorical", "values": ["old", "new"]},
]
COLUMNS = {
    "device": pa.array(["phone", "watch", "tv", None]),
    "app": pa.array([None, "new", "new", "old"]),
    "battery": pa.array([0.5, None, 0.25, 1e30], pa.float64()),
}


def hand_rows() -> Rows:
    return rows([(1, 0, 100, 5, 1), (2, 1, 101, 7, 2), (1, 1, 102, 9, 3), (3, 1, 103, 11, 3)])


def with_context(dataset: Dataset, context: object) -> Dataset:
    return Dataset.model_validate_json(json.dumps({**dataset.wire(), "context": context}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One segment of four requests."""
    writer = DatasetWriter(tmp_path, DATASET)
    writer.items(ITEMS)
    writer.segment(START, hand_rows())
    write_description(tmp_path, with_context(DATASET, CONTEXT))
    add(tmp_path, COLUMNS)
    return tmp_path


def segment_file(folder: Path) -> Path:
    return folder / "segments" / "2026-01-01T00.parquet"


def add(folder: Path, columns: dict[str, pa.Array | None]) -> None:
    """Set columns of the segment, or take them away."""
    table = pq.read_table(segment_file(folder))
    for name, values in columns.items():
        column = f"context_{name}"
        if column in table.column_names:
            table = table.drop_columns([column])
        table = table if values is None else table.append_column(column, values)
    pq.write_table(table, segment_file(folder))


def read(folder: Path) -> Rows:
    dataset = load_dataset(folder)
    return read_segment(list_segments(folder, dataset)[0], dataset)


def test_values_are_read_by_their_place_in_the_list_and_what_is_null_or_not_listed_is_unknown(folder: Path) -> None:
    found = read(folder)
    assert found.context_values.tolist() == [[1, 0], [0, 2], [3, 2], [0, 1]]
    assert found.context_values.dtype == np.int64
    np.testing.assert_array_equal(found.context_numbers, np.array([[0.5], [NAN], [0.25], [1e30]], np.float32))
    assert found.context_numbers.dtype == np.float32


def test_a_data_set_without_context_has_none_and_is_described_as_before_there_was_any(folder: Path) -> None:
    add(folder, dict.fromkeys(COLUMNS))
    write_description(folder, DATASET)
    assert "context" not in json.loads((folder / "dataset.json").read_text())
    found = read(folder)
    assert found.context_values.shape == found.context_numbers.shape == (4, 0)
    assert "context" not in pq.read_schema(DatasetWriter(folder, DATASET).segment(START, found)).names


def test_context_comes_back_as_it_was_written(folder: Path) -> None:
    found, dataset = read(folder), load_dataset(folder)
    path = DatasetWriter(folder, dataset).segment(START, found)
    write_description(folder, dataset)
    assert pq.read_table(path).column("context_device").to_pylist() == ["phone", None, "tv", None]
    for name, values in vars(read(folder)).items():
        np.testing.assert_array_equal(values, getattr(found, name), err_msg=name)


def test_a_segment_from_before_a_feature_does_not_know_it(folder: Path) -> None:
    add(folder, {"device": None, "battery": None})
    found = read(folder)
    assert found.context_values.tolist() == [[0, 0], [0, 2], [0, 2], [0, 1]]
    assert np.isnan(found.context_numbers).all()


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("device", pa.array(["tv", None, "tv", None]).dictionary_encode()),
        ("device", pa.array(["tv", None, "tv", None], pa.large_string())),
        ("device", pa.nulls(4)),
        ("battery", pa.array([3, None, 4, 5], pa.int64())),
        ("battery", pa.array([3.5, None, 4, 5], pa.float32())),
        ("battery", pa.nulls(4)),
    ],
    ids=range(6),
)
def test_columns_may_be_of_any_type_of_text_or_number(folder: Path, name: str, values: pa.Array) -> None:
    add(folder, {name: values})
    found = read(folder)
    if name == "device":
        assert found.context_values[:, 0].tolist() == [3 if v == "tv" else 0 for v in values.to_pylist()]
    else:
        expected = [NAN if v is None else v for v in values.to_pylist()]
        np.testing.assert_array_equal(found.context_numbers[:, 0], np.array(expected, np.float32))


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"device": pa.array([1, 2, 3, 4])}, "column context_device is int64, expected string"),
        ({"battery": pa.array(["1", "2", "3", "4"])}, "column context_battery is string, expected float32"),
        ({"battery": pa.array([True, False, True, True])}, "column context_battery is bool, expected float32"),
        ({"devise": pa.array(["tv"] * 4)}, r"column context_devise is of no feature .* \(battery, device, app\)"),
    ],
    ids=range(4),
)
def test_what_cannot_be_context_is_found_before_anything_is_read(
    folder: Path, columns: dict[str, pa.Array], says: str
) -> None:
    add(folder, columns)
    dataset = load_dataset(folder)
    listed = list_segments(folder, dataset)
    for check in (lambda: require_readable(listed, dataset), lambda: read_segment(listed[0], dataset)):
        with pytest.raises(RecastError, match=says) as caught:
            check()
        assert caught.value.termination.reason == "CorruptSegment"
        assert "2026-01-01T00.parquet" in str(caught.value)


def test_a_column_of_context_is_refused_where_the_data_set_names_no_feature_at_all(folder: Path) -> None:
    write_description(folder, DATASET)
    with pytest.raises(
        RecastError, match=r"column context_app is of no feature that context in dataset.json names \(no"
    ):
        read(folder)


@pytest.mark.parametrize(
    ("bad", "says"),
    [(NAN, "not finite"), (float("inf"), "not finite"), (-float("inf"), "not finite"), (1e39, "no float32 can hold")],
)
def test_a_number_that_is_none_is_named_with_its_file_and_column(folder: Path, bad: float, says: str) -> None:
    add(folder, {"battery": pa.array([0.5, None, bad, 1.0], pa.float64(), from_pandas=False)})
    with pytest.raises(RecastError, match=rf"01T00\.parquet: column context_battery holds numbers .*{says}") as caught:
        read(folder)
    assert caught.value.termination.reason == "CorruptSegment"


@pytest.mark.parametrize("name", ["device", "battery"])
@pytest.mark.parametrize("second", ["other", "null"])
def test_rows_of_one_request_that_disagree_are_refused_by_row(folder: Path, name: str, second: str) -> None:
    made = replace(hand_rows(), users=np.array([1, 2, 2, 3]), surfaces=np.array([1, 1, 1, 1]))
    made = replace(made, event_times=np.array([5, 7, 7, 11]) + START, request_ids=np.array([1, 2, 2, 3]))
    DatasetWriter(folder, DATASET).segment(START, made)
    write_description(folder, with_context(DATASET, CONTEXT))
    alike: dict[str, list[Any]] = {"device": ["phone", "tv", "tv", None], "battery": [0.5, None, None, 1.0]}
    add(folder, {key: pa.array(values) for key, values in alike.items()})
    read(folder)
    values = alike[name]
    values[1] = values[0]
    values[2] = None if second == "null" else {"phone": "tv", 0.5: 0.75}[values[0]]
    add(folder, {name: pa.array(values)})
    says = rf"context_{name} of row_id 3 is another than that of other rows of request_id 2"
    with pytest.raises(RecastError, match=says) as caught:
        read(folder)
    assert caught.value.termination.reason == "CorruptSegment"
    for key, other in (("users", [1, 2, 9, 3]), ("event_times", START + np.array([5, 7, 8, 11]))):
        DatasetWriter(folder, DATASET).segment(START, replace(made, **{key: np.array(other)}))
        write_description(folder, with_context(DATASET, CONTEXT))
        add(folder, {name: pa.array(values)})
        read(folder)  # another request


@pytest.mark.parametrize(
    ("context", "says"),
    [
        ([{"name": "a", "type": "Categorical"}], "context.0: .*values are listed where type is Categorical"),
        ([{"name": "a", "type": "Numeric", "values": ["x"]}], "context.0: .*values are listed where type is"),
        ([{"name": "a", "type": "Categorical", "values": []}], "context.0.values: .*at least 1 item"),
        ([{"name": "a", "type": "Categorical", "values": ["x", "x"]}], "values must not repeat"),
        ([{"name": "a", "type": "Categorical", "values": ["x", 3]}], "context.0.values.1: .*valid string"),
        ([{"name": "a", "type": "Categorical", "values": ["x", None]}], "context.0.values.1: .*valid string"),
        ([{"name": "a", "type": "Categorical", "values": ["x" * 201]}], "context.0.values.0: .*at most 200"),
        ([{"name": "a", "type": "Categorical", "values": [""]}], "context.0.values.0: .*at least 1 character"),
        ([{"name": "a", "type": "Categorical", "values": [str(i) for i in range(10_001)]}], "at most 10000 items"),
        ([{"name": n, "type": "Categorical", "values": [str(i) for i in range(9_000)]} for n in "abc"], "20000 values"),
        ([{"name": "a", "type": "categorical"}], "context.0.type: .*'Categorical' or 'Numeric'"),
        ([{"name": "a"}], "context.0.type: Field required"),
        ([{"name": "a b", "type": "Numeric"}], "context.0.name: .*pattern"),
        ([{"name": "a", "type": "Numeric"}] * 2, "context must not repeat a name"),
        ([{"name": f"a{i}", "type": "Numeric"} for i in range(65)], "context: .*at most 64 items"),
        ({"device": ["phone"]}, "context: .*valid array"),
    ],
    ids=range(16),
)
def test_what_a_data_set_cannot_say_of_its_context_is_named(folder: Path, context: object, says: str) -> None:
    (folder / "dataset.json").write_text(json.dumps({**DATASET.wire(), "context": context}))
    with pytest.raises(RecastError, match=says) as caught:
        load_dataset(folder)
    assert caught.value.termination.reason == "CorruptDataset"


def test_describe_says_of_each_feature_how_often_it_is_known_and_what_it_is_then(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add(folder, {"battery": pa.array([1.0, None, 3.0, 5.0])})
    assert main(["describe", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "context battery: unknown in 25.0% of rows, mean 3, scale 1.63299" in said
    assert "context device: 3 values, unknown in 50.0% of rows, never seen: tablet" in said
    assert "context app: 2 values, unknown in 25.0% of rows\n" in said
    (warning,) = [line for line in said.splitlines() if "WARNING" in line]
    assert '25.0% of rows have a device that dataset.json does not list, such as "watch"' in warning


def test_describe_warns_of_a_feature_that_is_never_known(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add(folder, {"battery": None, "device": pa.nulls(4)})
    assert main(["describe", str(folder)]) == 0
    said = capsys.readouterr().out
    for name in ("battery", "device"):
        assert f"WARNING: {name} is known of no row: is there a column context_{name}?" in said
    assert said.count("WARNING") == 2
    assert "nan" not in said


def test_exported_requests_carry_their_context_by_name(folder: Path, tmp_path: Path) -> None:
    sample = tmp_path / "requests.jsonl"
    assert main(["export-requests", str(folder), "--out", str(sample)]) == 0
    found = [json.loads(line)["context"] for line in sample.read_text().splitlines()]
    assert found[0] == {"device": "phone", "battery": 0.5}
    assert found[1:3] == [{"app": "new"}, {"device": "tv", "app": "new", "battery": 0.25}]


def given(made: Rows) -> Rows:
    """Each row's own context: its row id as value and number."""
    return replace(made, context_values=made.row_ids[:, None], context_numbers=made.row_ids[:, None].astype(np.float32))


FEATURES = (ContextFeature("n", "Numeric"), ContextFeature("c", "Categorical", tuple("abcd")))


def test_requests_carry_their_context_through_windows_choices_batches_and_files() -> None:
    dataset_rows = given(hand_rows())
    shuffled = dataset_rows.take(np.array([2, 0, 3, 1]))
    requests = requests_of(stream_of(shuffled), 4)
    some = Requests.from_arrays(requests.take(np.array([3, 1])).arrays())
    both = Requests.concatenate([some, requests.take(slice(1))])
    batch = both.batch(ITEMS)
    assert batch.context_values is not None
    assert batch.context_numbers is not None
    assert batch.context_values.tolist() == [[4], [2], [1]]
    assert batch.context_numbers.tolist() == [[4.0], [2.0], [1.0]]
    assert both.context_numbers.tolist() == [[4.0], [2.0], [1.0]]


def test_a_slates_context_is_that_of_its_own_rows() -> None:
    made = hand_rows()
    made = replace(
        made, event_times=np.full(4, START), users=np.array([1, 1, 2, 2]), request_ids=np.array([1, 1, 2, 2])
    )
    made = replace(made, surfaces=np.zeros(4, np.int64), available_at=made.available_at + 100)
    made = replace(made, context_values=np.array([[3], [3], [1], [1]]), context_numbers=np.zeros((4, 0), np.float32))
    batch = requests_of(stream_of(made), 4).batch(ITEMS)
    assert batch.candidates.shape == (2, 2)
    assert batch.context_values is not None
    assert batch.context_values.tolist() == [[3], [1]]


def test_a_stream_is_read_as_a_model_of_other_features_knows_them() -> None:
    stream = stream_of(given(hand_rows()))
    dataset = with_context(stream.dataset, [each.to_dict() for each in FEATURES])
    stream = replace(stream, dataset=dataset)
    model = (
        ContextFeature("c", "Categorical", ("d", "x", "b")),
        ContextFeature("n", "Categorical", ("1",)),  # another kind: not the same feature
        ContextFeature("new", "Numeric"),
        ContextFeature("n", "Numeric"),
    )
    found = requests_of(stream.known_by(model), 4).rows
    assert found.context_values.tolist() == [[0, 0], [3, 0], [0, 0], [1, 0]]
    np.testing.assert_array_equal(found.context_numbers, [[NAN, 1], [NAN, 2], [NAN, 3], [NAN, 4]])
    again = requests_of(stream.known_by(model).known_by(FEATURES), 4).rows
    assert again.context_values.tolist() == [[1], [2], [3], [4]]  # from the data, not from what the other model knew
    assert requests_of(stream.known_by(()), 4).rows.context_values.shape == (4, 0)
