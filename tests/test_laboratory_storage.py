"""The laboratory's files: appended and packed are one table, whoever is killed at whatever moment of the packing."""

import bz2

import pytest

from allora_analysis.laboratory import storage
from allora_analysis.laboratory import table as tables
from allora_analysis.laboratory.design import Cell
from allora_analysis.laboratory.table import Row
from allora_analysis.validation import ArgumentError

HEADER = tables.header("digits", "0", 5, 100)


def begun(path, rates):
    table = tables.begin(path, HEADER)
    for rate in rates:
        tables.add(table, (Cell(), rate, 0, 2), Row((1.0, None), (3, 0), (1.0, None)))
    return table


@pytest.fixture
def path(tmp_path):
    return tmp_path / "digits.jsonl"


@pytest.fixture
def whole(tmp_path):
    """The bytes of a table that was never packed."""
    plain = tmp_path / "plain" / "digits.jsonl"
    begun(plain, (0.1, 0.2, 0.3, 0.4))
    return plain.read_bytes()


def packed(lines):
    """As `pack` writes it: the last line alone with its checksum."""
    *several, end = lines.splitlines(keepends=True)
    return bz2.compress(b"".join([*(storage.unsealed(line) + b"\n" for line in several), end]))


def test_packed_and_gone_on_with_it_is_the_same_table(path, whole):
    begun(path, (0.1, 0.2))
    storage.pack(path)
    assert not path.exists()
    assert tables.read(path).runs == 4
    begun(path, (0.3,))
    assert path.read_bytes().count(b"\n") == 1
    begun(path, (0.4,))
    assert storage.content(path) == whole
    storage.pack(path)
    assert storage.content(path) == whole
    assert bz2.decompress(storage.packed(path).read_bytes()).count(b'"sum"') == 1
    assert tables.read(path).runs == 8
    before = storage.packed(path).read_bytes()
    storage.pack(path)
    assert storage.packed(path).read_bytes() == before
    assert storage.within(path.parent) == [path]


@pytest.mark.parametrize("lines", [1, 2, 4, 5])
def test_who_packed_was_killed_before_the_plain_lines_went(path, whole, lines):
    """Planted: the last lines are in both files, or all; the next line goes behind them once."""
    several = whole.splitlines(keepends=True)
    storage.packed(path).write_bytes(packed(whole))
    path.write_bytes(b"".join(several[-lines:]))
    assert storage.content(path) == whole
    table = begun(path, (0.5,))
    assert path.read_bytes().count(b"\n") == 1
    assert tables.read(path).rows == table.rows
    assert len(table.rows[Cell()]) == 5


def test_who_packed_was_killed_before_the_packed_were_whole(path, whole):
    path.write_bytes(whole)
    path.with_suffix(".part").write_bytes(packed(whole)[:100])
    assert tables.read(path).runs == 8
    begun(path, ())
    storage.pack(path)
    assert [one.name for one in path.parent.iterdir() if one.is_file()] == ["digits.jsonl.bz2"]
    assert storage.content(path) == whole


@pytest.mark.parametrize("cut", [1, 30, 100])
def test_a_line_that_was_cut_off_behind_packed_ones_is_left_out(path, whole, cut):
    several = whole.splitlines(keepends=True)
    storage.packed(path).write_bytes(packed(b"".join(several[:3])))
    path.write_bytes(several[3] + several[4][:cut])
    assert tables.read(path).runs == 6
    begun(path, (0.4,))
    assert storage.content(path) == whole


@pytest.mark.parametrize("lines", [3, 5, 6])
def test_a_table_in_one_piece_beside_a_packed_one_is_the_longer_of_both(path, whole, lines):
    """As a copy that was gone on with elsewhere, or an old one that was left."""
    longer = begun(path, (0.1, 0.2, 0.3, 0.4, 0.5))
    several = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(several[:lines]))
    storage.packed(path).write_bytes(packed(whole))
    assert len(tables.read(path).rows[Cell()]) == max(4, lines - 1)
    begun(path, (0.5,) if lines < 6 else ())
    storage.pack(path)
    assert storage.content(path) == b"".join(several)
    assert tables.read(path).rows == longer.rows


