from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from dilkit.cli.app import app
from typer.testing import CliRunner

from dilkit.errors import UsageError
from dilkit.recipe import compose, differences, json_schema, origins, parts, resolved, shipped
from dilkit.recipe.layers import read_layer

ROOMS = {room: [n for n, (r, _) in parts().items() if r == room] for room, _ in parts().values()}


def run(*words: str) -> str:
    result = CliRunner().invoke(app, ["recipes", *words], catch_exceptions=False)
    assert result.exit_code in (0, 1), result.output
    return result.output


def test_every_model_objective_and_data_part_combine() -> None:
    for model, objective, data in itertools.product(ROOMS["model"], ROOMS["objective"], ROOMS["data"]):
        recipe = compose(["denoise-gaussian-small", model, objective, data]).recipe
        assert recipe.objective.name == objective


@pytest.mark.parametrize("recipe", shipped())
def test_every_recipe_takes_every_budget_and_hardware(recipe: str) -> None:
    for budget, hardware in itertools.product(ROOMS["budget"], ROOMS["hardware"]):
        compose([recipe, budget, hardware])


def test_parts_of_another_kind_leave_each_other_alone() -> None:
    one = resolved(compose(["demo", "swinir", "dil_ps", "trial", "independent"]).recipe)
    other = resolved(compose(["demo", "independent", "trial", "dil_ps", "swinir"]).recipe)
    assert one == other


@pytest.mark.parametrize("recipe", shipped())
def test_what_a_recipe_trains_on_parses_and_is_never_tested_on(recipe: str) -> None:
    from dilkit.distortions import confounder_set
    from dilkit.recipe import refuse_leaks

    made = compose([recipe]).recipe
    text = Path(f"recipes/{recipe}.yaml").read_text() if Path(f"recipes/{recipe}.yaml").exists() else ""
    commented = re.search(r'--distort "?(.+?)"?(?: --out|\n  store)', re.sub(r"\n\s*#", "", text), re.S)
    if made.data.distort is not None:
        assert len(confounder_set(made.data.distort)) >= (1 if recipe == "denoise-ood-15" else 3)
    elif commented:
        expression = commented.group(1).split('"')[0].split(" --out")[0].replace("rain-light", "rain_light")
        seen = confounder_set(expression)
        assert len(seen) >= 3
        refuse_leaks(made, list(seen))


def test_the_tasks_have_their_cpu_siblings() -> None:
    tasks = {"denoise-gaussian", "deblur-gaussian", "hybrid", "real-denoise", "real-sr", "derain"}
    names = set(shipped())
    assert tasks <= names
    assert {f"{task}-small" for task in tasks} <= names


def test_a_part_keeps_the_description_of_the_recipe() -> None:
    assert compose(["demo", "trial"]).recipe.description == compose(["demo"]).recipe.description


def test_a_source_replaces_the_store_and_back() -> None:
    live = compose(["demo", "synthetic"]).recipe.data
    assert (live.store, live.sources) == (None, ["deadleaves:64"])
    stored = compose(["demo", "synthetic", "data.store=x.h5"]).recipe.data
    assert (stored.store, stored.sources, stored.distort) == ("x.h5", None, None)


def test_origins_name_file_and_flag() -> None:
    rows = {key: where for key, _, where in origins(compose(["demo", "dil_sf", "optim.lr=2e-3"]))}
    assert rows["optim.lr"] == "command line, optim.lr=2e-3"
    assert re.fullmatch(r"demo\.yaml:\d+", rows["model.depth"])
    assert re.fullmatch(r"denoise-gaussian-small\.yaml:\d+", rows["objective.inner.lr"])
    assert rows["objective.name"] == "part dil_sf"
    assert rows["optim.eps"] == "default"


def test_the_json_schema_accepts_recipes_and_knows_their_keys() -> None:
    schema = json_schema()
    assert {"extends", "objectives", "validate", "model"} <= schema["properties"].keys()
    assert not schema["additionalProperties"]
    json.dumps(schema)


def test_compose_cp_diff_show_and_schema(tmp_path: Path) -> None:
    mine, copy = tmp_path / "mine.yaml", tmp_path / "copy.yaml"
    run("compose", "demo", "dil_ps", "steps=7", "--out", str(mine))
    assert compose([str(mine)]).recipe == compose(["demo", "dil_ps", "steps=7"]).recipe
    run("cp", "denoise-gaussian-small", str(copy))
    assert "# 57,251 parameters" in copy.read_text(), "comments come along"
    assert "steps: None -> 7" in run("diff", "demo", str(mine))
    assert "no difference" in run("diff", "demo", "demo")
    assert "# denoise-gaussian-small.yaml:" in run("show", "demo", "--origin")
    assert read_layer(run("show", "demo"), "x").tree == resolved(compose(["demo"]).recipe)
    assert json.loads(run("schema"))["title"] == "Recipe"
    with pytest.raises(UsageError, match="exists"):
        run("cp", "demo", str(copy))


def test_ls_lists_every_recipe_and_part() -> None:
    listed = run("ls")
    for name in (*shipped(), *parts()):
        assert re.search(rf"^  {re.escape(name)}\b", listed, re.M), name


def test_validate_tells_every_mistake(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: demo\nsede: 1\n")
    (tmp_path / "b.yaml").write_text("extends: dmeo\n")
    result = CliRunner().invoke(
        app, ["recipes", "validate", str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml"), "demo"]
    )
    assert result.exit_code == 2
    assert "did you mean: seed?" in result.output
    assert "did you mean: demo?" in result.output
    assert "demo: valid" in result.output


def test_differences_are_by_key() -> None:
    assert differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}) == ["a.c: 2 -> 3"]


def test_composing_imports_no_torch() -> None:
    code = (
        "import sys; from dilkit.recipe import compose; compose(['demo', 'swinir', 'dil_ps']);"
        "bad = {'torch', 'albumentations', 'cv2', 'h5py', 'pandas'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_key_is_described() -> None:
    schema = json_schema()
    sections = {"recipe": schema, **{k: v for k, v in schema["$defs"].items() if "Config" not in k}}
    bare = [
        f"{k}.{key}"
        for k, v in sections.items()
        for key, of in v["properties"].items()
        if not of.get("description")
    ]
    assert not bare
