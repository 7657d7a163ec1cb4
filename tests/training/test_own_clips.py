import pytest

from ctlib.commands import main
from ctlib.training import own_clips, recipes
from ctlib.training.own_clips import fitted_config


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A folder of 72 clips of 3 classes, as far as lists look at them: 57 to train on."""
    root = tmp_path_factory.mktemp("clips")
    for name in ("falls", "opens", "turns"):
        (root / name).mkdir()
        for index in range(24):
            (root / name / f"{index:02d}.mp4").touch()
    return root


def fitted(root, model="ctnet_quickstart", overrides="", data="folder", recipe="", **given):
    return fitted_config(data, model, recipe, overrides, **{"data.root": str(root), **given})


def test_a_trained_network_starts_from_its_own_weights_and_gets_enough_steps(clips):
    config, reasons = fitted(clips)
    data, recipe = config.data, config.recipe
    assert config.start == "ctnet_quickstart_arrow"
    assert (config.model.weights, config.model.num_frames, data.size, recipe.batch) == (None, 8, 48, 8)
    videos = len(own_clips.load_samples("folder", clips, "train"))
    assert recipe.epochs * (videos // 8) >= recipes.needed_steps(3) == 240 and recipe.warmup == recipe.epochs / 10
    assert reasons["start"].startswith("ctnet_quickstart_arrow: ")
    assert reasons["recipe.batch"] == f"8: clips per step, of {videos}" and reasons["data.size"].startswith(
        "48: pixels"
    )
    assert set(reasons) == set(own_clips._CHOICES) - {"model.weights"} | {"start"}


def test_a_small_network_that_was_not_trained_starts_from_still_shapes(clips):
    for model, overrides in (("ctnet_laptop", ""), ("ctnet_quickstart", "model.dims=3"), ("tsm_quickstart", "")):
        config, reasons = fitted(clips, model, overrides)
        assert (config.start, config.model.weights) == ("", "shapes")
        assert reasons["model.weights"] == "shapes: weights of Still Shapes fit this backbone"
    config, reasons = fitted(clips, overrides="model.weights=null")
    assert config.start == "" and config.model.weights is None and "start" not in reasons


def test_a_large_network_starts_from_imagenet_at_its_size(clips):
    config, _ = fitted(clips, "ctnet_r50")
    assert (config.model.weights, config.data.size, config.recipe.lr, config.model.dropout) == (
        "imagenet",
        224,
        0.02,
        0.5,
    )
    assert fitted(clips, "tsn_inception_v3")[0].data.size == 299
    assert fitted(clips, "ctnet_laptop")[0].data.size == 64


def test_a_network_that_no_weights_fit_starts_from_random_ones(clips):
    for model in ("tea_quickstart", "slowfast_small"):
        config, reasons = fitted(clips, model)
        assert config.model.weights is None and reasons["model.weights"].startswith("none: ")
    config, reasons = fitted(clips, "tdn_quickstart")
    assert (config.model.num_frames, config.data.sampling) == (40, "neighbours") and "model.num_frames" not in reasons
    config, reasons = fitted(clips, "c3d_vgg_small")
    assert (config.model.num_frames, config.data.size) == (8, 32) and "data.size" not in reasons


def test_what_is_given_is_not_chosen_and_the_rest_follows_it(clips):
    config, reasons = fitted(clips, overrides="recipe.batch=4 data.cache=none", **{"model.num_frames": 4})
    assert (config.recipe.batch, config.data.cache, config.model.num_frames) == (4, "none", 4)
    assert not {"recipe.batch", "data.cache", "model.num_frames"} & set(reasons)
    assert config.recipe.epochs < fitted(clips)[0].recipe.epochs
    one = fitted(clips, **{"recipe.epochs": 1})[0].recipe
    assert (one.epochs, one.warmup) == (1, 0.1)
    assert fitted(clips, start="x.safetensors")[0].model.weights is None


def test_clips_are_mirrored_only_where_names_say_what_becomes_of_them_or_if_asked(clips, tmp_path):
    """A mirrored "eastward" is a "westward", which no list of words knows."""
    for names, flip in ((("eastward", "westward"), False), (("pan_left", "pan_right", "zoom"), True)):
        lines = "".join(f"{index}.mp4 {index % len(names)}\n" for index in range(24))
        for file, text in (("train", lines), ("val", lines), ("classes", "\n".join(names))):
            (tmp_path / f"{file}.txt").write_text(text)
        config, reasons = fitted(tmp_path, data="list")
        assert config.data.flip is flip
        assert reasons["data.flip"].startswith("True: mirrored" if flip else "False: not mirrored")
    config, reasons = fitted(clips, overrides="data.flip=true")
    assert config.data.flip is True and "data.flip" not in reasons
    assert fitted(clips)[0].data.flip is False
    assert fitted(clips, recipe="transfer")[0].data.flip is None


def test_a_network_that_has_not_learned_its_clips_is_told_what_may_help(clips):
    config = fitted(clips)[0]
    epochs = config.recipe.epochs
    assert own_clips.underfit(90.0, config, 1) == ""
    advice = own_clips.underfit(64.2, config, 1)
    assert advice.startswith("only 64 % of the training clips") and f"recipe.epochs={2 * epochs};" in advice
    assert "model.num_frames=16" in advice and "data.size=96" in advice
    fixed = fitted(clips, model="c3d_vgg_small")[0]
    assert own_clips.underfit(64.2, fixed, 1).endswith(f"train longer, with recipe.epochs={2 * fixed.recipe.epochs}")
    assert own_clips.underfit(64.2, fixed, 345).endswith("train longer, with recipe.epochs=345")


def test_many_clips_have_larger_batches_and_few_epochs(tmp_path):
    lines = "".join(f"{index}.mp4 {index % 3}\n" for index in range(2400))
    for split in ("train", "val"):
        (tmp_path / f"{split}.txt").write_text(lines)
    recipe = fitted(tmp_path, data="list")[0].recipe
    assert (recipe.batch, recipe.epochs) == (32, 10)


def test_videos_that_do_not_fit_into_memory_are_not_kept(clips, monkeypatch):
    monkeypatch.setattr(own_clips.cache, "needed_bytes", lambda samples: 3e9)
    config, reasons = fitted(clips)
    assert config.data.cache == "none" and "3,000 MB" in reasons["data.cache"]


def test_a_recipe_decides_alone(clips):
    named = fitted_config("folder", "ctnet_r50", "transfer", **{"data.root": str(clips)})
    assert named == (recipes.run_config("folder", "ctnet_r50", "transfer", **{"data.root": str(clips)}), {})
    assert fitted_config("arrow", "ctnet_quickstart") == (recipes.run_config("arrow", "ctnet_quickstart"), {})
    with pytest.raises(ValueError, match="did you mean 'ctnet_quickstart'"):
        fitted(clips, "ctnet_quickstrat")
    with pytest.raises(FileNotFoundError, match="no folder /nowhere"):
        fitted("/nowhere")


def test_the_command_line_trains_a_folder_and_says_what_it_chose(arrow_root, tmp_path, capsys):
    small = ["recipe.epochs=1", "model.num_frames=4", "data.size=32", "data.workers=0"]
    assert main(["train", str(tmp_path), "--data", "list", "--root", str(arrow_root), "--set", *small]) == 0
    lines = {line[:24].strip(): line[24:] for line in capsys.readouterr().out.splitlines()}
    assert lines["chosen recipe.batch"] == "8: clips per step, of 32"
    assert lines["chosen start"].startswith("ctnet_quickstart_arrow: ") and "chosen data.size" not in lines
    (few,) = (line for line in map("".join, lines.items()) if line.startswith("4 steps are too few"))
    (advice,) = (line for line in map("".join, lines.items()) if line.startswith("only "))
    assert "set recipe.epochs to 120," in few and "recipe.epochs=120;" in advice
    assert (tmp_path / "ctnet_quickstart" / "seed0" / "result.json").is_file()
