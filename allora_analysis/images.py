"""Images for classification: scikit-learn's digits, MNIST, CIFAR-10, or an `.npz` of the user's own.

Every source gives the same thing: flattened float32 rows, normalized by **one mean and one standard deviation over all
pixels of all training images** (channels are not told apart; the test images take the training images' two numbers),
int64 labels 0, …, C − 1, and a digest of the raw arrays, which stands in a record in place of a path.

We write and read no pickle (`allow_pickle=False`). torchvision's CIFAR-10 archive, though, is a pickle of its authors',
which torchvision loads after checking its md5; an `.npz` avoids it. Checked by `tests/test_images.py`.
"""

import contextlib
import hashlib
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, Int, Int64

from allora_analysis.validation import ArgumentError, ending

KEYS = ("x_train", "y_train", "x_test", "y_test")
TORCHVISION = {"mnist": "MNIST", "cifar10": "CIFAR10"}
SOURCES = ("digits", *TORCHVISION)
# Every fifth of the 1,797 digits is a test image: the file is in the writers' order, so each writer is on both sides.
DIGITS_TEST_EVERY = 5
CHUNK = 4096  # images converted at a time


@dataclass(frozen=True)
class Images:
    """A classification data set in memory.

    Attributes:
        x_train: normalized training images, a row each.
        y_train: their labels, in 0, …, classes − 1.
        x_test: normalized test images.
        y_test: their labels.
        name: of the data set, for records and figures; never a path.
        classes: C.
        digest: SHA-256 of the raw images and labels.
    """

    x_train: Float32[np.ndarray, "N D"]
    y_train: Int64[np.ndarray, " N"]
    x_test: Float32[np.ndarray, "M D"]
    y_test: Int64[np.ndarray, " M"]
    name: str
    classes: int
    digest: str


def load(data: str, data_root: Path | str | None = None, download: bool = False, name: str | None = None) -> Images:
    """The images and labels of a data set.

    Args:
        data: "digits" (1,438 training and 359 test images of 8 × 8, embedded in scikit-learn), "mnist" or "cifar10"
            (torchvision's layout below `data_root`), or the path of an `.npz` with x_train (N, …), y_train (N,),
            x_test (M, …) and y_test (M,).
        data_root: the folder of torchvision's data sets; for "mnist" and "cifar10" only.
        download: fetch what is missing into `data_root`; without it nothing touches the network.
        name: what the data set is called; `data` itself, or the file's stem.

    Raises:
        ArgumentError: an unknown data set, missing data, or a file that holds no such data set.
    """
    refuse_root(data, data_root, download)
    if data in TORCHVISION:
        raw = _torchvision(data, data_root, download)
    else:
        raw = _digits() if data == "digits" else _npz(data)
    return _prepared(data, raw, name if name is not None else name_of(data))


def refuse_root(data: str, data_root: Path | str | None, download: bool) -> None:
    """Where data have no folder of torchvision's, none may be named."""
    if data not in TORCHVISION and (data_root is not None or download):
        raise ArgumentError(f"--data-root and --download go with mnist and cifar10, received --data {data}")


def name_of(data: str) -> str:
    """What a data set is called: its own name or the file's stem; refuses what is neither known nor a file .npz."""
    if data not in SOURCES and not data.endswith(".npz"):
        raise ArgumentError(f"--data must be one of {', '.join(SOURCES)}, or name a file .npz; received {data!r}")
    return Path(data).stem


