"""Packed records are read as loose ones are; nothing is lost or twice, whoever is killed; a spoilt pack is named."""

import bz2
import os
import signal
import subprocess
import sys
import tarfile
import time

import pytest

from allora_analysis import records
from allora_analysis.records import files, packs
from tests.toy_run import Config, save, spoil

RANKS = (1, 2, 3)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.json")}


@pytest.fixture
def whole(tmp_path):
    """The files of three runs, which then are packed."""
    for rank in RANKS:
        save(tmp_path, Config(rank=rank))
    loose = contents(tmp_path)
    assert records.pack(tmp_path).records == len(loose) == 3
    return loose


def everything(folder):
    """What each way to read says."""
    wanted = {rank: Config(rank=rank) for rank in (*RANKS, 99)}
    return (
        records.record_files(folder),
        records.record_files(folder, "other"),
        [records.load(path) for path in records.record_files(folder)],
        [records.lookup(folder, "finetune", config, 1) for config in wanted.values()],
        records.known(folder, "finetune", 1, [*wanted.values()], {}),
        records.find(folder, rank=2),
        records.standing(folder, "finetune"),
        records.find_each(folder, "finetune", 1, wanted),
        records.status(folder, {"finetune": 2}),
        [packs.present(path) for path in records.record_files(folder)],
    )


def test_packed_records_are_read_as_loose_ones(tmp_path):
    for rank in RANKS:
        save(tmp_path, Config(rank=rank))
    loose, read = contents(tmp_path), everything(tmp_path)
    size = sum(map(len, loose.values()))
    packed = records.pack(tmp_path)
    assert packed == (3, size, (tmp_path / packs.PACK).stat().st_size)
    assert os.listdir(tmp_path) == [packs.PACK]
    assert everything(tmp_path) == read
    assert read[4] == [True, True, True, False], "planted: a run that nobody made"
    assert dict(packs.packed(tmp_path)) == loose


def test_packed_and_loose_mixed_and_packed_again(tmp_path, whole):
    more = save(tmp_path, Config(rank=4)).path
    (tmp_path / "notes.json").write_text("{}")
    assert [path.name for path in records.record_files(tmp_path)] == sorted([*whole, more.name])
    assert [one.config["rank"] for one in records.find(tmp_path)] == [1, 2, 3, 4]
    together = whole | {more.name: more.read_bytes()}
    assert records.pack(tmp_path).records == 1
    assert packs.packed(tmp_path) == together
    before = (tmp_path / packs.PACK).stat()
    assert records.pack(tmp_path) == (0, before.st_size, before.st_size)
    assert (tmp_path / packs.PACK).stat().st_mtime_ns == before.st_mtime_ns, "nothing to pack, nothing written"
    assert sorted(os.listdir(tmp_path)) == ["notes.json", packs.PACK]


def test_a_packed_run_is_not_saved_again(tmp_path, whole):
    path, written = save(tmp_path, Config(rank=2), {"y": "another"})
    assert (written, path.exists()) == (False, False)
    assert path.name in whole
    assert save(tmp_path, Config(rank=4)).written


def test_a_pack_depends_on_the_records_alone(tmp_path):
    for folder, ranks in (("a", RANKS), ("b", RANKS[::-1])):
        for rank in ranks:
            path = save(tmp_path / folder, Config(rank=rank)).path
            if (folder, rank) == ("b", 2):
                path.chmod(0o600)
                records.pack(tmp_path / folder)
        records.pack(tmp_path / folder)
    first, second = ((tmp_path / folder / packs.PACK).read_bytes() for folder in "ab")
    assert first == second
    with tarfile.open(tmp_path / "a" / packs.PACK) as tar:
        assert tar.getnames() == sorted(tar.getnames())


def test_tar_makes_a_pack_loose_again(tmp_path, whole):
    subprocess.run(["tar", "-xf", packs.PACK], cwd=tmp_path, check=True)
    assert contents(tmp_path) == whole


# --- spoilt -----------------------------------------------------------------------------------------------------------


def renamed(content):
    return bz2.compress(bz2.decompress(content).replace(b"finetune-", b"finetunE-", 1))


def longer(content):
    return bz2.compress(bz2.decompress(content) + b"x")


SPOILT = {
    "cut": lambda content: content[:-20],
    "empty": lambda content: b"",
    "no bzip2": lambda content: b"x" * 100,
    "one byte": lambda content: content[:200] + bytes([content[200] ^ 4]) + content[201:],
    "more behind": lambda content: content + b"x",
    "no tar": lambda content: bz2.compress(b"x" * 1000),
    "a bad header, behind which tarfile sees nothing": renamed,
    "more inside": longer,
}


