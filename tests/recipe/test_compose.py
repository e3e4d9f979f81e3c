from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dilkit.errors import UsageError
from dilkit.models import ModelConfig
from dilkit.recipe import compose, resolved, shipped, to_yaml
from dilkit.recipe.layers import Layer, overlay, read_layer


def write(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_recipe_validates_and_survives_yaml(name: str, tmp_path: Path) -> None:
    recipe = compose([name]).recipe
    again = compose([write(tmp_path, "again.yaml", to_yaml(resolved(recipe)))]).recipe
    assert again == recipe


def test_the_papers_recipe_is_the_papers_setting() -> None:
    recipe = compose(["denoise-gaussian"]).recipe
    assert {"name": recipe.model.name, **recipe.model.arguments()} == {
        "name": "rrdb",
        "width": 64,
        "blocks": 23,
        "growth": 32,
        "scale": 1,
        "bias": True,
        "skip": False,
    }
    plain = {key: field.default for key, field in ModelConfig.model_fields.items() if key != "name"}
    assert {key: getattr(recipe.model, key) for key in plain} == plain, "nothing stands around the net"
    assert recipe.objective.name == "dil_sf"
    assert recipe.objective.inner.betas == (0.0, 0.999)
    assert (recipe.data.batch, recipe.data.crop, recipe.data.pairing) == (8, 64, "independent")
    assert recipe.optim.lr == recipe.objective.inner.lr == 1e-4


def test_overrides_are_typed_by_the_schema() -> None:
    words = ["denoise-gaussian", "optim.lr=1e-4", "data.store=10", "model.equivariant=true", "seed=3"]
    recipe = compose(words).recipe
    assert recipe.optim.lr == 1e-4
    assert recipe.data.store == "10"
    assert recipe.model.equivariant == "contrast"
    assert recipe.seed == 3


def test_the_order_of_overrides_does_not_matter() -> None:
    a = compose(["denoise-gaussian", "objective.name=dil_sf", "objective.inner.lr=3e-4"]).recipe
    b = compose(["denoise-gaussian", "objective.inner.lr=3e-4", "objective.name=dil_sf"]).recipe
    assert a == b
    assert a.objective.inner.lr == 3e-4


def test_each_objective_brings_its_own_settings() -> None:
    small = compose(["denoise-gaussian-small", "objective=lookahead"]).recipe
    assert small.objective.inner.lr == 1e-3
    chosen = resolved(compose(["denoise-gaussian-small"]).recipe)["objective"]
    assert chosen == {"name": "erm", "together": False}


def test_a_section_of_another_name_starts_afresh() -> None:
    recipe = compose(["denoise-gaussian", "model=dncnn"]).recipe
    assert recipe.model.name == "dncnn"
    assert recipe.model.skip is True, "the rrdb's `skip: false` must not leak into the dncnn"


def test_a_budget_replaces_the_budget_below() -> None:
    recipe = compose(["denoise-gaussian", "passes=400"]).recipe
    assert (recipe.passes, recipe.epochs) == (400, None)


def test_extends_merges_left_to_right_and_beside_the_file(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "extends: denoise-gaussian\nseed: 1\noptim: {lr: 1e-3}\n")
    write(tmp_path, "b.yaml", "seed: 2\n")
    recipe = compose([write(tmp_path, "c.yaml", "extends: [a.yaml, b.yaml]\nloss: l2\n")]).recipe
    assert (recipe.seed, recipe.optim.lr, recipe.loss) == (2, 1e-3, "l2")


def test_a_circle_of_extends_is_named(tmp_path: Path) -> None:
    a = write(tmp_path, "a.yaml", "extends: b.yaml\n")
    write(tmp_path, "b.yaml", "extends: a.yaml\n")
    with pytest.raises(UsageError, match="circle") as caught:
        compose([a])
    assert str(caught.value).count("a.yaml") >= 2


MISTAKES = [
    ("optmi: {lr: 1}", 2, "optim"),
    ("optim:\n  lrr: 1", 3, "optim.lr"),
    ("lr: 1e-3", 2, "optim.lr"),
    ("model:\n  name: dncn", 3, "dncnn"),
    ("objective:\n  name: dil_sff", 3, "dil_sf"),
    ("objective:\n  name: dil_sf\n  inner:\n    lrr: 1", 5, "objective.inner.lr"),
    ("data:\n  pairing: pair", 3, "paired"),
    ("objectives:\n  dil_sf:\n    inner: {lrr: 3}", 4, "objective.inner.lr"),
]


@pytest.mark.parametrize(("text", "line", "suggestion"), MISTAKES)
def test_a_misspelling_is_found_with_its_line(text: str, line: int, suggestion: str, tmp_path: Path) -> None:
    path = write(tmp_path, "mine.yaml", f"extends: denoise-gaussian-small\n{text}\n")
    with pytest.raises(UsageError) as caught:
        compose([path])
    assert str(caught.value.where) == f"{path}:{line}"
    assert caught.value.nearest == suggestion


def test_a_wrong_type_names_key_found_and_expected(tmp_path: Path) -> None:
    path = write(tmp_path, "mine.yaml", "extends: denoise-gaussian\noptim:\n  lr: fast\n")
    with pytest.raises(UsageError) as caught:
        compose([path])
    text = str(caught.value)
    assert f"{path}:3" in text
    assert "optim.lr" in text
    assert "'fast'" in text
    assert "number" in text


def test_an_override_that_is_wrong_is_quoted() -> None:
    with pytest.raises(UsageError, match=r"optim\.lr=-1"):
        compose(["denoise-gaussian", "optim.lr=-1"])


def test_an_unknown_recipe_has_a_suggestion() -> None:
    with pytest.raises(UsageError) as caught:
        compose(["denoise-gausian"])
    assert caught.value.nearest == "denoise-gaussian"


def test_broken_yaml_says_where(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        compose([write(tmp_path, "mine.yaml", "seed: 1\nmodel: [\n")])
    assert "mine.yaml:3" in str(caught.value)


def test_two_budgets_are_refused() -> None:
    with pytest.raises(UsageError, match="one budget") as caught:
        compose(["denoise-gaussian", "steps=3", "passes=4"])
    assert caught.value.found == "steps=3, passes=4"
    with pytest.raises(UsageError, match="one budget") as caught:
        compose(["dncnn"])
    assert caught.value.found == "none of them"


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["steps=4"], "model=dncnn"),
        (["demo", "optim.schedule={name: step}"], "optim.schedule.every=VALUE"),
        (["demo", "data.sources=photos", "data.distort=awgn(5)"], "[photos]"),
        (["demo", "validate.images=Set5"], "[Set5]"),
        (["demo", "log.to=tensorboard"], "[tensorboard]"),
    ],
)
def test_what_is_missing_or_should_be_a_list_has_a_remedy(words: list[str], remedy: str) -> None:
    with pytest.raises(UsageError) as caught:
        compose(words)
    assert remedy in str(caught.value.remedy)


def test_the_folder_of_a_run_suggests_its_recipe(tmp_path: Path) -> None:
    path = write(tmp_path, "recipe.yaml", "extends: demo\n")
    with pytest.raises(UsageError) as caught:
        compose([str(tmp_path)])
    assert caught.value.nearest == path


scalars = st.integers(0, 3) | st.sampled_from(["a", "b"])
trees = st.dictionaries(
    st.sampled_from("pqr"), scalars | st.dictionaries(st.sampled_from("pqr"), scalars, max_size=2), max_size=3
)


@given(a=trees, b=trees, c=trees)
@settings(max_examples=60)
def test_merging_layers_is_idempotent_and_the_last_word_wins(a: dict, b: dict, c: dict) -> None:
    both = overlay(Layer(a), Layer(b))
    assert overlay(both, Layer(b)).tree == both.tree
    assert overlay(Layer({}), Layer(a)).tree == a == overlay(Layer(a), Layer({})).tree
    for key, value in b.items():
        if not isinstance(value, dict):
            assert both.tree[key] == value


def test_yaml_1_2_numbers_and_words() -> None:
    assert read_layer("a: 1e-4\nb: on\nc: 1.0e-3", "x").tree == {"a": 1e-4, "b": "on", "c": 1e-3}
