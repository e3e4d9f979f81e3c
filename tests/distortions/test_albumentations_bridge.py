"""Both ways with albumentations: ours in its pipelines, its transforms and pipelines as words."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dilkit.distortions import (
    REGISTRY,
    SampleKey,
    as_float,
    awgn,
    clip,
    confounder_set,
    from_albumentations,
    gaussian_blur,
    jpeg,
    mix,
    parse,
    pixel_hash,
    shuffle,
    to_albumentations,
    uniform,
)
from dilkit.distortions.albumentations import Distort, library, transform_class
from dilkit.distortions.algebra import REQUIRED
from dilkit.errors import UsageError

A = library()
U8 = np.random.default_rng(7).integers(0, 256, (48, 48, 3), dtype=np.uint8)
IMAGE = as_float(U8)


def _arguments(kind):
    """Something allowed for every required parameter."""

    def pick(param):
        if param.choices:
            return param.choices[0]
        low, high = max(param.low, 0), min(param.high, 6)
        return int((low + high) / 2) if param.type is int else (low + high) / 2

    return {param.name: pick(param) for param in kind.params if param.default is REQUIRED}


@pytest.mark.parametrize("name", [name for name in REGISTRY if name not in ("alb", "pairs")])
def test_every_kind_is_a_transform_with_the_bits_of_its_word(name):
    kind = REGISTRY.get(name)
    params = _arguments(kind)
    transform = transform_class(kind)(**params, root_seed=5)
    assert isinstance(transform, A.ImageOnlyTransform)
    word = kind(**params).apply(IMAGE, SampleKey(5, pixel_hash(IMAGE)))
    revived = A.from_dict(json.loads(json.dumps(A.to_dict(transform))))
    unpickled = pickle.loads(pickle.dumps(transform))  # noqa: S301
    for same in (transform, revived, unpickled):
        assert same(image=IMAGE)["image"].tobytes() == word.tobytes()


def test_uint8_images_come_back_as_uint8():
    made = transform_class(awgn)(sigma=25, root_seed=5)(image=U8)["image"]
    word = (awgn(25) >> clip).apply(IMAGE, SampleKey(5, pixel_hash(U8)))
    assert made.dtype == np.uint8
    np.testing.assert_array_equal(made, np.rint(word * 255))


def test_wrong_arguments_of_a_transform_are_refused():
    with pytest.raises(UsageError, match="did you mean: sigma"):
        transform_class(awgn)(sigm=5)


def test_a_word_inside_anybodys_compose():
    pipeline = A.Compose(
        [A.HorizontalFlip(p=1.0), Distort("gaussian_blur(2) >> awgn(25)", root_seed=1)], strict=True
    )
    flipped = np.ascontiguousarray(IMAGE[:, ::-1])
    word = (gaussian_blur(2) >> awgn(25)).apply(flipped, SampleKey(1, pixel_hash(flipped)))
    assert pipeline(image=IMAGE)["image"].tobytes() == word.tobytes()
    again = A.from_dict(A.to_dict(pipeline))
    assert again(image=IMAGE)["image"].tobytes() == word.tobytes()


def test_without_a_root_seed_the_pipeline_draws_it():
    pipeline = A.Compose([Distort("awgn(25)"), Distort("awgn(25)")], seed=3)
    first, second = (pipeline(image=np.full((96, 96, 3), 0.5, np.float32))["image"] for _ in range(2))
    assert not np.array_equal(first, second)
    assert (first - 0.5).std() * 255 == pytest.approx(25 * 2**0.5, rel=0.03)  # two noises, not one twice


def test_a_new_process_reads_a_pipeline():
    text = json.dumps(A.to_dict(A.Compose([transform_class(awgn)(sigma=25, root_seed=3)])))
    code = (
        "import sys, json; from dilkit.distortions import from_albumentations; "
        "print(from_albumentations(json.loads(sys.argv[1])))"
    )
    done = subprocess.run([sys.executable, "-c", code, text], capture_output=True, text=True, check=True)
    assert done.stdout == "awgn(25)\n"


PIECES = [
    "awgn(25)", "clean", "clip", "quantize(bits=5)", "jpeg(30)", "awgn(uniform(1, 30))",
    "clip >> alb('RandomGamma')", "alb('MotionBlur', blur_limit=[3, 9])",
]  # fmt: skip
pieces = st.sampled_from([parse(piece) for piece in PIECES])
trees = st.recursive(
    pieces,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda two: two[0] >> two[1]),
        st.lists(st.tuples(st.integers(1, 99), inner), min_size=2, max_size=3).map(
            lambda branches: mix(*(weight * word for weight, word in branches))
        ),
        st.lists(inner, min_size=2, max_size=3).map(lambda words: shuffle(*words)),
    ),
    max_leaves=6,
)


@given(trees)
@settings(max_examples=40, deadline=None)
def test_words_survive_the_journey(word):
    pipeline = to_albumentations(word)
    assert isinstance(pipeline, A.Compose)
    assert from_albumentations(pipeline).hash == word.hash
    assert from_albumentations(json.loads(json.dumps(A.to_dict(pipeline)))).hash == word.hash
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pipeline(image=IMAGE)["image"].shape == IMAGE.shape


@pytest.mark.parametrize(
    "expression",
    ["bsrgan", "real-esrgan-1", "real-esrgan-2", "resize(0.5) >> jpeg(30) >> prob(1, resize(2, of='clean'))"],
)
def test_a_resize_to_a_part_of_the_clean_image_keeps_its_size(expression):
    """Alone in a transform, it would take the shrunk image for the clean one."""
    word = parse(expression)
    pipeline = to_albumentations(word)
    assert from_albumentations(json.loads(json.dumps(pipeline.to_dict()))).hash == word.hash
    expected = word.apply(IMAGE, SampleKey(0, pixel_hash(IMAGE))).shape
    for _ in range(12):
        assert pipeline(image=U8)["image"].shape == expected
    assert len(to_albumentations("resize(0.5, of='clean') >> awgn(5) >> clip").transforms) == 3


def test_sets_are_pipelines_by_label():
    sigmas = awgn[5, 10] | jpeg(30)
    pipelines = to_albumentations(sigmas)
    assert tuple(pipelines) == sigmas.labels
    assert from_albumentations(pipelines).hash == sigmas.hash
    assert from_albumentations({label: A.to_dict(p) for label, p in pipelines.items()}).hash == sigmas.hash


def test_pipelines_of_others_become_words():
    pipeline = A.Compose(
        [
            A.MotionBlur(p=0.3),
            A.OneOf([A.GaussNoise(p=0.5), A.SomeOf([A.Blur(p=0.5), A.ISONoise(p=0.5)], n=1, p=0.5)], p=0.9),
            A.RandomOrder([A.RandomGamma(p=1), A.Blur(p=1)], n=2),
        ]
    )
    assert str(from_albumentations(pipeline)) == (
        "prob(0.3, alb('MotionBlur')) >> "
        "mix(70*clean, 9*alb('Blur'), 9*alb('ISONoise'), 72*alb('GaussNoise')) >> "
        "shuffle(alb('Blur'), alb('RandomGamma'))"
    )


@pytest.mark.parametrize(
    ("transform", "text"),
    [
        (lambda: A.RGBShift(r_shift_limit=(3, 4), p=1), "alb('RGBShift', r_shift_limit=[3, 4])"),
        (lambda: A.SafeRotate(limit=(3, 30), p=1), "alb('SafeRotate', spatial=True, limit=[3, 30])"),
        (lambda: A.PadIfNeeded(min_height=64, p=1), "alb('PadIfNeeded', spatial=True, min_height=64)"),
        (lambda: A.PlasmaShadow(p=1), "alb('PlasmaShadow')"),
        (lambda: A.FrequencyMasking(freq_mask_param=5, p=1), "alb('FrequencyMasking', freq_mask_param=5)"),
        (lambda: A.TimeMasking(p=1), "alb('TimeMasking')"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*specialized version:UserWarning")
def test_a_transform_that_states_more_than_it_takes_becomes_a_word(transform, text):
    made = from_albumentations(A.Compose([transform()]), spatial=True)
    assert str(made) == text
    assert parse(text) == made
    assert from_albumentations(to_albumentations(made), spatial=True) == made
    assert from_albumentations(json.loads(json.dumps(A.to_dict(transform()))), spatial=True) == made


@pytest.mark.parametrize("name", ["HorizontalFlip", "Rotate", "RandomCrop", "Affine", "D4", "GridDistortion"])
def test_transforms_that_move_pixels_are_refused_unless_they_are_asked_for(name):
    settings = {"height": 8, "width": 8} if name == "RandomCrop" else {}
    with pytest.raises(UsageError, match=r"no longer match the clean one(.|\n)*spatial=True"):
        REGISTRY.get("alb")(name, **settings)
    with pytest.raises(UsageError, match="no longer match the clean one"):
        from_albumentations(A.Compose([getattr(A, name)(**settings)]))
    word = REGISTRY.get("alb")(name, **settings, spatial=True)
    assert parse(str(word)) == word
    assert word.apply(IMAGE, SampleKey(0, b"")).ndim == 3


@pytest.mark.parametrize(
    ("name", "needs"),
    [
        ("FDA", "reference images"),
        ("HistogramMatching", "reference images"),
        ("TextImage", "a font"),
        ("OverlayElements", "images as metadata"),
        ("MaskDropout", "a mask"),
        ("BBoxSafeRandomCrop", "boxes"),
    ],
)
def test_transforms_that_need_more_than_an_image_say_so(name, needs):
    with pytest.raises(UsageError, match=f"{name} needs {needs}"):
        parse(f"alb('{name}')")


def _dict(name, **fields):
    return {"transform": {"__class_fullname__": name, "p": 1.0} | fields}


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (_dict("MotionBlur", blur_limt=[9, 9]), "no parameter 'blur_limt'(.|\n)*did you mean: blur_limit"),
        (_dict("Compose", transforms=[_dict("MotionBlur", angel=3)["transform"]]), "no parameter 'angel'"),
        (_dict("MotionBlur", blur_limit="x"), "refuses the pipeline(.|\n)*blur_limit"),
        ({"transform": 3}, "refuses the pipeline"),
        (_dict(3), "refuses the pipeline"),
        (_dict("Compose"), "refuses the pipeline(.|\n)*transforms"),
        (_dict("OneOf", transforms=[_dict("Blur", p=0)["transform"]]), "every member has p=0"),
    ],
)
def test_a_wrong_dict_is_refused(wrong, says):
    with pytest.raises(UsageError, match=says):
        from_albumentations(wrong)


def test_a_choice_of_nothing_is_refused():
    pipeline = A.OneOf([A.Blur(p=1)])
    pipeline.transforms[0].p = 0
    with pytest.raises(UsageError, match="every member has p=0"):
        from_albumentations(pipeline)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: A.SomeOf([A.Blur()], n=1, replace=True), "replacement"),
        (lambda: A.Compose([A.Blur()], bbox_params={"format": "coco", "label_fields": []}), "boxes"),
        (lambda: A.SelectiveChannelTransform([A.Blur()]), "no counterpart"),
        (lambda: {"transform": {"__class_fullname__": "Nothing", "p": 1.0}}, "unknown class"),
        (lambda: A.FDA(reference_images=[U8], read_fn=lambda x: x), "needs reference images"),
        (lambda: A.Lambda(image=np.flipud), "cannot be written down"),
        (lambda: "awgn(5)", "not a pipeline"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_what_has_no_counterpart_is_named(wrong, says):
    with pytest.raises(UsageError, match=says):
        from_albumentations(wrong())


def test_alb_is_the_transform_with_a_key_of_ours():
    word = parse("alb('MotionBlur', blur_limit=[7, 15])")
    key = SampleKey(1, pixel_hash(IMAGE))
    made = word.apply(IMAGE, key)
    np.testing.assert_array_equal(made, word.apply(IMAGE, key))
    assert not np.array_equal(made, word.apply(IMAGE, SampleKey(2, pixel_hash(IMAGE))))
    assert parse("alb('MotionBlur', blur_limit=(7, 15), angle_range=(0, 360))") == word
    assert confounder_set(str(word)).labels == ("alb(MotionBlur,blur_limit=[7,15])",)


def test_the_pinned_version_is_in_the_hash():
    assert (A.__version__, REGISTRY.get("alb").version) == ("2.0.8", 20008)


@pytest.mark.parametrize(
    "name", ["Blur", "ISONoise", "CoarseDropout", "Sharpen", "ImageCompression", "Downscale"]
)
def test_library_transforms_round_trip(name):
    word = parse(f"alb('{name}')")
    assert str(word) == f"alb('{name}')"
    assert word.apply(IMAGE, SampleKey(1, b"")).dtype == np.float32


def test_alb_takes_values_beyond_the_range_of_the_library():
    word = parse("awgn(200) >> alb('RandomGamma')")
    assert np.isfinite(word.apply(IMAGE, SampleKey(1, b""))).all()


def test_importing_the_algebra_does_not_import_albumentations():
    code = "import sys, dilkit.distortions; print({'albumentations', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_laws_of_chance_pass_through():
    transform = transform_class(awgn)(sigma=uniform(1, 30), root_seed=2)
    assert from_albumentations(A.to_dict(transform)) == awgn(uniform(1, 30))
    word = awgn(uniform(1, 30)).apply(IMAGE, SampleKey(2, pixel_hash(IMAGE)))
    assert transform(image=IMAGE)["image"].tobytes() == word.tobytes()
    assert transform_class(jpeg)(quality=30).kind is jpeg


def test_the_library_comes_without_torch_and_its_tensors_when_they_are_asked_for():
    code = """if True:
        import sys
        import numpy as np
        from dilkit.distortions import SampleKey, parse
        image = np.zeros((8, 9, 3), np.float32)
        parse("alb('Sharpen')").apply(image, SampleKey(0, b""))
        import albumentations as A
        assert "torch" not in sys.modules and not hasattr(A, "ToTensor")
        print(A.Compose([A.ToTensorV2()])(image=image)["image"].shape)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "torch.Size([3, 8, 9])\n", done.stderr
