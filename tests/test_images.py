"""Data sets: what every source gives, and what is refused."""

import struct
import zipfile

import numpy as np
import pytest
from sklearn.datasets import load_digits

from allora_analysis import images
from allora_analysis.validation import ArgumentError

GOOD = {
    "x_train": np.arange(6 * 2 * 3, dtype=np.uint8).reshape(6, 2, 3),
    "y_train": np.array([0, 1, 2, 0, 1, 2]),
    "x_test": np.arange(2 * 2 * 3, dtype=np.uint8).reshape(2, 2, 3) + 7,
    "y_test": np.array([2, 0], dtype=np.uint8),
}


def saved(folder, name="tiny.npz", **changed):
    path = folder / name
    np.savez(path, **{key: value for key, value in (GOOD | changed).items() if value is not None})
    return str(path)


def test_digits():
    found = images.load("digits")
    x, y = load_digits(return_X_y=True)
    assert all(map(np.array_equal, images.digits(), (x, y)))
    assert (found.name, found.classes) == ("digits", 10)
    assert found.x_train.shape == (1438, 64)
    assert found.x_test.shape == (359, 64)
    assert found.x_train.dtype == np.float32
    assert found.y_train.dtype == np.int64
    # Every image is there once, and an affine map takes the pixels back.
    test = np.arange(1797) % 5 == 4
    np.testing.assert_allclose(found.x_test, (x[test] - x[~test].mean()) / x[~test].std(), rtol=1e-6, atol=1e-6)
    assert np.array_equal(found.y_test, y[test])
    assert np.array_equal(found.y_train, y[~test])
    assert set(np.unique(found.y_test)) == set(range(10))
    assert images.load("digits").digest == found.digest


def test_normalised_by_one_mean_and_one_deviation_of_the_training_images(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "CHUNK", 4)
    rng = np.random.default_rng(0)
    x = rng.normal(1e4, 3.0, (10, 4, 5))
    found = images.load(
        saved(tmp_path, x_train=x, y_train=np.arange(10) % 2, x_test=x[:2] + 6, y_test=np.array([0, 1]))
    )
    assert found.x_train.shape == (10, 20)
    np.testing.assert_allclose(found.x_train, (x.reshape(10, 20) - x.mean()) / x.std(), atol=1e-6)
    # The test images take the training images' numbers: a shift of 6 stays.
    np.testing.assert_allclose(found.x_test, found.x_train[:2] + 6 / x.std(), atol=1e-5)


def test_half_precision_is_normalised_in_double(tmp_path):
    x = np.random.default_rng(0).normal(1e3, 0.5, (10, 4, 5)).astype(np.float16)
    labels = {"y_train": np.arange(10) % 2, "y_test": np.array([0, 1])}
    found = images.load(saved(tmp_path, x_train=x, x_test=x[:2], **labels))
    wide = x.astype(float).reshape(10, 20)
    np.testing.assert_allclose(found.x_train, (wide - wide.mean()) / wide.std(), atol=1e-6)
    x = np.where(np.arange(200).reshape(10, 4, 5) % 10, 6e4, -6e4).astype(np.float16)
    assert np.isfinite(images.load(saved(tmp_path, x_train=x, x_test=x[:2], **labels)).x_train).all()


def test_npz_has_the_name_of_its_stem_or_the_name_given(tmp_path):
    path = saved(tmp_path)
    assert images.load(path).name == "tiny"
    assert images.load(path, name="cifar10").name == "cifar10"
    assert images.load(path).classes == 3


def test_digest_is_the_contents(tmp_path):
    path = saved(tmp_path)
    digest = images.load(path).digest
    assert len(digest) == 64
    assert images.load(saved(tmp_path, "copy.npz"), name="other").digest == digest
    flattened = {key: GOOD[key].reshape(len(GOOD[key]), -1) for key in ("x_train", "x_test")}
    assert images.load(saved(tmp_path, "flat.npz", **flattened)).digest == digest
    swapped = GOOD["x_train"].copy()
    swapped[0, 0, 0] += 1
    assert images.load(saved(tmp_path, "pixel.npz", x_train=swapped)).digest != digest
    assert images.load(saved(tmp_path, "label.npz", y_test=np.array([2, 1]))).digest != digest


def test_big_endian_arrays_have_the_digest_of_little_endian_ones(tmp_path):
    little, big = ({"x_train": GOOD["x_train"].astype(kind)} for kind in ("<f4", ">f4"))
    assert images.load(saved(tmp_path, "a.npz", **little)).digest == images.load(saved(tmp_path, "b.npz", **big)).digest


def idx(array):
    return struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_mnist(root, rng):
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    parts = {}
    for part, size in (("train", 20), ("t10k", 10)):
        x, y = rng.integers(0, 256, (size, 28, 28), dtype=np.uint8), np.arange(size, dtype=np.uint8) % 10
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx(x))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx(y))
        parts[part] = x, y
    return parts


