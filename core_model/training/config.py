"""What a training stage is: the YAML of `anybind train`, checked.

Knows names and limits and no torch. A key that is not known is an error, as is a value that makes
no sense, and both are reported with file and key. The schema of `data` belongs to
`anybind.core_model.training.data`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from anybind.core_model.training.cache_config import CacheConfig
from anybind.core_model.training.data.augment import ImagesConfig
from anybind.core_model.training.data.config import DataConfig, SourceConfig
from anybind.errors import UserError
from anybind.optional import require

FOLDER = Path(__file__).parent / "configs"

Group = Literal["bind", "queries", "gates", "lora", "biases", "norms"]
Linear = Literal["wq", "wk", "wv", "wo", "w1", "w2", "w3"]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
_PATHS = ("bundle", "decoder", "tokenizer", "init", "path", "images", "features", "zero_image")
_LINEARS: tuple[Linear, ...] = ("wq", "wk", "wv", "wo", "w1", "w2", "w3")


class Strict(BaseModel):
    """A table in which every key must be known."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class BindSizes(Strict):
    """Sizes of a new bind network (see `BindConfig`); those of the decoder come from it."""

    joint_dim: Count
    hidden_dim: Count
    n_blocks: Annotated[int, Field(ge=0)] = 3
    injection: Literal["residual", "attention_output"] = "residual"
    norm: Literal["rms", "layer"] = "rms"
    input_scale: Positive = 1.0
    first_layer: Annotated[int, Field(ge=0)] = 0


class ShapeConfig(Strict):
    """Sizes of a decoder and of the bind network in `init`, for `--dry-run` without their files."""

    vocab_size: Count
    dim: Count
    n_layers: Count
    n_heads: Count
    n_kv_heads: Count | None = None
    ffn_dim: Count
    joint_dim: Count | None = None
    hidden_dim: Count | None = None


class ModelConfig(Strict):
    """Where the parts of the model come from."""

    bundle: str | None = None
    """Decoder, tokenizer, prompt layout and joint space are those of this bundle (name or path),
    where they are not given here."""
    decoder: Path | None = None
    """GGUF file, Hugging Face folder, or converted Meta checkpoint."""
    tokenizer: Path | None = None
    """`tokenizer.model`, `tokenizer.json` or a folder; by default what lies with the decoder."""
    chat: str | None = None
    """Prompt layout (`chatml`, `alpaca` ...)."""
    space: str | None = None
    """Name of the joint space that the features live in."""
    init: str | None = None
    """What training starts from: a run, a checkpoint, a bind network, an adapter, or "bundle"
    (what the bundle has). None begins with a new bind network."""
    bind: BindSizes | None = None
    """A new bind network; only without `init`."""
    shape: ShapeConfig | None = None
    check_base: bool = True
    """Refuse an `init` that was trained with another decoder."""

    @model_validator(mode="after")
    def _sources(self) -> ModelConfig:
        if not self.bundle and not self.decoder:
            raise ValueError("give a bundle or a decoder")
        if self.init and self.bind:
            raise ValueError("bind gives sizes of a new bind network, init one that there is")
        if not self.init and not self.bind:
            raise ValueError("give init (what to start from) or bind (sizes of a new network)")
        if self.init == "bundle" and not self.bundle:
            raise ValueError('init is "bundle", but no bundle is given')
        return self


class LoraConfig(Strict):
    """Low-rank updates of the decoder."""

    rank: Count = 16
    linears: tuple[Linear, ...] = _LINEARS


class Trainables(Strict):
    """What is trained; everything else is frozen."""

    groups: Annotated[tuple[Group, ...], Field(min_length=1)]
    lora: LoraConfig = LoraConfig()
    biases: tuple[Linear, ...] = ("wq", "wo", "w1", "w2", "w3")
    """Where the group `biases` puts one (the default is what the released adapters have)."""


class BatchConfig(Strict):
    """How samples become batches."""

    max_tokens: Count = 512
    """Longest sample; what is beyond is cut."""
    tokens: Count = 4096
    """Positions of one micro-batch, padding included."""
    packing: bool = True
    """Several samples in one row, each blind to the others and under its own condition."""
    accumulation: Count = 1
    """Micro-batches a step on each process."""

    @model_validator(mode="after")
    def _room(self) -> BatchConfig:
        if self.tokens < self.max_tokens:
            raise ValueError(f"tokens ({self.tokens}) is less than max_tokens ({self.max_tokens})")
        return self


