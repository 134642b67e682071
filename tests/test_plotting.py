"""The house style: arms that share an axis stay apart for every eye, files hold their provenance, bytes repeat."""

import itertools

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from allora_analysis import plotting
from allora_analysis.finetune.setting import ARMS
from allora_analysis.plotting import OPTIMIZERS, PAGE, page, save

# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB.
SIGHT = {
    "usual": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
TOGETHER = {
    "row norms": ("lora", "lora_eta", "allora", "allora_adamw", "allora_od"),
    "learning rates": ("lora", "allora_0", "allora_adamw", "dora", "loraplus", "asf_lora"),
    "gaps": ("allora_od", "asf_lora", "lora_x_eta", "lora", "allora_0"),
}


def lab(colour, sight):
    """CIELAB of a color as an eye with this deficiency sees it."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.asarray(SIGHT[sight]) @ linear, 0, 1)
    xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]] @ seen / [0.9505, 1, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def nearest(looks, sight):
    return min(np.linalg.norm(lab(a, sight) - lab(b, sight)) for a, b in itertools.combinations(looks, 2))


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize("arms", TOGETHER.values(), ids=TOGETHER)
def test_arms_that_share_an_axis_stay_apart(arms, sight):
    assert nearest([plotting.ARMS[arm].colour for arm in arms], sight) > 13


@pytest.mark.parametrize("sight", SIGHT)
def test_optimizers_stay_apart(sight):
    names = ("sgd", "momentum", "adam", "adamw")
    assert nearest([OPTIMIZERS[name].colour for name in names], sight) > 13


def test_no_role_and_no_optimizer_has_the_colour_of_an_arm():
    """Grays aside, which belong to what is measured and to what is plain."""
    arms = [arm.colour for arm in plotting.ARMS.values()]
    looks = [look.colour for name, look in OPTIMIZERS.items() if name != "allora_adamw"]
    for colour in (*plotting.COLOURS.values(), *looks):
        grey = len({*to_rgb(colour)}) == 1
        assert min(nearest((colour, arm), "usual") for arm in arms) > (13 if grey else 20), colour


@pytest.mark.parametrize("sight", SIGHT)
def test_roles_stay_apart(sight):
    assert nearest(plotting.COLOURS.values(), sight) > 12


def test_the_measure_sees_a_red_and_a_green_that_only_the_usual_eye_tells_apart():
    pair = ("#a05000", "#5f7000")
    assert nearest(pair, "usual") > 30
    assert min(nearest(pair, "protanopia"), nearest(pair, "deuteranopia")) < 13


def test_every_arm_has_one_look():
    assert {name: look.label for name, look in plotting.ARMS.items() if name != "lora_eta"} == ARMS
    for part in range(3):
        assert len({look[part] for look in plotting.ARMS.values()}) == len(plotting.ARMS)


def drawn():
    figure, axes = page(2.0, 1, 2, sharey=True)
    axes[0, 0].plot([0, 1], [0, 1])
    return figure, axes


def test_a_page():
    figure, axes = drawn()
    assert tuple(figure.get_size_inches()) == (PAGE, 2.0)
    assert axes.shape == (1, 2)
    assert axes[0, 0].xaxis.label.get_size() == plotting.PAGE_STYLE["font.size"]


@pytest.mark.parametrize("ending", ["png", "pdf", "svg"])
def test_bytes_repeat_and_the_file_says_where_it_is_from(tmp_path, ending):
    first, second = (tmp_path / f"{name}.{ending}" for name in "ab")
    for path in (first, second):
        save(drawn()[0], path, "two panels, η = 2", '{"records": ["finetune-1"]}')
    assert first.read_bytes() == second.read_bytes()
    if ending == "png":
        with Image.open(first) as image:
            assert image.text["Description"] == "two panels, η = 2"
            assert image.text["Source"] == '{"records": ["finetune-1"]}'
            assert image.size == (1650, 600)  # 300 dots an inch
    else:
        assert b"finetune-1" in first.read_bytes()
        assert b"CreationDate" not in first.read_bytes()


@pytest.mark.parametrize("ending", ["png", "pdf", "svg"])
def test_a_full_disk_is_the_systems_own_error(ending, tmp_path):
    """Of matplotlib's writers that of .pdf ends in another, which no command expects."""
    (tmp_path / f"full.{ending}").symlink_to("/dev/full")
    figure = Figure()
    figure.add_subplot().plot(range(5000), np.arange(5000) % 7)
    with pytest.raises(OSError, match="No space left on device"):
        save(figure, tmp_path / f"full.{ending}", "rows")