def digits() -> tuple[Float[np.ndarray, "N 64"], Int[np.ndarray, " N"]]:
    """scikit-learn's 1,797 digits, pixels 0 to 16, and their labels, from its file: importing it takes a second."""
    folder = Path(find_spec("sklearn").submodule_search_locations[0])
    content = np.loadtxt(folder / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    return content[:, :-1], content[:, -1].astype(int)


def _digits() -> dict[str, np.ndarray]:
    x, y = digits()
    test = np.arange(len(y)) % DIGITS_TEST_EVERY == DIGITS_TEST_EVERY - 1
    return dict(zip(KEYS, (x[~test], y[~test], x[test], y[test]), strict=True))


def _torchvision(data: str, data_root: Path | str | None, download: bool) -> dict[str, np.ndarray]:
    if data_root is None:
        raise ArgumentError(
            f"--data {data} needs --data-root FOLDER, the folder of torchvision's data sets; add --download to fetch it"
        )
    if not download and not Path(data_root).is_dir():
        raise ArgumentError(f"--data-root {data_root}: is not a folder; name torchvision's, or add --download to fetch")
    import torchvision

    make = getattr(torchvision.datasets, TORCHVISION[data])
    try:
        # Its progress must not stand in the JSON on standard output.
        with contextlib.redirect_stdout(sys.stderr):
            train, test = (make(str(data_root), train=which, download=download) for which in (True, False))
    except (RuntimeError, OSError, ValueError) as error:
        way_out = "the download failed" if download else "name another --data-root, or add --download to fetch it"
        raise ArgumentError(f"--data {data}: not found whole in --data-root {data_root} ({error}); {way_out}") from None
    parts = (train.data, train.targets, test.data, test.targets)
    return {key: np.asarray(part) for key, part in zip(KEYS, parts, strict=True)}


def _npz(path: str) -> dict[str, np.ndarray]:
    name_of(path)
    try:
        with open(ending(Path(path)), "rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            if missing := [key for key in KEYS if key not in arrays.files]:
                raise ArgumentError(
                    f"--data {path}: {', '.join(missing)} missing, found {', '.join(arrays.files) or 'no array'}; "
                    f"save {', '.join(KEYS)}"
                )
            found = {key: arrays[key] for key in KEYS}
            if bare := [key for key, value in found.items() if not isinstance(value, np.ndarray)]:
                raise ValueError(f"{', '.join(bare)} begins as no array does")  # NumPy hands out its bytes
            return found
    except ArgumentError:
        raise
    except OSError as error:
        why = error.strerror or error
        raise ArgumentError(f"--data {path}: cannot be read ({why}); name a file that numpy.savez wrote") from None
    except Exception as error:  # a damaged archive fails in zipfile's, zlib's or NumPy's own way
        raise ArgumentError(f"--data {path}: is no .npz of plain arrays ({error}); write it with numpy.savez") from None


def _prepared(data: str, raw: dict[str, np.ndarray], name: str) -> Images:
    for part in ("train", "test"):
        _check_images(data, f"x_{part}", raw[f"x_{part}"])
        _check_labels(data, f"y_{part}", raw[f"y_{part}"], len(raw[f"x_{part}"]))
    if raw["x_train"].shape[1:] != raw["x_test"].shape[1:]:
        shapes = f"{raw['x_train'].shape[1:]} and {raw['x_test'].shape[1:]}"
        raise ArgumentError(f"--data {data}: images of x_train and x_test must have one size, received {shapes}")
    classes = _classes(data, raw["y_train"], raw["y_test"])
    flat = {key: value.reshape(len(value), -1) for key, value in raw.items() if key.startswith("x")}
    labels = {key: value.astype(np.int64) for key, value in raw.items() if key.startswith("y")}
    if flat["x_train"].min() == flat["x_train"].max():
        value = flat["x_train"].flat[0]
        raise ArgumentError(f"--data {data}: every pixel of x_train has one value, {value:g}; give images that differ")
    x_train, x_test = _normalised(data, flat)
    return Images(x_train, labels["y_train"], x_test, labels["y_test"], name, classes, _digest(flat | labels))


def _check_images(data: str, key: str, x: np.ndarray) -> None:
    if x.dtype.kind not in "buif":
        raise ArgumentError(f"--data {data}: {key} must hold real numbers, received dtype {x.dtype}")
    if x.ndim < 2 or x.size == 0:
        raise ArgumentError(f"--data {data}: {key} must be (images, pixels …), none 0; received shape {x.shape}")
    if x.dtype.kind == "f" and not all(np.isfinite(part).all() for part in _chunks(x)):
        raise ArgumentError(f"--data {data}: {key} holds NaN or infinite pixels; every pixel must be finite")


def _check_labels(data: str, key: str, y: np.ndarray, images: int) -> None:
    if y.dtype.kind not in "ui":
        raise ArgumentError(f"--data {data}: {key} must hold integers, the classes 0, 1, …; received dtype {y.dtype}")
    if y.shape != (images,):
        raise ArgumentError(f"--data {data}: {key} must have shape ({images},), one per image; received {y.shape}")


def _classes(data: str, train: np.ndarray, test: np.ndarray) -> int:
    present = np.unique(train)
    if present.size < 2:
        raise ArgumentError(f"--data {data}: y_train has one class, {present[0]}; at least two are needed")
    if present[0] != 0 or present[-1] != present.size - 1:
        shown = ", ".join(str(label) for label in present[:12])
        raise ArgumentError(f"--data {data}: labels must be 0, …, C - 1, each in y_train; received {shown}")
    if not np.isin(test, present).all():
        stray = test[~np.isin(test, present)][0]
        raise ArgumentError(f"--data {data}: y_test has the class {stray}, which y_train lacks")
    return int(present.size)


def _chunks(x: np.ndarray) -> list[np.ndarray]:
    return [x[start : start + CHUNK] for start in range(0, len(x), CHUNK)]


def _mean_and_deviation(x: np.ndarray) -> tuple[float, float]:
    # Two passes in float64, a chunk at a time: no float64 copy of the whole set, and nothing cancels.
    mean = sum(float(part.sum(dtype=np.float64)) for part in _chunks(x)) / x.size
    squares = sum(float(np.square(part.astype(np.float64) - mean).sum()) for part in _chunks(x))
    return mean, (squares / x.size) ** 0.5


def _normalised(data: str, flat: dict[str, np.ndarray]) -> list[Float32[np.ndarray, "N D"]]:
    # By x_train's mean and deviation; refused where these or what they give leave the floating-point range.
    results = []
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        mean, deviation = _mean_and_deviation(flat["x_train"])
        for key in ("x_train", "x_test"):
            result = np.empty(flat[key].shape, dtype=np.float32)
            for source, target in zip(_chunks(flat[key]), _chunks(result), strict=True):
                target[...] = (source.astype(np.float64) - mean) / deviation
            if not (0 < deviation < np.inf and all(np.isfinite(part).all() for part in _chunks(result))):
                raise ArgumentError(
                    f"--data {data}: {key} over the deviation of x_train, {deviation:.3g}, leaves single precision's "
                    "range; give pixels of one scale"
                )
            results.append(result)
    return results


def _digest(arrays: dict[str, np.ndarray]) -> str:
    whole = hashlib.sha256()
    for key in KEYS:
        array = np.ascontiguousarray(arrays[key])
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        whole.update(f"{key} {array.dtype.str} {array.shape}".encode("ascii"))
        whole.update(array.data)
    return whole.hexdigest()