def test_a_packed_table_that_was_cut_or_altered_is_refused_and_stays(path, whole):
    content = packed(whole)
    altered = packed(whole.replace(b'"rate":0.2', b'"rate":0.3', 1))
    assert packed(whole) != altered
    flipped = content[:100] + bytes([content[100] ^ 1]) + content[101:]
    for spoilt in (content[:-1], content[: len(content) // 2], flipped, content + b"more", altered):
        storage.packed(path).write_bytes(spoilt)
        with pytest.raises(ArgumentError, match="take the file from git"):
            tables.read(path)
        with pytest.raises(ArgumentError, match="take the file from git"):
            begun(path, (0.5,))
        assert storage.packed(path).read_bytes() == spoilt
        assert storage.within(path.parent) == [path], "what was cut or altered is told of"
        assert not path.exists()
    with pytest.raises(ArgumentError, match="is not there"):
        tables.read(path.with_name("mnist.jsonl"))


@pytest.mark.parametrize("name", ["digits.jsonl", "digits.jsonl.bz2"])
def test_who_reads_while_another_packs_has_all(path, whole, name, monkeypatch):
    """Planted: the table is packed just before one of its files is read."""
    begun(path, (0.1, 0.2))
    storage.pack(path)
    begun(path, (0.3, 0.4))
    original = storage.ending

    def packs(one):
        if one.name == name:
            monkeypatch.setattr(storage, "ending", original)
            storage.pack(path)
        return original(one)

    monkeypatch.setattr(storage, "ending", packs)
    assert storage.content(path) == whole
    assert not path.exists()


def test_an_altered_line_is_named_by_its_place_in_its_file(path, whole):
    """Planted: the first appended line altered, the second, and a header behind a packed table of one's own."""
    begun(path, (0.1, 0.2))
    storage.pack(path)
    begun(path, (0.3, 0.4))
    added = path.read_bytes()
    altered = r"digits\.jsonl: line 2 was altered; .* keep the 1 lines before it"
    elsewhere = r"digits\.jsonl: line 1 was altered, or does not go on from digits\.jsonl\.bz2"
    other = whole.replace(b'"classes":5', b'"classes":6', 1)
    for spoilt, told in (
        (added.replace(b'"rate":0.4', b'"rate":0.5'), altered),
        (added.replace(b'"rate":0.3', b'"rate":0.5'), elsewhere),
        (other, elsewhere),
    ):
        path.write_bytes(spoilt)
        with pytest.raises(ArgumentError, match=told):
            tables.read(path)
    path.write_bytes(added)
    assert storage.content(path) == whole


@pytest.mark.parametrize("into", [lambda path: None, storage.pack])
def test_a_line_of_a_later_version_is_one_line(path, into):
    """Planted: a cell with a further field, and a line of another kind, appended or packed."""
    for document in ({"cell": {"width": 3}, "rate": 0.3, "seeds": [0, 1]}, {"news": 1}):
        table = begun(path, (0.1,))
        tables._append(table, document | {name: [1.0] for name in Row._fields})
        into(path)
        with pytest.raises(ArgumentError, match=r"digits\.jsonl(\.bz2)?: line 3 was written by a later version"):
            tables.read(path)
        for one in path.parent.iterdir():
            one.unlink()


def test_lines_that_do_not_go_on_from_the_packed_ones_are_not_packed(path, whole):
    """Planted: a packed table that was gone on with elsewhere comes in between; with the first one back all is well."""
    begun(path, (0.1, 0.2))
    storage.pack(path)
    first = storage.packed(path).read_bytes()
    begun(path, (0.3, 0.4))
    added = path.read_bytes()
    begun(path.parent / "other" / path.name, (0.1, 0.2, 0.5))
    other = packed((path.parent / "other" / path.name).read_bytes())
    storage.packed(path).write_bytes(other)
    with pytest.raises(ArgumentError, match=r"does not go on from digits\.jsonl\.bz2"):
        storage.pack(path)
    assert (path.read_bytes(), storage.packed(path).read_bytes()) == (added, other)
    assert not path.with_suffix(".part").exists()
    storage.packed(path).write_bytes(first)
    storage.pack(path)
    assert storage.content(path) == whole
