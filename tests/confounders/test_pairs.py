"""Real pairs are confounders beside synthetic ones, and pairs that are none are named."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from PIL import Image

from dilkit.confounders.build import augment, plan_for
from dilkit.confounders.combine import add, drop, merge, shard_path
from dilkit.confounders.episodes import EpisodeSampler
from dilkit.confounders.images import Pairs, SwappedPairs, dead_leaves, read_image
from dilkit.confounders.inspect import draw, rows_of_store, statistics, summarize, verify
from dilkit.confounders.live import LiveStore
from dilkit.confounders.scenes import scene
from dilkit.confounders.store import Store
from dilkit.distortions import SampleKey, as_float, confounder_set
from dilkit.distortions.novelty import novelty, type_of
from dilkit.errors import DilkitError, UsageError

Degrade = Callable[[np.ndarray, int], np.ndarray]


def noisy(image: np.ndarray, k: int) -> np.ndarray:
    noise = np.random.default_rng(k).normal(0, 20, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def write(folder: Path, name: str, pixels: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder / name)


def make_pairs(folder: Path, degrade: Degrade = noisy, count: int = 4, first: int = 0) -> str:
    for k in range(first, first + count):
        image = dead_leaves(5, k, 96)
        write(folder / "clean", f"{k}.png", image)
        write(folder / "rain", f"{k}.png", degrade(image, k))
    return f"rain={folder / 'clean'}:{folder / 'rain'}"


@pytest.fixture
def pairs(tmp_path: Path) -> str:
    """Four pairs of 96 x 96."""
    return make_pairs(tmp_path / "set")


@pytest.mark.parametrize("storage", ["stored", "virtual"])
def test_pairs_and_clean_images_mix_in_one_dataset(pairs: str, tmp_path: Path, storage: str) -> None:
    built = augment(
        "deadleaves:3@96", "awgn(5) | gaussian_blur(1)", tmp_path / "x.h5", pairs=[pairs], tile=48,
        storage=storage, workers=2,  # type: ignore[arg-type]
    )  # fmt: skip
    store = Store(built.path)
    assert built.images == 7 and len(store) == 28
    assert store.labels == ("awgn(5)", "gaussian_blur(1)", "rain")
    assert store.has("awgn(5)").all() and store.has("rain").tolist() == [False] * 12 + [True] * 16
    for item in np.flatnonzero(store.has("rain")).tolist():
        name = Path(store.index["source"][item].decode()).name
        y, x = (int(store.index[side][item]) for side in "yx")
        whole = read_image(tmp_path / "set" / "rain" / name)
        assert np.array_equal(store.view(item, "rain"), whole[y : y + 48, x : x + 48])
    with pytest.raises(UsageError, match=r"no such view(.|\n)*rain"):
        store.view(0, "rain")
    assert verify(built.path).sound
    with h5py.File(built.path) as file:
        assert file["clean"].shape == file["distorted/rain"].shape == (28, 48, 48, 3)
        assert np.array_equal(file["distorted/rain"][20], store.view(20, "rain"))
        assert not file["distorted/rain"][0].any()


def test_a_dataset_of_pairs_alone_needs_no_expression(pairs: str, tmp_path: Path) -> None:
    store = Store(augment([], [], tmp_path / "x.h5", pairs=[pairs], tile=0).path)
    assert store.labels == ("rain",) and len(store) == 4 and store.has("rain").all()
    found = statistics(store)["rain"]
    assert 20 < found["psnr"] < 24
    draw(rows_of_store(store), tmp_path / "look.png")
    assert summarize(store.path)["confounders"][0]["real"]


def test_several_degraded_sets_share_their_clean_images(pairs: str, tmp_path: Path) -> None:
    for k in range(4):
        heavy = noisy(noisy(dead_leaves(5, k, 96), 50 + k), 90 + k)
        write(tmp_path / "set" / "heavy", f"{k}.png", heavy)
    second = pairs.replace("rain=", "heavy=").replace(
        ":" + str(tmp_path / "set" / "rain"), f":{tmp_path}/set/heavy"
    )
    built = augment(tmp_path / "set" / "clean", "awgn(5)", tmp_path / "x.h5", pairs=[pairs, second], tile=0)
    store = Store(built.path)
    assert built.images == 4 and {"rain", "heavy", "awgn(5)"} == {*store.labels}
    episode = EpisodeSampler(store, batch=2, crop=32).episode(0)
    assert set(episode.views) == {*store.labels} and episode.clean.shape == (2, 3, 32, 32)


def test_pairs_of_other_images_train_independently(tmp_path: Path) -> None:
    one, other = (make_pairs(tmp_path / n, first=f) for n, f in (("a", 0), ("b", 40)))
    store = Store(
        augment([], [], tmp_path / "x.h5", pairs=[one, other.replace("rain=", "snow=", 1)], tile=0).path
    )
    with pytest.raises(UsageError, match=r"no item has all the confounders(.|\n)*pairing=independent"):
        EpisodeSampler(store, batch=2, crop=32)
    sampler = EpisodeSampler(store, batch=2, crop=32, pairing="independent")
    for step in range(6):
        sampler.episode(step)
        for label in store.labels:
            assert all(store.has(label)[pick.item] for pick in sampler.picks(step, label))


def test_a_live_store_reads_the_pairs_themselves(pairs: str, tmp_path: Path) -> None:
    stored = Store(augment([], "awgn(5)", tmp_path / "x.h5", pairs=[pairs], tile=48, seed=2).path)
    live = LiveStore([], "awgn(5)", pairs=[pairs], tile=48, stride=48, seed=2)
    assert live.labels == stored.labels
    for item in (0, 7, 15):
        for label in live.labels:
            assert np.array_equal(live.view(item, label), stored.view(item, label)), (item, label)
    assert live.seen_images().holds(dead_leaves(5, 3, 96))


def test_shards_with_pairs_join_and_a_dataset_with_pairs_grows(pairs: str, tmp_path: Path) -> None:
    for k in (1, 2):
        augment("deadleaves:3@96", "awgn(5)", shard_path(tmp_path / "p.h5", k, 2), pairs=[pairs], tile=48,
                shard=(k, 2))  # fmt: skip
    joined = Store(merge([shard_path(tmp_path / "p.h5", k, 2) for k in (1, 2)], tmp_path / "p.h5"))
    whole = Store(augment("deadleaves:3@96", "awgn(5)", tmp_path / "w.h5", pairs=[pairs], tile=48).path)
    assert np.array_equal(joined.has("rain"), whole.has("rain")) and verify(joined.path).sound
    assert np.array_equal(joined.view(27, "rain"), whole.view(27, "rain"))
    add(whole.path, "jpeg(30)")
    drop(whole.path, "awgn(5)")
    grown = Store(whole.path)
    assert grown.labels == ("jpeg(30)", "rain") and verify(grown.path).sound
    assert np.array_equal(joined.view(27, "rain"), grown.view(27, "rain"))


def test_every_set_of_pairs_is_a_type_of_its_own() -> None:
    trained = confounder_set("pairs('rain100l') | awgn(5)")
    other, seen = confounder_set("pairs('did-mdn') | pairs('rain100l')")
    assert novelty(seen, trained) == "seen" and novelty(other, trained) == "type"
    assert type_of(seen) != type_of(other)


@pytest.mark.parametrize("form", ["csv", "json"])
def test_a_list_says_what_belongs_together(tmp_path: Path, form: str) -> None:
    make_pairs(tmp_path / "set")
    rows = [[f"set/clean/{k}.png", f"set/rain/{k}.png"] for k in (2, 0)]
    file = tmp_path / f"list.{form}"
    text = json.dumps(rows) if form == "json" else "\n".join(["clean,degraded", *map(",".join, rows)])
    file.write_text(text)
    found = Pairs.parse(f"rain={file}").files()
    assert [clean.name for clean, _ in found] == ["rain/2.png", "rain/0.png"]
    file.write_text(text.replace("set/rain/0", "set/rain/9"))
    with pytest.raises(UsageError, match=r"names no file(.|\n)*9.png"):
        Pairs.parse(f"rain={file}").files()


def test_names_are_matched_by_patterns_and_by_what_goes_on_behind_them(tmp_path: Path) -> None:
    for k in range(2):
        image = dead_leaves(5, k, 96)
        write(tmp_path / "scenes", f"s{k}_mean.png", image)
        write(tmp_path / "scenes", f"s{k}_real.png", noisy(image, k))
        write(tmp_path / "clean", f"s{k}.png", image)
        for j in range(3):
            write(tmp_path / "many", f"s{k}_{j}.png", noisy(image, 10 * k + j))
    scenes = tmp_path / "scenes"
    assert len(Pairs("p", f"{scenes}/*_mean.png", f"{scenes}/*_real.png").files()) == 2
    many = Pairs("p", str(tmp_path / "clean"), str(tmp_path / "many"))
    assert [clean.name for clean, _ in many.files()] == ["clean/s0.png"] * 3 + ["clean/s1.png"] * 3
    built = augment([], [], tmp_path / "x.h5", pairs=[many], tile=0, allow_duplicates=True)
    store = Store(built.path)
    assert built.images == 6
    assert [store.view(k, "p").tobytes() for k in (1, 5)] == [
        read_image(tmp_path / "many" / name).tobytes() for name in ("s0_1.png", "s1_2.png")
    ]


def test_smaller_degraded_images_give_the_scale(tmp_path: Path) -> None:
    pairs = make_pairs(tmp_path / "set", lambda image, k: image[::2, ::2])
    store = Store(augment([], [], tmp_path / "x.h5", pairs=[pairs], tile=48, allow_misaligned=True).path)
    assert store.scale("rain") == 2 and store.view(3, "rain").shape == (24, 24, 3)
    make_pairs(tmp_path / "set", lambda image, k: image[::3, ::3], count=1)
    with pytest.raises(UsageError, match=r"several scale factors(.|\n)*3 of x2, 1 of x3"):
        augment([], [], tmp_path / "y.h5", pairs=[pairs])


def test_what_is_no_pair_is_named(tmp_path: Path) -> None:
    def build(pairs: str) -> None:
        augment([], [], tmp_path / "x.h5", pairs=[pairs])

    def refused(degrade: Degrade, message: str, name: str) -> None:
        with pytest.raises(UsageError, match=message):
            build(make_pairs(tmp_path / name, degrade))

    refused(lambda image, k: image, r"PSNR is infinite", "same")
    refused(
        lambda image, k: noisy(np.roll(image, (3, -5), (0, 1)), k), r"3 pixels down, -5 to the right", "moved"
    )
    refused(lambda image, k: noisy(dead_leaves(9, k, 96), k), "show different things", "other")
    refused(lambda image, k: image[:90], r"do not go together(.|\n)*clean 96 x 96, degraded 90 x 96", "sizes")
    refused(lambda image, k: image.repeat(2, 0).repeat(2, 1), r"look swapped", "larger")
    refused(lambda image, k: noisy(dead_leaves(5, 0, 96), 0), r"stands in two pairs(.|\n)*0.png and", "twice")
    good = make_pairs(tmp_path / "good")
    clean, rain = tmp_path / "good" / "clean", tmp_path / "good" / "rain"
    with pytest.raises(UsageError, match=r"folders look swapped(.|\n)*--pairs rain="):
        build(f"rain={rain}:{clean}")
    (rain / "3.png").unlink()
    with pytest.raises(UsageError, match=r"do not match(.|\n)*4 clean and 3 degraded; no degraded for 3"):
        build(good)
    (tmp_path / "empty").mkdir()
    for given, message in (
        (f"rain={clean}:{tmp_path / 'empty'}", "holds no images"),
        ("rain", "not a set of pairs"),
        ("a/b=x:y", "not a set of pairs"),
        (f"rain={clean}", "list of pairs cannot be read"),
    ):
        with pytest.raises(UsageError, match=message):
            build(given)
    assert not list(tmp_path.glob("x.h5*"))


def test_swapped_sides_are_told_by_their_content(tmp_path: Path) -> None:
    """Also where no name says so: noise and rain go with the noisy side alone, blur with both."""
    folders = tmp_path / "a", tmp_path / "b"
    for folder in folders:
        folder.mkdir()
    for words, found in (
        ("awgn(15) >> clip", True), ("rain(0.003) >> clip", True), ("gaussian_blur(1.5)", True),
        ("jpeg(30)", False),
    ):  # fmt: skip
        word = next(iter(confounder_set(words)))
        for i in range(3):
            clean = as_float(scene(1, i, 128))
            for folder, image in zip(
                folders, (clean, word.apply(clean, SampleKey(0, bytes([i])))), strict=True
            ):
                levels = np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)
                cv2.imwrite(str(folder / f"{i}.png"), levels[..., ::-1])
        for (first, second), wrong in ((folders, False), (folders[::-1], found)):
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                plan_for([], [], pairs=[f"set={first}:{second}"], tile=0, stride=0)
            assert [w.category for w in told] == [SwappedPairs] * wrong, (words, first)
            assert (
                not told or "3 of 3 pairs" in str(told[0].message) or "2 of 3 pairs" in str(told[0].message)
            )


def test_a_damaged_degraded_image_is_left_out_and_counted(pairs: str, tmp_path: Path) -> None:
    broken = tmp_path / "set" / "rain" / "2.png"
    broken.write_bytes(broken.read_bytes()[:-3000])
    built = augment([], [], tmp_path / "x.h5", pairs=[pairs], tile=0, allow_misaligned=True)
    assert [failure.name for failure in built.failures] == ["clean/2.png"]
    assert [name for name, _ in Store(built.path).left_out()] == ["clean/2.png"]


def test_real_pairs_are_not_made(tmp_path: Path) -> None:
    word = next(iter(confounder_set("pairs('rain')")))
    with pytest.raises(DilkitError, match="read, not made"):
        word.apply(np.zeros((8, 8, 3), np.float32), SampleKey(0, b""))


def test_the_pairs_of_a_camera(shared_data: Path, tmp_path: Path) -> None:
    """PolyU: a hundred real pairs, input PSNR about 36 dB."""
    folder = shared_data / "real" / "PolyU"
    if not folder.is_dir():
        pytest.skip("no real/PolyU in the image folder")
    built = augment(
        [], "awgn(5)", tmp_path / "x.h5", pairs=[f"polyu={folder}/clean:{folder}/noisy"], limit=6, tile=256,
        allow_duplicates=True,
    )  # fmt: skip
    store = Store(built.path)
    assert built.images == 6 and store.has("polyu").all() and not built.failures
    assert 30 < statistics(store)["polyu"]["psnr"] < 42
