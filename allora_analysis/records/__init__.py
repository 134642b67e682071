"""Run records: one small JSON file per run, content-addressed, written whole or not at all, verified on reading.

| file | object |
| --- | --- |
| `record` | what a record may hold, its canonical JSON, its key and provenance; its content verified |
| `storage` | `save`, `load`, `lookup`, `known`, `find`, `standing`; `find_each`, `results_of` of a list; `status` |
| `packs` | a folder's complete records in one file, `records.tar.bz2`, read as the loose ones are: `pack` |
| `files` | writing whole or not at all, setting aside, one holder a run |

A run is its study, its config (full, but for fields that came later and are at their default: `LATER`), a `protocol`
integer that grows when the meaning of a run changes, and the digests of what it read. Its file is `<study>-<first 20
digits of the key>.json`, so a run cannot be recorded twice, nor two runs be confused. Any number of processes may save
into one folder. A file whose bytes were altered is never read, but named in a `SetAsideWarning`; who writes moves it to
`set_aside/`, who only judges (`standing`, `find_each`) leaves it. A pack that was altered is an error that names it,
and stays. No pickle, no NaN, no machine's paths.
"""

from allora_analysis.records.packs import Packed, pack
from allora_analysis.records.record import (
    LATER,
    UNFINISHED,
    Record,
    RecordError,
    TornRecord,
    apart,
    canonical_json,
    digest_file,
    key,
    later,
    processor,
    provenance,
    results_folder,
    unfinished,
)
from allora_analysis.records.storage import (
    Saved,
    SetAsideWarning,
    Status,
    find,
    find_each,
    known,
    load,
    lookup,
    record_files,
    results_of,
    save,
    single,
    standing,
    status,
)

__all__ = [
    "LATER",
    "UNFINISHED",
    "Packed",
    "Record",
    "RecordError",
    "Saved",
    "SetAsideWarning",
    "Status",
    "TornRecord",
    "apart",
    "canonical_json",
    "digest_file",
    "find",
    "find_each",
    "key",
    "known",
    "later",
    "load",
    "lookup",
    "pack",
    "processor",
    "provenance",
    "record_files",
    "results_folder",
    "results_of",
    "save",
    "single",
    "standing",
    "status",
    "unfinished",
]