@pytest.mark.parametrize("harm", SPOILT)
def test_a_pack_that_was_cut_or_altered_is_one_line_for_every_reader_and_stays(tmp_path, whole, harm):
    pack = tmp_path / packs.PACK
    spoilt = SPOILT[harm](pack.read_bytes())
    pack.write_bytes(spoilt)
    (name, *_) = whole
    for read in (
        lambda: records.record_files(tmp_path),
        lambda: records.load(tmp_path / name),
        lambda: records.lookup(tmp_path, "finetune", Config(rank=1), 1),
        lambda: records.find(tmp_path),
        lambda: records.standing(tmp_path, "finetune"),
        lambda: save(tmp_path, Config(rank=1)),
    ):
        with pytest.raises(records.RecordError, match=rf"{packs.PACK}: .*; take the file from git") as caught:
            read()
        assert "\n" not in str(caught.value)
    (tmp_path / name).write_bytes(whole[name])
    with pytest.raises(records.RecordError, match="take the file from git"):
        records.pack(tmp_path)
    assert pack.read_bytes() == spoilt
    assert contents(tmp_path) == {name: whole[name]}


def altered(folder, whole):
    """An altered record in a pack that is whole as such."""
    (name, *_) = sorted(whole)
    wrong = whole | {name: whole[name].replace(b'"accuracy":0.8', b'"accuracy":0.9')}
    assert wrong != whole
    files.replace(folder / packs.PACK, bz2.compress(packs._tar(wrong)))
    return name


def test_an_altered_record_in_a_pack_is_named_and_not_read(tmp_path, whole):
    name = altered(tmp_path, whole)
    for read in (lambda: records.find(tmp_path), lambda: records.standing(tmp_path, "finetune")):
        words = f"{name} is not read: .*{name}: torn or altered, .*, inside {packs.PACK}; take that file from git"
        with pytest.warns(records.SetAsideWarning, match=words) as caught:
            assert {one.path.name for one in read()} == whole.keys() - {name}
        assert len(caught) == 1
    with pytest.raises(records.TornRecord, match=f"inside {packs.PACK}; take that file from git"):
        records.load(tmp_path / name)
    with pytest.warns(records.SetAsideWarning):
        found = records.status(tmp_path, {"finetune": 1})
    assert (found.torn, found.set_aside, found.counts) == ((name,), (), {"finetune": 2})


def test_a_run_whose_packed_record_was_altered_can_be_made_again(tmp_path, whole):
    name = altered(tmp_path, whole)
    with pytest.warns(records.SetAsideWarning):
        made = [save(tmp_path, Config(rank=rank)) for rank in RANKS]
    assert [one.path.name for one in made if one.written] == [name]
    assert records.pack(tmp_path).records == 1
    assert packs.packed(tmp_path) == whole


def test_a_torn_loose_file_is_not_packed_and_hides_no_packed_one(tmp_path, whole):
    name = max(whole)
    (tmp_path / name).write_bytes(whole[name])
    spoil(tmp_path / name)
    assert records.pack(tmp_path).records == 0
    assert packs.packed(tmp_path) == whole
    with pytest.warns(records.SetAsideWarning, match=f"{name} is set aside"):
        assert len(records.find(tmp_path)) == 3
    assert records.status(tmp_path, {"finetune": 1}).torn == ()


# --- killed, refused, together ----------------------------------------------------------------------------------------

PACKER = """
import os, signal, sys
from pathlib import Path
from allora_analysis import records
from allora_analysis.records import files
kill = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
unlink, left = Path.unlink, [1, 1]  # what an earlier call left, and one of three
def second(path, *rest, **more):
    left.pop() if left else kill()
    unlink(path, *rest, **more)
if sys.argv[2] == "before the pack is in place":
    os.replace = kill
elif sys.argv[2] == "before the loose files go":
    files._sync_folder = kill
else:
    Path.unlink = second
records.pack(sys.argv[1])
"""
MOMENTS = {"before the pack is in place": 3, "before the loose files go": 3, "between two of them": 2}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("again", [False, True], ids=["first", "again"])
def test_kill_9_loses_nothing_and_the_next_call_finishes(tmp_path, moment, again):
    if again:
        save(tmp_path, Config(rank=0))
        records.pack(tmp_path)
    for rank in RANKS:
        save(tmp_path, Config(rank=rank))
    read = everything(tmp_path)
    finished = subprocess.run([sys.executable, "-c", PACKER, str(tmp_path), moment], capture_output=True)
    assert finished.returncode == -signal.SIGKILL, finished.stderr
    assert len(contents(tmp_path)) == MOMENTS[moment]
    assert (tmp_path / "records.part").exists() == (moment == "before the pack is in place")
    assert everything(tmp_path) == read
    assert records.pack(tmp_path).records == MOMENTS[moment]
    assert os.listdir(tmp_path) == [packs.PACK]
    assert everything(tmp_path) == read