def test_mnist_through_torchvision(tmp_path, rng):
    parts = write_mnist(tmp_path, rng)
    found = images.load("mnist", tmp_path)
    (x, y), (x_test, y_test) = parts["train"], parts["t10k"]
    assert (found.name, found.classes, found.x_train.shape, found.x_test.shape) == ("mnist", 10, (20, 784), (10, 784))
    np.testing.assert_allclose(found.x_train, (x.reshape(20, 784) - x.mean()) / x.std(), atol=1e-5)
    assert np.array_equal(found.y_test, y_test)
    # The same arrays from an .npz are the same data.
    path = saved(tmp_path, x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    assert images.load(path).digest == found.digest


def test_cifar10_through_torchvision(tmp_path, monkeypatch, rng, capsys):
    class Fake:
        """torchvision's checks the md5 of its authors' pickle, which is not here."""

        def __init__(self, root, train, download):
            print("Downloading")
            self.data = rng.integers(0, 256, (30 if train else 10, 32, 32, 3), dtype=np.uint8)
            self.targets = [index % 10 for index in range(len(self.data))]

    monkeypatch.setattr("torchvision.datasets.CIFAR10", Fake)
    found = images.load("cifar10", str(tmp_path), download=True)
    assert (found.name, found.x_train.shape, found.y_test.shape) == ("cifar10", (30, 3072), (10,))
    assert capsys.readouterr().out == ""


@pytest.mark.bad_input
@pytest.mark.parametrize("data", ["mnist", "cifar10"])
def test_missing_data_names_both_flags(tmp_path, data):
    (tmp_path / "empty").mkdir()
    for root in (None, tmp_path / "nowhere", tmp_path / "empty"):
        with pytest.raises(ArgumentError, match=r"(?s)--data-root.*--download"):
            images.load(data, root)
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.bad_input
def test_a_failed_download_is_one_line(tmp_path, monkeypatch):
    def refused(*arguments, **options):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.datasets.MNIST", refused)
    with pytest.raises(ArgumentError, match=r"no route to host.*the download failed"):
        images.load("mnist", tmp_path, download=True)


@pytest.mark.bad_input
@pytest.mark.parametrize("options", [{"data_root": "here"}, {"download": True}])
def test_flags_of_torchvision_go_with_its_data_alone(options):
    with pytest.raises(ArgumentError, match="go with mnist and cifar10"):
        images.load("digits", **options)


@pytest.mark.bad_input
@pytest.mark.parametrize("data", ["imagenet", "", "data.npy"])
def test_unknown_data(data):
    with pytest.raises(ArgumentError, match="digits, mnist, cifar10"):
        images.load(data)


NAN = GOOD["x_train"].astype(float)
NAN[3, 1, 2] = np.nan
BAD = {
    "missing key": ({"y_test": None}, "y_test missing, found x_train"),
    "no images": ({"x_train": np.zeros((0, 4))}, "x_train must be"),
    "flat images": ({"x_test": np.zeros(2)}, r"received shape \(2,\)"),
    "sizes differ": ({"x_test": np.zeros((2, 2, 4))}, "one size"),
    "text": ({"x_train": np.full((6, 2, 3), "a")}, "real numbers"),
    "complex": ({"x_train": np.zeros((6, 2, 3), dtype=complex)}, "real numbers"),
    "NaN": ({"x_train": NAN}, "x_train holds NaN"),
    "infinity": ({"x_test": np.full((2, 2, 3), np.inf)}, "x_test holds NaN"),
    "constant": ({"x_train": np.full((6, 2, 3), 7)}, "one value, 7"),
    "constant to rounding": ({"x_train": np.full((6, 2, 3), 0.1)}, "one value, 0.1"),
    "beyond float64's squares": ({"x_train": 1e200 * GOOD["x_train"]}, "x_train over the deviation of x_train, inf"),
    "test images of another scale": (
        {"x_train": 1e-30 * GOOD["x_train"], "x_test": np.full((2, 2, 3), 1e20)},
        "x_test over",
    ),
    "real labels": ({"y_train": np.zeros(6)}, "integers"),
    "boolean labels": ({"y_train": np.arange(6) > 2}, "integers"),
    "one-hot labels": ({"y_train": np.zeros((6, 3), dtype=int)}, r"shape \(6,\)"),
    "too few labels": ({"y_test": np.array([0])}, r"shape \(2,\), one per image; received \(1,\)"),
    "one class": ({"y_train": np.full(6, 4)}, "one class, 4"),
    "negative label": ({"y_train": np.array([-1, 0, 1, 2, 0, 1])}, "received -1, 0, 1, 2"),
    "gap": ({"y_train": np.array([0, 1, 3, 0, 1, 3])}, "received 0, 1, 3"),
    "stray test label": ({"y_test": np.array([0, 9])}, "the class 9"),
    "objects": ({"x_train": np.array([None] * 6)}, "plain arrays"),
}


@pytest.mark.bad_input
@pytest.mark.parametrize("case", BAD)
def test_a_file_that_is_no_data_set(tmp_path, case):
    changed, message = BAD[case]
    with pytest.raises(ArgumentError, match=message):
        images.load(saved(tmp_path, **changed))


@pytest.mark.bad_input
def test_files_that_are_no_npz(tmp_path):
    with pytest.raises(ArgumentError, match="No such file"):
        images.load(str(tmp_path / "nowhere.npz"))
    for name, content in (("text.npz", b"hello"), ("empty.npz", b""), ("torn.npz", None)):
        path = tmp_path / name
        path.write_bytes(content if content is not None else (tmp_path / saved(tmp_path)).read_bytes()[:200])
        with pytest.raises(ArgumentError, match=r"plain arrays|cannot be read"):
            images.load(str(path))
    with zipfile.ZipFile(tmp_path / "bare.npz", "w") as archive:  # of members that begin as no array does
        for key in images.KEYS:
            archive.writestr(f"{key}.npy", b"0")
    with pytest.raises(ArgumentError, match=r"plain arrays .x_train, y_train, x_test, y_test begins as no array does"):
        images.load(str(tmp_path / "bare.npz"))
    np.save(tmp_path / "array", np.zeros(3))
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    with pytest.raises(ArgumentError, match="plain arrays"):
        images.load(str(tmp_path / "array.npz"))
