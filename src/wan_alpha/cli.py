"""The command line: a verb is a config class and a function of it. Results go to stdout, errors to stderr in one line.

Flags are the config's fields, with underscores or hyphens; their help is the field's docstring. The function is imported when
it is called, because torch and diffusers take seconds and a misspelt flag should not wait for them.
"""

import argparse
import contextlib
import dataclasses
import inspect
import io
import json
import logging
import os
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module

from wan_alpha import __version__, config, console, recipes
from wan_alpha.config.common import VerbConfig
from wan_alpha.errors import UsageError, WanAlphaError, did_you_mean, one_line
from wan_alpha.geometry import PIXEL_MULTIPLE, ClipSize
from wan_alpha.malloc import ask_for_huge_pages
from wan_alpha.run_record import config_as_json

USAGE_EXIT, INTERRUPT_EXIT, BROKEN_PIPE_EXIT = 2, 130, 141


@dataclass(frozen=True, kw_only=True)
class Verb:
    """A stage or a tool: its config class, `module:function`, and the field that words before the first flag fill."""

    config: type[VerbConfig]
    function: str
    words: str | None = None


STAGES = {
    "doctor": Verb(config=config.DoctorConfig, function="wan_alpha.doctor:doctor", words="source"),
    "prepare": Verb(config=config.PrepareConfig, function="wan_alpha.prepare:prepare", words="source"),
    "train-vae": Verb(config=config.TrainVaeConfig, function="wan_alpha.train.vae:train"),
    "cache": Verb(config=config.CacheConfig, function="wan_alpha.cache:cache"),
    "train-dit": Verb(config=config.TrainDitConfig, function="wan_alpha.train.dit:train"),
    "generate": Verb(config=config.GenerateConfig, function="wan_alpha.generate:generate", words="prompt"),
    "export": Verb(config=config.ExportConfig, function="wan_alpha.export:export", words="source"),
    "evaluate": Verb(config=config.EvaluateConfig, function="wan_alpha.evaluate:evaluate"),
}
"""In their order; a recipe has a configuration of each."""
TOOLS = {
    "preview": Verb(config=config.PreviewConfig, function="wan_alpha.sheet:preview", words="source"),
    "convert": Verb(config=config.ConvertConfig, function="wan_alpha.convert.run:convert", words="source"),
    "inspect": Verb(config=config.InspectConfig, function="wan_alpha.inspect_file:inspect", words="source"),
}
VERBS = {**STAGES, **TOOLS}

SEED_SWITCHES = {"rgba_mode": [], "use_dora": ["--adapter", "dora"]}
"""Bare switches of the seed's Stage-2 command -> what they are here. RGBA is what this project does, always."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 for a doctor's findings or clips left out of an export, 2 for an error
    that names its cure, 130 when interrupted.
    """
    tokens = list(sys.argv[1:] if argv is None else argv)
    console.open_stderr()
    try:
        lines, exit_code = _dispatch(tokens)
        return _print(lines) or exit_code
    except (WanAlphaError, OSError) as error:
        if "--debug" in tokens:
            console.say(traceback.format_exc())
        cure = "; check the path, its permissions and the free space" if isinstance(error, OSError) else ""
        console.say(f"error: {error}{cure}")
        return USAGE_EXIT
    except MemoryError as error:
        console.say(f"error: out of memory ({error or 'no more is said'}); ask for a smaller size, or use fewer --num_workers")
        return USAGE_EXIT
    except KeyboardInterrupt:
        console.say("interrupted")
        return INTERRUPT_EXIT


def _dispatch(tokens: list[str]) -> tuple[list[str], int]:
    """The lines that a command prints at its end, and its exit code: the result's own, where it has one, else 0."""
    name, rest = (tokens[0], tokens[1:]) if tokens else ("--help", [])
    if name in ("-h", "--help", "help"):
        return _overview(), 0
    if name == "--version":
        return [f"wan-alpha {__version__}"], 0
    if name == "recipes":
        return _list_recipes(rest), 0
    if name not in VERBS:
        raise UsageError(f"unknown command {name!r}", do=did_you_mean(name, [*VERBS, "recipes"]))
    return _run(name, rest)


