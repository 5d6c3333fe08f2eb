"""The commands of `fimble`. Each reads its settings, calls one stage, and prints.

Stages are imported only when chosen, so that help is quick. Progress goes to standard error; `--json` puts one JSON
object on the last line of standard output.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from compile.settings import CompileSettings
from serve.settings import ServeSettings
from toolchain.artifact_commands import inspect_command, prune_command, push_command, report_command
from toolchain.command_line import BundlePath, Json, Out, execute_plan, inputs_cache, read_tables, show
from toolchain.contracts import settings
from toolchain.contracts.errors import SettingsError
from toolchain.contracts.settings import choose
from toolchain.dataset_commands import Sources, collect_command, dialogues_command
from toolchain.launching import launch
from toolchain.options import with_options
from toolchain.plan_command import PresetName, plan_command
from toolchain.setup_commands import editor_command, service_command
from train import presets
from train.data.settings import CollectSettings
from train.launch.settings import LaunchSettings, refuse_alone
from train.running import RunSettings
from train.scratch_settings import ScratchSettings
from train.settings import TrainSettings

if TYPE_CHECKING:
    from toolchain.contracts.stage import Plan

app = typer.Typer(
    help="From your repositories to a code copilot that runs on your own machine.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
Bundles = Annotated[
    list[str], typer.Argument(metavar="BUNDLE", help="Bundles, or workspaces of up, each as FOLDER or NAME=FOLDER.")
]
BaseName = Annotated[str, typer.Option("--base", help="A checkpoint folder or a hub id.")]


def _tell_version(wanted: bool) -> None:
    if wanted:
        from toolchain.contracts.manifest import tool_version

        print(tool_version())
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_tell_version, help="The version of fimble.")
    ] = False,
) -> None:
    pass


@app.command("up")
@with_options(CollectSettings, TrainSettings, RunSettings, CompileSettings, ServeSettings)
def up_command(
    sources: Sources,
    base: Annotated[str | None, typer.Option("--base", help="A checkpoint folder, a hub id, or scratch.")] = None,
    preset: PresetName = None,
    out: Annotated[Path, typer.Option("--out", help="The workspace, where everything is kept.")] = Path(".fimble"),
    serve: Annotated[bool, typer.Option("--serve/--no-serve", help="Serve at the end.")] = True,
    as_json: Json = False,
    **flags: Any,
) -> None:
    """The whole road: collect, train, merge, compile and serve, doing again only what is not current."""
    from serve import server
    from serve.http import port
    from serve.sources import Source
    from toolchain.console import console
    from toolchain.editors import telling
    from toolchain.pipeline import report, up
    from toolchain.workspace import current_bundle

    tables: Mapping[str, Mapping[str, Any]] = read_tables()
    if preset is not None:
        named = presets.load(preset)
        base = presets.base_for(named, base or tables.get("up", {}).get("base"))
        flags = presets.beneath(named, tables, flags)
        if named.count > 1:
            apart = f"fimble train --preset {named.name} --launcher torchrun --count {named.count}"
            raise SettingsError(
                f"the preset {named.name} is for {named.count} GPUs, and up trains on one", f"Use {apart}."
            )
    serving = choose(ServeSettings, "serve", tables, flags)
    with console(serving.log_format if serve else "text") as progress:
        if serve:
            server.check(serving)
        steps = up(sources, out, tables, {"base": base, **flags}, progress)
        bundle = current_bundle(out)
        facts = {"bundle": str(bundle), "stages": report(steps)}
        if serve:
            source = Source(partial(current_bundle, out))
            in_json = as_json or serving.log_format == "json"
            server.run([source], serving, progress, lambda url: _tell_served(in_json, url, bundle, out, facts))
        else:
            url = port.address(serving.host, serving.port)
            vscode = telling.vscode_settings(telling.served(url, out))
            shown = [f"bundle: {bundle}", f"To use it, run: fimble serve {out}", *telling.short_lines(vscode, out)]
            show(as_json, {**facts, "vscode": vscode}, shown)


app.command("collect")(collect_command)
app.command("dialogues")(dialogues_command)


@app.command("train")
@with_options(TrainSettings, LaunchSettings, RunSettings)
def train_command(
    dataset: Annotated[Path, typer.Argument(help="A dataset folder.")],
    out: Out,
    base: Annotated[
        str | None, typer.Option("--base", help="A checkpoint folder, a hub id, or scratch; else the preset's.")
    ] = None,
    preset: PresetName = None,
    as_json: Json = False,
    **flags: Any,
) -> None:
    """A dataset and a base to an adapter, or with --method full to a checkpoint."""
    from train.bases.base import open_base
    from train.fine_tune import plan_train
    from train.launch.worker import follow, follows
    from train.requirements import check_processes
    from train.scratch import plan_scratch

    tables: Mapping[str, Mapping[str, Any]] = read_tables()
    launching, running = choose(LaunchSettings, "launch", {}, flags), choose(RunSettings, "run", {}, flags)
    if preset is not None:
        named = presets.load(preset)
        base, flags = presets.base_for(named, base), presets.beneath(named, tables, flags)
        refuse_alone(named.name, named.count, launching)
    if base is None:
        raise SettingsError("there is no base to train", "Name one with --base, or a --preset.")
    if base == "scratch":
        known, here = settings.field_types(ScratchSettings), settings.field_types(RunSettings)
        for name, value in flags.items():
            if value is not None and name not in {*known, *here}:
                unused = f"{settings.flag(name)} has no effect with --base scratch"
                raise SettingsError(unused, f"Leave it out; [scratch] of {settings.FILE} has: {', '.join(known)}.")
        scratch = choose(ScratchSettings, "scratch", tables, flags)
        execute_plan(lambda progress: plan_scratch(dataset, scratch, running), out, as_json)
        return
    opened, chosen = base, choose(TrainSettings, "train", tables, flags)

    def planned() -> Plan:
        return plan_train(dataset, open_base(opened, inputs_cache()), chosen, running)

    check_processes(chosen, launching.processes)
    if follows():
        follow(planned(), out)
    elif launching.launcher != "local" or launching.dry_run:
        launch(launching, running, dataset, opened, planned, out, as_json)
    else:
        execute_plan(lambda progress: planned(), out, as_json)


app.command("plan")(plan_command)


@app.command("merge")
def merge_command(
    adapter: Annotated[Path, typer.Argument(help="An adapter folder in PEFT's layout.")],
    base: BaseName,
    out: Out,
    as_json: Json = False,
) -> None:
    """An adapter and its base to a checkpoint in 16 bits."""
    from train.adapters.merge import plan_merge
    from train.bases.base import open_base

    execute_plan(lambda progress: plan_merge(adapter, open_base(base, inputs_cache())), out, as_json)


@app.command("compile")
@with_options(CompileSettings)
def compile_command(
    checkpoint: Annotated[str, typer.Argument(help="A checkpoint folder or a hub id.")],
    out: Out,
    as_json: Json = False,
    **flags: Any,
) -> None:
    """A checkpoint to a bundle: quantized weights and a library for each target."""
    from compile.bundle import plan_compile
    from toolchain.contracts.manifest import Parent
    from train.bases.base import open_base

    source = open_base(checkpoint, inputs_cache())
    chosen = choose(CompileSettings, "compile", read_tables(), flags)
    parent = Parent(kind="checkpoint", digest=source.digest)
    execute_plan(lambda progress: plan_compile(source.folder, parent, chosen), out, as_json)


@app.command("serve")
@with_options(ServeSettings)
def serve_command(bundles: Bundles, as_json: Json = False, **flags: Any) -> None:
    """Completions over HTTP, in the protocols that editors speak."""
    from serve.server import run
    from serve.sources import Source, name_and_folder
    from toolchain.console import console
    from toolchain.workspace import named_artifact

    chosen = choose(ServeSettings, "serve", read_tables(), flags)
    named = [name_and_folder(bundle) for bundle in bundles]
    sources = [Source(partial(named_artifact, folder), name) for name, folder in named]
    in_json = as_json or chosen.log_format == "json"
    with console(chosen.log_format) as progress:
        first, (_, shown) = sources[0].find(), named[0]
        run(sources, chosen, progress, lambda url: _tell_served(in_json, url, first, shown, {}))


@app.command("complete")
def complete_command(
    bundle: BundlePath,
    prefix: Annotated[str, typer.Option("--prefix", help="The text before the cursor.")],
    suffix: Annotated[str, typer.Option("--suffix", help="The text after the cursor.")] = "",
    max_tokens: Annotated[int, typer.Option("--max-tokens", help="The longest completion.", min=1)] = 64,
    temperature: Annotated[float, typer.Option("--temperature", help="0 is greedy.", min=0.0)] = 0.0,
    as_json: Json = False,
) -> None:
    """One completion, with its timings."""
    from serve.backends.opening import open_backend
    from serve.bundle import open_bundle
    from serve.completer import Completer
    from serve.engine.sampling import Sampling
    from serve.requests import CompletionRequest
    from toolchain.console import console, waiting
    from toolchain.contracts.tokenizer import clean
    from toolchain.workspace import named_artifact

    opened = open_bundle(named_artifact(bundle))
    with console() as progress:
        backend = open_backend(opened, None, progress)
    request = CompletionRequest(clean(prefix), clean(suffix), max_tokens=max_tokens, sampling=Sampling(temperature))
    with waiting("reading the prompt and completing it"):
        done = Completer(opened, backend).complete(request)
    cost = done.statistics
    timings = (
        f"{done.prompt_tokens} prompt tokens, first token after {cost.first_token_seconds * 1000:.0f} ms, "
        f"{cost.generated} tokens in {cost.seconds * 1000:.0f} ms, ended by {done.finish}"
    )
    print(timings, file=sys.stderr)
    facts = {"text": done.text, "finish": done.finish, "prompt_tokens": done.prompt_tokens, **vars(cost)}
    del facts["ending"]  # the engine's view; `finish` is the completion's
    show(as_json, facts, [done.text])


app.command("inspect")(inspect_command)
app.command("report")(report_command)
app.command("push")(push_command)
app.command("prune")(prune_command)
app.command("editor")(editor_command)
app.command("service")(service_command)


@app.command("demo")
def demo_command(
    sources: Annotated[list[str] | None, typer.Argument(help="Repositories; else Fimble's own code.")] = None,
    out: Annotated[Path, typer.Option("--out", help="The workspace.")] = Path(".fimble"),
    as_json: Json = False,
) -> None:
    """The whole road on this machine, ending with completions asked for as VS Code asks."""
    from toolchain.console import console
    from toolchain.demo import lines, run_demo

    with console() as progress:
        report = run_demo(sources or [], out, read_tables(), progress)
    show(as_json, report, lines(report))


def _tell_served(as_json: bool, url: str, bundle: Path, named: Path, facts: dict[str, Any]) -> None:
    from toolchain.editors import telling

    vscode = telling.vscode_settings(telling.served(url, named))
    told = {"bundle": str(bundle.resolve()), **facts, "url": url, "vscode": vscode}
    show(as_json, told, [f"bundle: {bundle}", *telling.short_lines(vscode, named, url)])
