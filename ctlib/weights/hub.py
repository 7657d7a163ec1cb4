"""Trained networks to share, in a folder or on the Hugging Face Hub: the weights, a config.json and a model card."""

import os
import warnings
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Self

from huggingface_hub import EvalResult, ModelCard, ModelCardData, ModelHubMixin, hf_hub_download
from huggingface_hub.constants import CONFIG_NAME
from huggingface_hub.constants import SAFETENSORS_SINGLE_FILE as FILE
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id

from ctlib import files
from ctlib.weights import catalog

_DOWNLOAD = ("revision", "cache_dir", "force_download", "local_files_only", "token")
# The mixin passes on what config.json holds; the file of weights holds it too.
_IN_CONFIG = {"library_name", "name", "format", "model", "classes", "versions", "view", "record"}
LIBRARY = "ctlib"
PAPER = "https://arxiv.org/abs/2106.01603"
TASK = "video-classification"


class Shared(
    ABC,
    ModelHubMixin,
    library_name=LIBRARY,
    license="mit",
    pipeline_tag=TASK,
    tags=[TASK, "ct-net"],
    paper_url=PAPER,
    model_card_template=Path(__file__).with_name("card.jinja").read_text(encoding="utf-8"),
):
    """What `save_pretrained`, `push_to_hub` and `from_pretrained` do with a trained network.

    A folder holds `model.safetensors`, which is a whole checkpoint, and for its readers `config.json`, with what it
    describes, and `README.md`, the model card. A README.md that lies there already stays as it is.
    """

    # The mixin would keep the arguments of an object as its configuration: what `_save_pretrained` writes is meant.
    _hub_mixin_config = {"library_name": LIBRARY}

    @abstractmethod
    def describe(self) -> dict:
        """What config.json and the card say: name, model, classes, versions; view and record where they are known."""

    @abstractmethod
    def save(self, path: Path) -> None:
        """Write a file that `read` reads."""

    @classmethod
    @abstractmethod
    def read(cls, path: Path) -> Self:
        """The network in a file."""

    def _save_pretrained(self, save_directory: Path) -> None:
        self.save(save_directory / FILE)
        files.write_json(save_directory / CONFIG_NAME, {**self._hub_mixin_config, **self.describe()})

    def save_pretrained(self, folder: str | Path, **options) -> str | None:
        """Write the folder.

        Args:
            folder: it is made if needed.
            options: as in `ModelHubMixin.save_pretrained`; `model_card_kwargs={"license": ...}` is the weights'.

        Raises:
            ValueError: the folder holds something else, such as a run.
            OSError: it cannot be written.
        """
        folder = Path(folder).expanduser()
        check_free(folder)
        path = folder / "README.md"
        card = self.generate_model_card(**(options.get("model_card_kwargs") or {}))
        if path.is_file() and path.read_text(encoding="utf-8", errors="replace").split() != str(card).split():
            warnings.warn(f"{path} stays, and is not the card of this network: remove it to have one", stacklevel=2)
        return super().save_pretrained(folder, **options)

    def push_to_hub(self, repo_id: str, **options) -> str:
        """Upload what `save_pretrained` writes, and return the address of the commit.

        Args:
            repo_id: the repository, "user/name".
            options: as in `ModelHubMixin.push_to_hub`, such as `private`, `token` and `commit_message`.
        """
        options["model_card_kwargs"] = {"source": repo_id, **(options.get("model_card_kwargs") or {})}
        return super().push_to_hub(repo_id, **options)

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike, **options) -> Self:
        """A trained network from a folder that `save_pretrained` wrote, a checkpoint, the package, or the Hub.

        Args:
            source: the folder or the file, which is read offline; the name of a whole network's weights, such as
                "ctnet_quickstart_arrow", or their member of `Weights`; or the name of a repository, "user/name", where
                there is no folder "user".
            options: for the Hub: `revision`, `token`, `cache_dir`, `force_download`, `local_files_only`.

        Raises:
            FileNotFoundError: neither is there.
            ValueError: a damaged file, or one of something else.
            TypeError: an option that there is not.
        """
        folder = Path(source).expanduser()
        if folder.is_dir():
            return cls.read(folder / FILE)
        if folder.is_file():
            return cls.read(folder)
        shipped = catalog.named(os.fspath(source))
        if shipped is not None and shipped.is_whole:
            return cls.read(shipped.file)
        if not isinstance(source, str) or not _is_repository(source):
            what = f"no folder or file {source}, and no weights of a whole network"
            raise FileNotFoundError(what + catalog.hint(source))
        try:
            return super().from_pretrained(source, **options)
        except (HfHubHTTPError, ConnectionError, FileNotFoundError) as error:
            reason = files.one_line(error, 300)
            raise FileNotFoundError(f"no folder or file {source}, and the Hub does not give it: {reason}") from None

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **options) -> Self:
        download = {name: options.pop(name) for name in _DOWNLOAD}
        if unknown := options.keys() - _IN_CONFIG:
            raise TypeError(f"unknown option of from_pretrained: {', '.join(sorted(unknown))}")
        return cls.read(Path(hf_hub_download(model_id, FILE, **download)))

    def generate_model_card(self, **fields) -> ModelCard:
        """The card, from what is described.

        Args:
            fields: of the template `card.jinja`, in place of what is described; `license` is the weights'.
        """
        about = {**self.describe(), **fields}
        record, info = about.get("record"), self._hub_mixin_info
        own = info.model_card_data.to_dict() | {"license": about.get("license", info.model_card_data.license)}
        results = None
        if record:
            data = catalog.DATA.get(record["data"], record["data"])
            result = EvalResult(
                TASK, record["data"], data, "accuracy", round(record["top1"], 1), metric_name="top-1, %"
            )
            results, about["data"] = [result], data
        about["start"] = _start(about)
        card = ModelCardData(**own, model_name=about["name"], eval_results=results)
        return ModelCard.from_template(card, template_str=info.model_card_template, paper_url=info.paper_url, **about)


def _start(about: dict) -> dict | None:
    """What training started from, and the data that it was trained on, where that is known."""
    name = (about.get("record") or {}).get("start")
    weights = catalog.named(name)
    kind = about["model"].get("weights") if name is None else weights and weights.kind
    if name is None and kind is None:
        return None
    return {"name": name or kind, "data": catalog.DATA.get(kind), "synthetic": kind in ("shapes", "arrow")}


def check_free(folder: Path) -> None:
    """Raise an error, before any work, if a network cannot be written to a folder.

    Raises:
        ValueError: its config.json is of something else, such as a run.
        OSError: it cannot be written.
    """
    files.check_writable(folder)
    path = folder / CONFIG_NAME
    if path.is_file() and not is_shared(files.read_json(path)):
        raise ValueError(f"{path} is not of a shared network, and would be replaced: choose another folder")


def is_shared(config: dict) -> bool:
    """Whether this config.json is of a folder that `save_pretrained` wrote."""
    return config.get("library_name") == LIBRARY


def _is_repository(source: str) -> bool:
    """Whether it can be "user/name" on the Hub, and no path below a folder that is here."""
    try:
        validate_repo_id(source)
    except HFValidationError:
        return False
    return "/" in source and not Path(source).parent.is_dir()
