import json

import pytest
from sdxl_trainer.trainer.data.caption_tables import read_caption_table, same_name

FILES = {"a.png", "b.png", "sub/c.png", same_name("é.png")}


def read(tmp_path, text, name="metadata.jsonl", column="text"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_caption_table(path, name, column, FILES.__contains__)


def rows(*values):
    return "\n".join(json.dumps(value) for value in values)


def captions(tmp_path, text, **options):
    table = read(tmp_path, text, **options)
    assert table.problems == []
    return table.captions


def test_jsonl_rows_give_one_caption_or_a_list(tmp_path):
    table = rows(
        {"file_name": "a.png", "text": " one\n"},
        {"file_name": "b.png", "text": ["x", "", "y"]},
        {"file_name": "sub/c.png", "text": None},
    )
    assert captions(tmp_path, table) == {"a.png": ("one",), "b.png": ("x", "y"), "sub/c.png": ()}


def test_any_column_name_is_accepted(tmp_path):
    table = rows({"file_name": "a.png", "prompt": "p"})
    assert captions(tmp_path, table, column="prompt") == {"a.png": ("p",)}


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_as_spreadsheets_write_it(tmp_path, delimiter):
    text = delimiter.join(["file_name", "text"]) + "\r\n" + delimiter.join(["a.png", '"one ""two"", three"'])
    table = captions(tmp_path, "\ufeff" + text + "\r\n\r\n", name="metadata.csv")
    assert table == {"a.png": ('one "two", three',)}


def test_a_csv_cell_may_hold_a_json_list(tmp_path):
    text = 'file_name,text\na.png,"[""x"", ""y""]"\nb.png,[draft] a cat\n'
    expected = {"a.png": ("x", "y"), "b.png": ("[draft] a cat",)}
    assert captions(tmp_path, text, name="metadata.csv") == expected


def test_names_match_whatever_way_accents_are_composed_and_slashes_lean(tmp_path):
    text = rows({"file_name": "e\u0301.png", "text": "e"}, {"file_name": ".\\sub\\c.png", "text": "c"})
    assert captions(tmp_path, text) == {"\u00e9.png": ("e",), "sub/c.png": ("c",)}


def test_every_bad_row_is_a_problem_of_its_own(tmp_path):  # case 58
    table = read(
        tmp_path,
        "\n".join(
            [
                '{"file_name": "a.png", "text": "fine"}',
                '{"file_name": "b.png", "text": ',
                '["b.png", "x"]',
                rows({"file_name": "gone.png", "text": "x"}),
                rows({"file_name": "/etc/passwd", "text": "x"}),
                rows({"file_name": "C:\\x.png", "text": "x"}),
                rows({"file_name": "sub/../../x.png", "text": "x"}),
                rows({"text": "x"}),
                rows({"file_name": "b.png", "text": 7}),
            ]
        ),
    )
    expected = ["JSON", "JSON", "gone.png", "absolute", "absolute", "'..'", "no file_name", "is 7"]
    assert len(table.problems) == len(expected)
    for number, (problem, word) in enumerate(zip(table.problems, expected, strict=True), start=2):
        assert problem.startswith(f"metadata.jsonl row {number}: ") and word in problem
    assert table.captions == {"a.png": ("fine",)}


def test_csv_rows_of_the_wrong_length_are_problems(tmp_path):
    table = read(tmp_path, "file_name,text\na.png,one,two\nb.png\nsub/c.png,ok\n", "metadata.csv")
    assert [problem[:18] for problem in table.problems] == ["metadata.csv row 2", "metadata.csv row 3"]
    assert table.captions == {"sub/c.png": ("ok",)}


def test_a_missing_column_names_those_there_are(tmp_path):
    table = read(tmp_path, rows({"file_name": "a.png", "caption": "x"}))
    assert len(table.problems) == 1
    assert "'text'" in table.problems[0] and "caption" in table.problems[0]


def test_two_rows_of_one_picture_keep_both_captions_with_a_warning(tmp_path):
    table = read(tmp_path, rows({"file_name": "a.png", "text": "x"}, {"file_name": "a.png", "text": "y"}))
    assert table.captions["a.png"] == ("x", "y") and "earlier row" in table.warnings[0]


def test_a_table_in_another_encoding_is_read_with_a_warning(tmp_path):
    table = read(tmp_path, '{"file_name": "a.png", "text": "café"}'.encode("cp1252"))
    assert table.captions["a.png"] == ("café",) and "UTF-8" in table.warnings[0]
