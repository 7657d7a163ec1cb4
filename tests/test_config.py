import dataclasses
import json

import pytest

from ctlib.config import (
    ComputeConfig,
    DataConfig,
    ModelConfig,
    RecipeConfig,
    RunConfig,
    pairs_of,
    parse_pairs,
    parse_words,
    split_pairs,
)


def test_a_run_makes_the_round_trip_through_json():
    config = RunConfig(
        name="x", model=ModelConfig(kernels=((1, 1, 1), (3, 3, 3)), dims=(-1, 4)), data=DataConfig(root="/data")
    )
    assert RunConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_a_part_is_swapped_by_replace():
    base = ModelConfig()
    assert dataclasses.replace(base, excitation="se").excitation == "se" and base.excitation == "te"
    with pytest.raises(dataclasses.FrozenInstanceError):
        base.excitation = "se"


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"epohcs": 3}, "unknown key of RecipeConfig 'epohcs': did you mean 'epochs'"),
        ({"epochs": -1}, "epochs must be at least 1, got -1"),
        ({"lr": float("nan")}, "lr must be finite, got nan"),
        ({"clip_norm": 0}, "clip_norm must be above 0, got 0"),
        ({"clip_norm": float("nan")}, "clip_norm must be finite, got nan"),
        ({"momentum": 1.0}, "momentum must be below 1, got 1.0"),
        ({"label_smoothing": 1.5}, "label_smoothing must be at most 1, got 1.5"),
        ({"epochs": 3}, "warmup must be at most the 3 epochs, got 10"),
    ],
)
def test_bad_values(values, text):
    with pytest.raises(ValueError, match=text):
        RecipeConfig.from_dict(values)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"pointwise": "false"}, "pointwise must be bool, got str 'false'"),
        ({"num_frames": 8.0}, "num_frames must be int, got float"),
        ({"num_frames": True}, "num_frames must be int, got bool"),
        ({"kernels": (3, 3)}, "kernels must be"),
        ({"dropout": "0.5"}, "dropout must be float, got str"),
    ],
)
def test_wrong_types(values, text):
    with pytest.raises(TypeError, match=text):
        ModelConfig.from_dict(values)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        ".hidden",
        "a/b",
        "/a",
        "a\\b",
        "a\0",
        "a\n",
        "a\rb",
        "a\x1b[1m",
        "a\u2028",
        "\udcff",
        " a",
        "a" * 201,
    ],
)
def test_a_run_s_name_is_that_of_a_folder(name):
    with pytest.raises(ValueError, match="^name must be a folder's: 1 to 200 bytes, ") as error:
        RunConfig(name=name)
    assert len(str(error.value)) < 300 and str(error.value).isprintable()


def test_other_names_stay_as_they_are(tmp_path):
    for name in ("R(2+1)D, 8 frames", "étude", "実験　1", "a.b", "x" * 200):
        (tmp_path / RunConfig(name=name).name).mkdir()
    with pytest.raises(ValueError, match="name must be"):
        RunConfig(name="é" * 101)


def test_an_old_name_is_an_error_that_names_the_new_one():
    with pytest.raises(ValueError, match="key of ModelConfig 'trunk' was replaced: write backbone"):
        ModelConfig.from_dict({"trunk": "resnet50"})
    with pytest.raises(ValueError, match="frozen 'trunk' was replaced: write backbone"):
        RecipeConfig(frozen="trunk")


def test_words_between_spaces_become_values():
    assert parse_words(" 1  0", int, "numbers") == (1, 0)
    for text in ("", "0 x", "0 0"):
        with pytest.raises(ValueError, match=f"numbers are needed, got {text!r}"):
            parse_words(text, int, "numbers are needed")
    assert parse_pairs("recipe.lr=1e-3 model.dims=[-1,4] data.name=list") == {
        "recipe.lr": 1e-3,
        "model.dims": [-1, 4],
        "data.name": "list",
    }
    assert parse_pairs("data.sampling=null synthetic.groups=3") == {"data.sampling": None, "synthetic.groups": 3}
    with pytest.raises(ValueError, match="overrides are part.name=value separated by spaces, got 'lr=1'"):
        parse_pairs("lr=1")


