"""The typer application: every command, each loading what it needs when it runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from anybind import __version__
from anybind.errors import AnybindError

app = typer.Typer(
    name="anybind",
    help="Ask a local multimodal model about images, sounds and text; let it use tools.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Bundle = Annotated[str, typer.Option(help="Name of a bundle, or path to a bundle.json.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Files = Annotated[list[str] | None, typer.Argument(help="Images, sounds or texts.")]
Weights = Annotated[
    list[str] | None,
    typer.Option("--weight", help="Mixing weight of each file in order; repeat, or 1,0.5."),
]
Outputs = Annotated[
    list[str] | None, typer.Option("--output", help="Also reply with: image (audio, point).")
]


@app.command()
def ask(
    question: Annotated[str, typer.Argument(help="What you want to know.")],
    files: Files = None,
    bundle: Bundle = "nano",
    weight: Weights = None,
    output: Outputs = None,
    no_ground: Annotated[
        bool, typer.Option(help="Do not look for the nouns in the picture.")
    ] = False,
    no_tools: Annotated[bool, typer.Option(help="Do not let the model call tools.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    as_json: Json = False,
    out: Annotated[Path | None, typer.Option(help="Copy what was made into this folder.")] = None,
) -> None:
    """Ask one question about files."""
    from anybind.agent.cli import asking

    asking.ask(
        question, files or [], bundle, weight or [], output or [], not no_ground, not no_tools,
        seed, as_json, out,
    )  # fmt: skip


@app.command()
def batch(
    requests: Annotated[Path, typer.Argument(help="JSON lines, one request each.")],
    out: Annotated[Path, typer.Option(help="Where the replies go, one line each.")],
    bundle: Bundle = "nano",
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    folder: Annotated[
        Path | None, typer.Option(help="Where sessions and artifacts go (default: beside OUT).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Answer a file of requests; a failing one never stops the rest."""
    from anybind.agent.cli import batching

    batching.run(requests, out, bundle, seed, folder, as_json)