def _run(name: str, tokens: list[str]) -> tuple[list[str], int]:
    verb, (options, rest) = VERBS[name], _take_options(tokens)
    if {"-h", "--help"} & set(rest):
        return [_help(name)], 0
    default = _default(name, recipe=options.recipe)
    resolved = parse_config(name, default, rest)
    _check_size(resolved)
    if options.dry_run:
        return [json.dumps(config_as_json(resolved), indent=2, ensure_ascii=False)], 0
    first_process = os.environ.get("RANK", "0") == "0"
    _configure_console(logging.DEBUG if options.debug else logging.INFO if first_process else logging.WARNING)
    if getattr(resolved, "memory_forecast", "none") == "log":
        ask_for_huge_pages()
    module, function = verb.function.split(":")
    result = getattr(import_module(module), function)(resolved)
    for picture in getattr(result, "pictures", ()):
        console.show_picture(picture)
    return [one_line(line) for line in _result_lines(result)] if first_process else [], getattr(result, "exit_code", 0)


def _default(name: str, *, recipe: str | None) -> VerbConfig:
    """What the flags change: the recipe's configuration of this verb, or its defaults."""
    if recipe is None:
        return VERBS[name].config()
    found = getattr(recipes.get_recipe(recipe), name.replace("-", "_"), None)
    if found is None:
        raise UsageError(f"{name} --recipe {recipe}", got="a recipe", expected="none: it is no stage", do=f"wan-alpha {name} --help")
    return found