class OptimizerConfig(Strict):
    """AdamW with linear warm-up and half a cosine."""

    lr: Positive
    """Of the peak."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.03
    """Share of the run."""
    floor: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Where the cosine ends, as a share of `lr`."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (
        0.9, 0.95,
    )  # fmt: skip
    eps: Positive = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Of matrices only: gates, norms and biases have none."""
    clip: Positive = 1.0
    """Largest norm of all gradients together."""
    gate_pace: Positive = 1.0
    """Learning rate of the gates, relative to `lr`."""


class AlignmentConfig(Strict):
    """The bound feature, before the queries, is drawn to the words that the feature is of."""

    weight: Annotated[float, Field(ge=0)] = 0.0
    """Of the mean square distance, beside the loss of the answers; 0 is off."""
    alone: bool = False
    """No answers are learned and the decoder does not run."""

    @property
    def on(self) -> bool:
        """Whether there is any."""
        return self.weight > 0


class ValidationConfig(Strict):
    """Samples that are never trained on, and when the stage is measured on them."""

    sources: tuple[SourceConfig, ...] = ()
    """Held-out sources, mixed like those of `data`."""
    share: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """The last share of the records of each source of `data`, which is then not trained on."""
    every: Count = 100
    """Steps between two measurements; the last step is measured too."""
    samples: Count = 256

    @model_validator(mode="after")
    def _one(self) -> ValidationConfig:
        if self.sources and self.share:
            raise ValueError("give sources or a share, not both")
        if self.sources:
            DataConfig(sources=self.sources)
        return self

    @property
    def on(self) -> bool:
        """Whether there is any."""
        return bool(self.sources) or self.share > 0


class SaveConfig(Strict):
    """When checkpoints are written."""

    every: Count = 500
    keep: Count = 3
    keep_best: bool = True
    """With validation: a checkpoint where its loss is lowest, which is kept besides."""


class Limits(Strict):
    """Steps whose loss or gradients are not finite, before the run halts."""

    bad_in_a_row: Count = 5
    bad_in_all: Count = 50


class TrainConfig(Strict):
    """One training stage."""

    stage: Annotated[str, Field(min_length=1)]
    about: str = ""
    model: ModelConfig
    trainables: Trainables
    data: DataConfig
    batch: BatchConfig = BatchConfig()
    optimizer: OptimizerConfig
    alignment: AlignmentConfig = AlignmentConfig()
    steps: Count | None = None
    """Length of the run; by default as long as `data.epochs` lasts."""
    zero_image: Path | None = None
    """Features (.safetensors, tensor `zero_image` or the only one) that stand for a text-only
    sample, as the released model was trained: those of a picture of the mean colour. None gives
    such samples no condition at all, under which the decoder is exactly the plain one."""
    cache: CacheConfig | None = None
    """The retrieval cache that embeddings pass before they are fed; None feeds them as they are."""
    images: ImagesConfig = ImagesConfig()
    precision: Literal["float32", "bf16"] = "float32"
    """bf16: frozen weights and products in bfloat16, what is trained in float32."""
    activation_checkpointing: bool = False
    compile: bool = False
    """Fuse what lies between the products of the decoder's layers (torch.compile): a minute at the
    start, on a CPU with a C++ compiler, for steps that cost about 0.6 of the time there."""
    seed: int = 0
    validation: ValidationConfig = ValidationConfig()
    save: SaveConfig = SaveConfig()
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _length(self) -> TrainConfig:
        if self.steps is None and self.data.epochs is None:
            raise ValueError("give steps, or data.epochs")
        if self.cache and self.cache.path is None and not self.model.bundle:
            raise ValueError("cache: give a path, or a model.bundle that has one")
        return self

    @model_validator(mode="after")
    def _aligned(self) -> TrainConfig:
        if self.alignment.alone and not self.alignment.on:
            raise ValueError("alignment.alone needs an alignment.weight above 0")
        if self.alignment.alone and self.trainables.groups != ("bind",):
            raise ValueError("alignment.alone trains the bind network: trainables.groups: [bind]")
        if self.alignment.on and "bind" not in self.trainables.groups:
            raise ValueError("alignment needs the group bind among trainables.groups")
        return self

    def at(self, base: Path) -> TrainConfig:
        """The same with every path that isn't absolute starting from `base`."""

        def placed(path: Path | None) -> Path | None:
            return None if path is None else base / path.expanduser()

        m = self.model
        model = m.model_copy(
            update={
                "decoder": placed(m.decoder),
                "tokenizer": placed(m.tokenizer),
                "init": _where(m.init, base),
                "bundle": _where(m.bundle, base),
            }
        )
        update = {"model": model, "data": self.data.at(base), "zero_image": placed(self.zero_image)}
        if self.cache:
            update["cache"] = self.cache.model_copy(update={"path": placed(self.cache.path)})
        if held := self.validation.sources:
            sources = DataConfig(sources=held).at(base).sources
            update["validation"] = self.validation.model_copy(update={"sources": sources})
        return self.model_copy(update=update)