@app.command()
def chat(
    files: Files = None,
    bundle: Bundle = "nano",
    folder: Annotated[Path | None, typer.Option(help="Keep the session in this folder.")] = None,
    resume: Annotated[str | None, typer.Option(help="Go on with a kept session.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    as_json: Json = False,
) -> None:
    """Talk in turns; /attach FILE, /image, /tools, /history, /quit."""
    from anybind.agent.cli import chatting

    chatting.chat(files or [], bundle, folder, resume, seed, as_json)


@app.command()
def embed(
    things: Annotated[list[str] | None, typer.Argument(help="Files, or texts.")] = None,
    bundle: Bundle = "nano",
    out: Annotated[Path | None, typer.Option(help="Write the embeddings (.safetensors).")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the similarities (.png).")] = None,
    dataset: Annotated[
        Path | None,
        typer.Option(help="Embed the pictures of this training config or file of data into OUT."),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of the pictures that a file of data names.")
    ] = None,
    batch: Annotated[int, typer.Option(help="Pictures encoded at once (with --dataset).")] = 16,
    views: Annotated[
        int, typer.Option(help="Augmented views of each picture besides it (with --dataset).")
    ] = 0,
    as_json: Json = False,
) -> None:
    """Joint embeddings of files and texts, and how similar they are; or of a whole data set."""
    from anybind.agent.cli import embedding

    if dataset is not None:
        embedding.embed_dataset(dataset, things or [], bundle, out, images, batch, views, as_json)
    elif views:
        raise typer.BadParameter("--views goes with --dataset")
    else:
        embedding.embed(things or [], bundle, out, plot, as_json)


@app.command()
def tools(bundle: Bundle = "nano", as_json: Json = False) -> None:
    """The tools on offer, and why some are not available."""
    from anybind.agent.cli import listing

    listing.tools(bundle, as_json)


@app.command()
def experts(bundle: Bundle = "nano", as_json: Json = False) -> None:
    """The experts on offer."""
    from anybind.agent.cli import listing

    listing.specs("experts", bundle, as_json)


@app.command()
def generators(bundle: Bundle = "nano", as_json: Json = False) -> None:
    """The generators on offer."""
    from anybind.agent.cli import listing

    listing.specs("generators", bundle, as_json)


@app.command()
def bundles(as_json: Json = False) -> None:
    """The bundles that ship with anybind."""
    from anybind.agent.cli import listing

    listing.bundles(as_json)


@app.command()
def plugins(as_json: Json = False) -> None:
    """The installed plugins, what they offer, and which are broken."""
    from anybind.agent.cli import listing

    listing.plugins(as_json)


@app.command()
def doctor(
    bundle: Bundle = "nano",
    fetch: Annotated[bool, typer.Option(help="Fetch and verify what is missing.")] = False,
    as_json: Json = False,
) -> None:
    """What a bundle needs, what is there, and why something is not available."""
    from anybind.agent.cli import doctoring

    doctoring.doctor(bundle, fetch, as_json)


@app.command()
def convert(
    converter: Annotated[str, typer.Argument(help="Name of a converter (see: anybind plugins).")],
    source: Annotated[Path, typer.Argument(help="The foreign file, or folder of shards.")],
    target: Annotated[Path, typer.Argument(help="The safetensors file to write.")],
    sha256: Annotated[str, typer.Option(help="Refuse the source if its hash is another.")] = "",
) -> None:
    """Convert a foreign weight file in a process of its own, with limits."""
    from anybind.agent.cli import doctoring

    doctoring.convert(converter, source, target, sha256)


@app.command(name="merge-delta")
def merge_delta(
    base: Annotated[Path, typer.Argument(help="The base: Meta's folder, .pth, or converted.")],
    delta: Annotated[Path, typer.Argument(help="The delta, in one of the same forms.")],
    target: Annotated[Path, typer.Argument(help="The safetensors file to write.")],
) -> None:
    """Add a delta (Open-Chinese-LLaMA) to the base that it was taken from."""
    from anybind.agent.cli import doctoring

    doctoring.merge_delta(base, delta, target)


cache_app = typer.Typer(
    help="Build and search retrieval caches.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(cache_app, name="cache")


@cache_app.command("build")
def cache_build(
    source: Annotated[
        Path, typer.Argument(help="A folder of pictures, .tar shards, .safetensors or .npy.")
    ],
    out: Annotated[Path, typer.Option(help="The folder to make.")],
    bundle: Annotated[
        str | None, typer.Option(help="Whose image encoder (default: nano) or joint space.")
    ] = None,
    memory: Annotated[str, typer.Option(help="Memory that searching may take.")] = "2G",
    kind: Annotated[str, typer.Option(help="auto, flat, ivf, ivfpq, pq, hnsw or sq8.")] = "auto",
    rows: Annotated[
        str, typer.Option(help="Exact rows beside the index: keep, drop, or auto (if it is lossy).")
    ] = "auto",
    bad_limit: Annotated[
        int, typer.Option(help="Pictures that may be unusable before the build stops.")
    ] = 100,
    as_json: Json = False,
) -> None:
    """Build a cache; run again, a build of pictures goes on where it stopped."""
    from anybind.agent.cli import caching

    caching.build(source, out, bundle, memory, kind, rows, bad_limit, as_json)


@cache_app.command("info")
def cache_info(
    folder: Annotated[Path, typer.Argument(help="A built cache.")], as_json: Json = False
) -> None:
    """What a built cache is."""
    from anybind.agent.cli import caching

    caching.info(folder, as_json)


@cache_app.command("search")
def cache_search(
    folder: Annotated[Path, typer.Argument(help="A built cache.")],
    queries: Annotated[list[str], typer.Argument(help="Files, or texts.")],
    bundle: Bundle = "nano",
    k: Annotated[int, typer.Option(help="Neighbours of each.")] = 5,
    as_json: Json = False,
) -> None:
    """The nearest rows of files and texts."""
    from anybind.agent.cli import caching

    caching.search(folder, queries, bundle, k, as_json)


@app.command(name="eval")
def eval_(
    measures: Annotated[
        list[str] | None, typer.Argument(help="Names of measures (see --list), or all.")
    ] = None,
    bundle: Bundle = "nano",
    data: Annotated[
        Path | None, typer.Option(help="Held-out data (benchmarks/prepare.py makes the folder).")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Keep every answer and summary.json in this folder.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="At most this many items a measure.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of draws and scenes.")] = 0,
    threads: Annotated[int | None, typer.Option(help="Threads of torch.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="The measures on offer.")] = False,
    as_json: Json = False,
) -> None:
    """Measure a bundle on data that nothing was trained on."""
    from anybind.agent.cli import evaluating

    if list_:
        evaluating.measures(as_json)
    elif not measures:
        raise typer.BadParameter("give a measure, all, or --list")
    else:
        evaluating.run(measures, bundle, data, out, limit, seed, threads, as_json)


@app.command()
def train(
    config: Annotated[
        str | None, typer.Argument(help="A YAML file, or the name of a shipped one (see --list).")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run (default: runs/CONFIG).")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the last checkpoint.")] = False,
    dry_run: Annotated[
        bool, typer.Option(help="Only say what it would take: parameters, tokens, memory, time.")
    ] = False,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="Set a value: optimizer.lr=1e-4; repeat.")
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="The configs that ship.")] = False,
    as_json: Json = False,
) -> None:
    """Train a stage; several processes by: accelerate launch -m anybind.agent.cli train CONFIG."""
    from anybind.agent.cli import training

    if list_:
        training.stages(as_json)
    elif config is None:
        raise typer.BadParameter("give a CONFIG, or --list")
    else:
        training.train(config, out, resume, dry_run, change or [], as_json)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="A run, or one of its checkpoints.")],
    kind: Annotated[str, typer.Option("--as", help="adapter, bind, hf, gguf or merged.")],
    out: Annotated[Path, typer.Option(help="The file (adapter, bind) or folder to write.")],
    decoder: Annotated[
        Path | None, typer.Option(help="The base, if it lies elsewhere than in training.")
    ] = None,
    condition: Annotated[
        Path | None, typer.Option(help="For gguf: embeddings, each to become a control vector.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write what a run trained: released names, bind network, Hugging Face, GGUF, merged."""
    from anybind.agent.cli import training

    training.export(run, kind, out, decoder, condition, as_json)


@app.command()
def plot(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs.")],
    out: Annotated[Path, typer.Option(help="The picture (png, svg, pdf).")] = Path("curves.png"),
    as_json: Json = False,
) -> None:
    """Draw loss, gates and gradients of runs."""
    from anybind.agent.cli import training

    training.plot(runs, out, as_json)


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    """anybind: a local multimodal model at the centre of an agent loop."""
    if version:
        typer.echo(f"anybind {__version__}")
        raise typer.Exit


def main() -> None:
    """Entry point of the console script.

    Commands of plugins are added only when the first word is not one of ours, so that `--help`
    and the built-in commands never pay for importing strangers.
    """
    words = [w for w in sys.argv[1:] if not w.startswith("-")]
    known = {c.name or (c.callback.__name__ if c.callback else "") for c in app.registered_commands}
    known |= {g.name or "" for g in app.registered_groups}
    if words and words[0] not in known:
        _add_plugin_commands(app)
    try:
        app()
    except AnybindError as error:
        typer.echo(f"{type(error).__name__}: {error}", err=True)
        raise SystemExit(2) from error
    except KeyboardInterrupt:
        typer.echo("stopped", err=True)
        raise SystemExit(130) from None


def _add_plugin_commands(target: typer.Typer) -> None:
    """Take over the commands of every plugin, each tried on an application of its own first, so
    that one plugin's broken command costs nobody else's.
    """
    from anybind.plugins import registry

    manager = registry().manager
    for name, plugin in manager.list_name_plugin():
        register = getattr(plugin, "register_commands", None)
        if register is None:
            continue
        scratch = typer.Typer()
        try:
            register(app=scratch)
            typer.main.get_command(scratch)
        except Exception as error:  # a stranger's code
            typer.echo(f"The commands of the plugin {name!r} are broken: {error}", err=True)
            continue
        target.registered_commands.extend(scratch.registered_commands)
        target.registered_groups.extend(scratch.registered_groups)