def _take_options(tokens: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """What every verb has beside its config: recipe, dry_run, debug. Then the rest, in its order."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--recipe")
    parser.add_argument("--dry-run", "--dry_run", action="store_true")
    parser.add_argument("--debug", action="store_true")
    try:
        return parser.parse_known_args(tokens)
    except argparse.ArgumentError:
        raise UsageError("--recipe", got="no name", do=did_you_mean("", list(recipes.RECIPES))) from None


def parse_config(name: str, default: VerbConfig, tokens: list[str]) -> VerbConfig:
    """The default with the command line's flags on top; UsageError, in one line, for anything that does not fit."""
    words = VERBS[name].words
    if tokens and not tokens[0].startswith("-"):
        if words is None:
            raise UsageError(f"{name}: {tokens[0]!r} belongs to no flag", do=f"wan-alpha {name} --help")
        tokens = [f"--{words}", *tokens]
    tokens = _translate_seed_switches(tokens) if name == "train-dit" else tokens
    known = _flags(default)
    for token in tokens:
        flag = token.partition("=")[0].removeprefix("--").replace("-", "_")
        if token.startswith("--") and flag not in known:
            raise UsageError(f"{name}: unknown flag --{flag}", do=_suggest_flag(name, flag, known))
    return _tyro(name, default, tokens)


def _translate_seed_switches(tokens: list[str]) -> list[str]:
    translated: list[str] = []
    for token in tokens:
        switch = token.removeprefix("--").replace("-", "_") if token.startswith("--") else ""
        translated += SEED_SWITCHES.get(switch, [token])
    return translated


def _flags(default: VerbConfig) -> list[str]:
    """Field names; a switch also has its opposite, no_NAME."""
    fields = dataclasses.fields(default)
    return [f.name for f in fields] + [f"no_{f.name}" for f in fields if f.type is bool]


def _suggest_flag(name: str, flag: str, known: list[str]) -> str:
    hint, _, _ = did_you_mean(flag, known).partition("known: ")
    return f"{hint.replace(chr(39), '').replace('did you mean ', 'did you mean --')}wan-alpha {name} --help lists all"


def _help(name: str) -> str:
    """tyro prints a verb's help and leaves; here it comes back as text."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        _tyro(name, VERBS[name].config(), ["--help"])
    return out.getvalue().rstrip()


def _tyro(name: str, default: VerbConfig, tokens: list[str]) -> VerbConfig:
    """Parse with tyro; its boxed errors become one UsageError."""
    import tyro

    boxed = io.StringIO()
    prog, description = f"wan-alpha {name}", _description(name)
    try:
        with contextlib.redirect_stderr(boxed):
            return tyro.cli(type(default), default=default, args=tokens, prog=prog, description=description, use_underscores=True)
    except SystemExit as stop:
        if stop.code:
            raise UsageError(f"{name}: {_one_line(boxed.getvalue())}", do=f"wan-alpha {name} --help") from None
        raise


def _description(name: str) -> str:
    verb = VERBS[name]
    usage = f"wan-alpha {name}{f' [{verb.words.upper()} ...]' if verb.words else ''} [--recipe NAME] [--dry_run] [--debug] [OPTIONS]"
    return "\n\n".join(
        [
            inspect.getdoc(verb.config) or "",
            usage,
            f"--recipe: start from a complete configuration ({', '.join(recipes.RECIPES)}) in place of the defaults shown here. "
            "--dry_run: print the resolved configuration as JSON and stop. --debug: full tracebacks and more log.",
        ]
    )


def _one_line(boxed: str) -> str:
    """The message of tyro's error panel: what stands after its title and before the rule that closes the message."""
    rows = [stripped for row in boxed.splitlines() if (stripped := row.strip(" │╭╮╰╯├┤"))]
    is_rule = [not row.strip("-─") for row in rows]
    start = 2 if is_rule[1:2] == [True] else 1
    end = is_rule.index(True, start) if True in is_rule[start:] else len(rows)
    return " ".join(rows[start:end]).rstrip(".")


def _check_size(resolved: VerbConfig) -> None:
    """A size that no stage can use stops here, before seconds of imports."""
    if hasattr(resolved, "num_frames"):
        height, width = (getattr(resolved, side, PIXEL_MULTIPLE) for side in ("height", "width"))
        ClipSize(num_frames=resolved.num_frames, height=height, width=width)


def _configure_console(level: int) -> None:
    """Log to stderr, drawn by rich on a terminal and as plain lines elsewhere; show progress unless another process does."""
    handler: logging.Handler = logging.StreamHandler(console.lasting_stderr())
    pattern = "%(asctime)s %(levelname)s %(message)s"
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.logging import RichHandler

        handler, pattern = RichHandler(console=Console(file=console.lasting_stderr()), show_path=False), "%(message)s"
    handler.setFormatter(console.LineFormatter(pattern, "%H:%M:%S"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("wan_alpha").setLevel(level)
    if level <= logging.INFO:
        console.install_progress()


def _overview() -> list[str]:
    docs = {name: (inspect.getdoc(verb.config) or "").partition(": ")[2] for name, verb in VERBS.items()}
    numbers = {name: f"{number}." for number, name in enumerate(STAGES, 1)}
    return [
        f"wan-alpha {__version__}: text to video with a transparent background. The stages, in order:",
        "",
        *(f"  {numbers[name]} {name:<10} {docs[name]}" for name in STAGES),
        "",
        "Tools beside them:",
        "",
        *(f"     {name:<10} {docs[name]}" for name in TOOLS),
        "",
        "  wan-alpha STAGE --help       flags of a stage",
        "  wan-alpha STAGE --recipe R   start from a complete configuration; --dry_run prints it",
        "  wan-alpha recipes [R]        the recipes, or the whole story of one",
        "  wan-alpha --version",
    ]


def _list_recipes(names: list[str]) -> list[str]:
    """One line per recipe, or the whole docstring of those named."""
    if names:
        return [inspect.getdoc(recipes.find(name)) or "" for name in names]
    return [f"{name:<14} {(inspect.getdoc(make) or '').splitlines()[0]}" for name, make in recipes.RECIPES.items()]


def _result_lines(result: object) -> Iterable[str]:
    """What a verb returned, shortly: a report's summary, a table, paths, or nothing."""
    summary = getattr(result, "summary", None)
    if summary is not None:
        yield from _result_lines(summary() if callable(summary) else summary)
    elif isinstance(result, Mapping):
        yield from (f"{key}: {f'{value:.4g}' if isinstance(value, float) else value}" for key, value in result.items())
    elif isinstance(result, (list, tuple)):
        for item in result:
            yield from _result_lines(item)
    elif result is not None:
        yield str(result)


def _print(lines: list[str]) -> int:
    """Print; a reader that left early (`| head`, a closed terminal) is no error worth a traceback. UsageError where nothing fits."""
    if sys.stdout is None:
        if lines:
            raise _not_printed("a closed one")
        return 0
    encoding = sys.stdout.encoding or "utf-8"
    text = "".join(f"{line}\n" for line in lines).encode(encoding, "backslashreplace").decode(encoding)
    try:
        left = console.reader_left(lambda: print(text, end="", flush=True))
    except OSError as error:
        console.mute(sys.stdout)
        raise _not_printed(error.strerror) from error
    if left:
        console.mute(sys.stdout)
    return BROKEN_PIPE_EXIT if left else 0


def _not_printed(got: str | None) -> UsageError:
    do = "send it elsewhere; files that the command wrote are whole"
    return UsageError("standard output", got=got, expected="a place for the result", do=do)