def _where(name: str | None, base: Path) -> str | None:
    """A path if there is something at it, else the name that it is."""
    return str(base / name) if name and (base / name).exists() else name


def shipped() -> dict[str, Path]:
    """The configs that come with anybind, by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}


def load_config(source: str | Path, changes: Sequence[str] = ()) -> TrainConfig:
    """Read a stage.

    Args:
        source: Path of a YAML file, or the name of a shipped one.
        changes: "key=value" with dots between the keys and a YAML value, e.g. "optimizer.lr=1e-4";
            "data.sources.0.path=x" changes an entry of a list.

    Raises:
        UserError: it can't be read or holds what no stage has; names file and key.
    """
    path = shipped().get(str(source), Path(source))
    tree = read_yaml(path)
    for change in changes:
        apply_change(tree, change)
    config = parse(TrainConfig, tree, str(path))
    # Paths in a file of one's own start from where it lies, those of a shipped one from here.
    return config.at(Path.cwd() if str(source) in shipped() else path.absolute().parent)


def read_yaml(path: Path) -> dict[str, Any]:
    """The table of a YAML file.

    Raises:
        UserError: there is none.
    """
    yaml = require("yaml", "training")
    if not path.is_file():
        raise UserError(f"There is no {path}; shipped configs: {', '.join(shipped())}.")
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path} is not YAML: {error}") from error
    if not isinstance(tree, dict):
        raise UserError(f"{path} holds no table of settings.")
    return tree


def apply_change(tree: dict[str, Any], change: str) -> None:
    """Set one value in place.

    Raises:
        UserError: not "key=value", or the key leads through something that is no table.
    """
    yaml = require("yaml", "training")
    key, equals, text = change.partition("=")
    if not equals or not all(key.split(".")):
        raise UserError(f"{change!r} is no setting; write for example optimizer.lr=1e-4.")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"The value in {change!r} is not YAML: {error}") from error
    *way, last = key.split(".")
    if isinstance(value, str) and last in _PATHS and Path(value).expanduser().exists():
        value = str(Path(value).expanduser().absolute())  # typed here, so it starts from here
    node: Any = tree
    for step in way:
        node = node[_place(node, step, key)] if isinstance(node, list) else _table(node, step, key)
    if isinstance(node, list):
        node[_place(node, last, key)] = value
    else:
        _check_table(node, key)
        node[last] = value


def _table(node: Any, step: str, key: str) -> Any:
    _check_table(node, key)
    if node.get(step) is None:
        node[step] = {}
    return node[step]


def _check_table(node: Any, key: str) -> None:
    if not isinstance(node, dict):
        raise UserError(f"{key} leads through {node!r}, which has no keys.")


def _place(node: list[Any], step: str, key: str) -> int:
    if not step.isdigit() or int(step) >= len(node):
        raise UserError(f"{key}: {step!r} is no entry of a list of {len(node)}.")
    return int(step)


_Model = TypeVar("_Model", bound=BaseModel)


def parse(kind: type[_Model], tree: Mapping[str, Any], where: str) -> _Model:
    """A checked table.

    Raises:
        UserError: one line for each key that is wrong.
    """
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        lines = []
        for item in error.errors():
            key = ".".join(map(str, item["loc"])) or "the whole"
            message = item["msg"].removeprefix("Value error, ")
            if item["type"] == "extra_forbidden":
                message = "no such key"
            lines.append(f"  {key}: {message}")
        raise UserError(f"{where} can't be used:\n" + "\n".join(lines)) from error
