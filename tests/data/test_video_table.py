"""The numbers of a table of videos have bounds, and those that no model knows are told of."""

import unicodedata
import warnings

import numpy as np
import pytest

from svd.data.dataset import DatasetError
from svd.data.video_table import read_table, spellings

HEADER = "path,length,motion_bucket_id,fps\n"


@pytest.fixture
def table(tmp_path):
    """Read a table with these lines under the header."""

    def read(*lines: str, header: str = HEADER):
        (tmp_path / "videos.csv").write_text(header + "\n".join(lines) + "\n")
        return read_table(str(tmp_path / "videos.csv"))

    return read


def test_columns(table):
    found = table("a.mp4,40,127,25", "b.mp4,40.0,0,", "c.mp4,1,255,0.5")
    assert found.paths == ["a.mp4", "b.mp4", "c.mp4"]
    assert found.lengths.tolist() == [40, 40, 1] and found.lengths.dtype == np.int64
    assert found.buckets.tolist() == [127, 0, 255]
    np.testing.assert_array_equal(found.fps, [25, np.nan, 0.5])
    assert np.isnan(table("a.mp4,3,4", header="path,length,motion_bucket_id\n").fps).all()


def test_captions(table):
    """Their column is optional, may be anywhere and partly empty, and may have commas, quotes, lines and any script."""
    assert table("a.mp4,40,127,25").captions == [""]
    header = "path,Caption,length,motion_bucket_id\n"
    rows = ('a.mp4,"a ""fast"" dog, running",40,0', "b.mp4,,40,0", 'c.mp4,"eine Möwe\n飞",40,0')
    assert table(*rows, header=header).captions == ['a "fast" dog, running', "", "eine Möwe\n飞"]


def test_a_table_from_a_german_excel(table):
    found = table("a.mp4;40;127,5;23,976", header="path;length;motion_bucket_id;fps\n")
    assert (found.lengths[0], found.buckets[0], found.fps[0]) == (40, 127.5, 23.976)


@pytest.mark.parametrize(
    "name, row",
    [
        *(("motion_bucket_id", f"a.mp4,40,{value},25") for value in ("1e300", "1e400", "1e7", "-1", "nan", "inf")),
        *(("fps", f"a.mp4,40,127,{value}") for value in ("1e300", "1001", "0", "1e-300", "-5", "nan", "inf", "x")),
        *(("length", f"a.mp4,{value},127,25") for value in ("1e300", "0", "2.5", "-3", "nan", "inf", '"1,040"', "1_0")),
        ("path", ",40,127,25"),
    ],
)
def test_numbers_out_of_bounds(table, name, row):
    with pytest.raises(DatasetError, match=rf"videos.csv: {name} must .*; found '.*' in line 3$") as error:
        table("good.mp4,40,127,25", row, "good.mp4,40,127,25")
    bounds = {"motion_bucket_id": "0 or more and 1000000 at most", "fps": "0.001 to 1000", "length": "1 or more"}
    assert bounds.get(name, "empty") in str(error.value)


def test_motion_that_no_model_knows_is_told_once(table):
    with pytest.warns(UserWarning, match=r"motion_bucket_id is above 255, .* in 2 of 4 rows \(up to 5000\)") as told:
        assert table("a,4,5000,", "b,4,255,", "c,4,256,", "d,4,0,").buckets.tolist() == [5000, 255, 256, 0]
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table("a,4,255,")


def test_spellings():
    name = unicodedata.normalize("NFC", "ü\\é.mp4")
    found = list(spellings(name))
    assert found[0] == name and len(found) == len(set(found)) == 4
    assert set(found) == {unicodedata.normalize(form, text) for form in ("NFC", "NFD") for text in (name, "ü/é.mp4")}
    assert list(spellings("a/b.mp4")) == ["a/b.mp4"]