@pytest.mark.bad_input
def test_no_room_is_one_line_and_every_loose_file_stays(tmp_path, monkeypatch):
    save(tmp_path)
    loose = contents(tmp_path)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(records.RecordError, match=f"{packs.PACK}: cannot be written .No space left on device."):
        records.pack(tmp_path)
    monkeypatch.undo()
    assert contents(tmp_path) == loose
    assert os.listdir(tmp_path) == [*loose]


@pytest.mark.bad_input
def test_a_pack_that_would_be_larger_than_is_read_is_not_written(tmp_path, whole, monkeypatch):
    more = save(tmp_path, Config(rank=4)).path
    before = (tmp_path / packs.PACK).read_bytes()
    monkeypatch.setattr(files, "LARGEST", len(bz2.decompress(before)) - 1)  # tar's own blocks hold either
    with pytest.raises(records.RecordError, match="move some records to another folder"):
        records.pack(tmp_path)
    assert (tmp_path / packs.PACK).read_bytes() == before
    assert more.exists()


@pytest.mark.bad_input
def test_no_folder_is_one_line_and_none_is_made(tmp_path):
    with pytest.raises(records.RecordError, match="is not a folder; name a folder of records"):
        records.pack(tmp_path / "typo")
    assert not (tmp_path / "typo").exists()


def test_a_pack_that_reads_back_otherwise_costs_no_loose_file(tmp_path, monkeypatch):
    save(tmp_path)
    loose = contents(tmp_path)
    monkeypatch.setattr(files, "replace", lambda path, content: path.write_bytes(bz2.compress(packs._tar({}))))
    with pytest.raises(records.RecordError, match="reads back otherwise than written"):
        records.pack(tmp_path)
    assert contents(tmp_path) == loose


CROWD = """
import sys, time
from allora_analysis import records
folder, who, start = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
time.sleep(max(0.0, start - time.time()))
for run in range(40):
    records.save(folder, "crowd", {"own": who, "run": run}, {"writer": who}, protocol=1, provenance={})
    if run % 4 == who:
        records.pack(folder)
    mine = [one for one in records.find(folder) if one.config["own"] == who]
    assert len(mine) == run + 1, (who, run, len(mine))
"""


@pytest.mark.parametrize(("module", "name"), [(os, "listdir"), (packs, "packed")])
def test_who_reads_while_another_packs_has_all(tmp_path, monkeypatch, module, name):
    """Planted: the folder is packed just after its files were listed, or just after its pack was looked into."""
    for rank in RANKS:
        save(tmp_path, Config(rank=rank))
    first = getattr(module, name)

    def then_packed(folder):
        found = first(folder)
        monkeypatch.undo()
        records.pack(tmp_path)
        return found

    monkeypatch.setattr(module, name, then_packed)
    assert len(records.find(tmp_path)) == 3
    assert os.listdir(tmp_path) == [packs.PACK]


def test_three_who_save_and_pack_at_once_lose_nothing(tmp_path):
    start = str(time.time() + 1.5)
    crowd = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", CROWD, str(tmp_path), str(who), start],
            stderr=subprocess.PIPE,
            text=True,
        )
        for who in range(3)
    ]
    told = [process.communicate(timeout=120)[1] for process in crowd]
    assert [process.returncode for process in crowd] == [0, 0, 0], told
    records.pack(tmp_path)
    assert os.listdir(tmp_path) == [packs.PACK]
    assert len(records.find(tmp_path)) == 120


def test_a_pack_is_unpacked_once_for_all_of_its_records(tmp_path, whole, monkeypatch):
    calls = []
    monkeypatch.setattr(tarfile, "open", lambda *_, of=tarfile.open, **more: calls.append(1) or of(*_, **more))
    os.utime(tmp_path / packs.PACK)
    for _ in range(3):
        assert len(records.find(tmp_path)) == 3
    assert len(calls) == 2, "to read it, and to see that nothing else is in it"


def test_what_a_killed_pack_left_goes_with_the_next_call_that_has_nothing_to_pack(tmp_path, whole):
    left = files.part(tmp_path / packs.PACK)
    left.write_bytes(b"half")
    assert records.pack(tmp_path).records == 0
    assert os.listdir(tmp_path) == [packs.PACK]
    assert left.name == "records.part"