PATHS = [
    "/my videos/.checked",
    "/Bob's videos/x",
    "/run[1]/a",
    '/a "b"/c',
    "/x=1/y",
    "/2024",
    "[]",
    "2024",
    "true",
    "/a  b",
    "/ä 二/c'd e'f",
]


@pytest.mark.parametrize("path", PATHS)
def test_a_path_in_the_overrides_may_hold_spaces_quotes_and_brackets(path):
    expected = {"recipe.lr": 0.1, "data.lists": path, "model.dims": [-1, 4], "data.root": path}
    plain = "recipe.lr=0.1 data.lists={0} model.dims=[-1, 4] data.root={0}"
    for quoted in (path, json.dumps(path, ensure_ascii=False)):
        assert parse_pairs(plain.format(quoted)) == expected
        assert parse_pairs(" ".join(reversed(split_pairs(plain.format(quoted))))) == expected


@pytest.mark.parametrize(
    "text", ["data.root='/a b=1'", 'data.root="/a b=1"', "'data.root=/a b'", '"data.root=/a b"', "data.root=/a\\ b"]
)
def test_values_and_pairs_may_be_quoted(text):
    assert parse_pairs(f"data.fold=1 {text} recipe.lr=1")["data.root"] in ("/a b", "/a b=1")
    assert parse_pairs(" ") == {} and split_pairs("") == []


def test_a_quoted_value_is_of_the_type_that_its_part_takes():
    text = """model.dims="[-1, 4]" recipe.lr='0.01' data.name="2024" recipe.frozen='none' saliency.threshold="0.3" """
    assert parse_pairs(text) == {
        "model.dims": [-1, 4],
        "recipe.lr": 0.01,
        "data.name": "2024",
        "recipe.frozen": "none",
        "saliency.threshold": "0.3",
    }


def test_a_mapping_is_the_text_of_its_pairs():
    values = {"recipe": {"lr": 0.01}, "data.checked": "/my videos/x=1", "model": {"dims": [-1, 4], "weights": None}}
    parsed = {"recipe.lr": 0.01, "data.checked": "/my videos/x=1", "model.dims": [-1, 4], "model.weights": None}
    assert parse_pairs(pairs_of(values)) == parsed and pairs_of({}) == ""


@pytest.mark.parametrize(
    ("text", "named"), [("videos/x data.fold=1", "videos/x"), ("data.root=/a b=1/c", "b=1/c"), ('data.root="a" b', "b")]
)
def test_what_is_no_pair_is_named(text, named):
    with pytest.raises(ValueError, match=f"overrides are part.name=value separated by spaces, got {named!r}"):
        parse_pairs(text)


def test_a_value_of_any_length_is_quoted_briefly():
    for wrong in ({"backbone": ["x" * 10**7]}, {"dims": "x" * 10**7}, {"x" * 10**7: 1}, {"num_classes": [0] * 10**6}):
        with pytest.raises((ValueError, TypeError)) as error:
            ModelConfig.from_dict(wrong)
        assert len(str(error.value)) < 500
    for parse in (parse_pairs, lambda text: parse_words(text, int, "needed are numbers")):
        with pytest.raises(ValueError, match="xxx") as error:
            parse("x" * 10**7)
        assert len(str(error.value)) < 500


def test_an_integer_serves_as_a_float():
    assert RecipeConfig(lr=1).lr == 1


def test_how_a_run_is_computed_is_checked():
    with pytest.raises(ValueError, match="unknown precision 'half'"):
        ComputeConfig(precision="half")
    with pytest.raises(ValueError, match="micro_batch must be at least 1, got 0"):
        ComputeConfig(micro_batch=0)
    with pytest.raises(ValueError, match="graph does not go with on_error 'skip'"):
        RunConfig(data=DataConfig(on_error="skip"), compute=ComputeConfig(graph=True))
    with pytest.raises(ValueError, match="sync_batch_norm does not go with on_error 'skip'"):
        RunConfig(data=DataConfig(on_error="skip"), compute=ComputeConfig(sync_batch_norm=True))
