"""Reading a config file, and changing it by dotted keys."""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import yaml
from mmengine.config import Config, DictAction
from mmengine.runner import Runner

from swin_dense import config_tree
from swin_dense.errors import UserError
from swin_dense.packaged import close_names, config_names, find_config

# What a runner reads from a config, so that these may be set where the config does not.
RUNNER_KEYS = set(signature(Runner.__init__).parameters) - {"self", "cfg"}
RUNNER_KEYS |= {"activation_checkpointing", "compile", "compile_backbone", "custom_imports"}
RUNNER_KEYS |= {
    "skip_bad_images",
    "data_root",
    "find_unused_parameters",
    "model_wrapper_cfg",
    "sync_bn",
}
RUNNER_KEYS |= {"tta_model", "tta_pipeline"}
_SPACE = "\x1f"  # stands for a space where mmengine would remove it


def read_config(path: str | Path) -> Config:
    """Reads a config file, or a config of this package by its name.

    Raises:
        UserError: there is no such file, or it, or a file it inherits from, cannot be read.
    """
    path = find_file(path)
    if path.suffix not in (".py", ".json", ".yaml", ".yml"):
        raise UserError(f"{path} is not a config: expected a .py, .json or .yaml file")
    try:
        cfg = Config.fromfile(path)
        if path.suffix != ".py":
            _restore_tuples(cfg._cfg_dict)
        return cfg
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{path} inherits from a file that is missing: {error}") from error
    except SyntaxError as error:
        raise UserError(f"{path} is not valid Python: line {error.lineno}: {error.msg}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not plain YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise UserError(f"{path} inherits from itself: correct its _base_") from error
    except (Exception, SystemExit) as error:  # a config is a program, and may raise anything
        text = f"{type(error).__name__}: {error}".removesuffix(": ")
        raise UserError(f"{path} cannot be read: {text}") from error


def bases_of(path: str | Path) -> Iterator[Path]:
    """Yield the file of a config and those that it inherits from, the nearest first."""
    pending = [Path(path)]
    while pending:
        file = pending.pop(0)
        yield file
        bases = Config._get_base_files(str(file))
        pending += [Path(Config._get_cfg_path(base, str(file))[0]) for base in bases]


def _restore_tuples(cfg: Any) -> None:
    """Makes tuples of sizes in pipelines: JSON and YAML have lists, which mmcv does not take."""
    for pipeline in config_tree.pipelines(cfg):
        for step in config_tree.steps(pipeline):
            for key, value in step.items():
                step[key] = _as_sizes(value)


def _as_sizes(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    if value and all(type(one) in (int, float) for one in value):
        return tuple(value)
    return [_as_sizes(one) for one in value]


def parse_options(items: Iterable[str]) -> dict[str, Any]:
    """The values of ``--cfg-options key=value ...``, read as OpenMMLab's tools do.

    Raises:
        UserError: brackets do not match.
    """
    options = {}
    for item in items:
        key, _, value = item.partition("=")
        try:
            options[key] = _parse_value(value)
        except AssertionError as error:
            raise UserError(f"--cfg-options: brackets do not match in {item!r}") from error
    return options


def _parse_value(text: str) -> Any:
    """As mmengine reads it, but spaces inside of strings stay."""
    text = text.strip("'\" ")
    if not text.startswith(("(", "[")) and "," not in text:
        return DictAction._parse_int_float_bool(text)
    marked = re.sub(r" *([\[\](),]) *", r"\1", text).replace(" ", _SPACE)
    return _restore_spaces(DictAction._parse_iterable(marked))


def _restore_spaces(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(map(_restore_spaces, value))
    return value.replace(_SPACE, " ") if isinstance(value, str) else value


def merge_options(cfg: Config, options: Mapping[str, Any]) -> None:
    """Sets dotted keys of ``cfg``, as mmengine does, but refuses keys that look misspelt.

    Raises:
        UserError: a key resembles an existing one but is not it, or goes through a value that is
            not a dictionary or list.
    """
    for key in options:
        _check_key(cfg, key)
        if key.startswith("vis_backends"):  # a variable of configs, which nothing reads
            raise UserError(
                f"--cfg-options {key}: set visualizer.vis_backends, or use --tensorboard or --wandb"
            )
    try:
        cfg.merge_from_dict(dict(options))
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        text = str(error.args[0] if error.args else error)
        raise UserError(f"--cfg-options {' '.join(options)}: {text}") from error


def _check_key(cfg: Config, key: str) -> None:
    """Follows a dotted key through ``cfg`` up to where it stops existing.

    A new name at the end of a key may be an argument that the config leaves at its default. On the
    way to the end and at the top level, one that resembles an existing name is a misspelling.
    """
    node: Any = cfg._cfg_dict
    names = key.split(".")
    for depth, name in enumerate(names):
        parent = ".".join(names[:depth])
        if isinstance(node, (list, tuple)):
            if not name.isdigit() or int(name) >= len(node):
                raise UserError(f"--cfg-options {key}: {parent} is a list of {len(node)}")
            node = node[int(name)]
        elif not isinstance(node, Mapping):
            raise UserError(f"--cfg-options {key}: {parent} is {node!r}, it has no {name!r}")
        elif name in node:
            node = node[name]
        else:
            known = {*map(str, node), *(() if depth else RUNNER_KEYS)}
            is_argument = 0 < depth == len(names) - 1
            close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.75)
            if close and not is_argument and name not in known:
                raise UserError(
                    f"--cfg-options {key}: no {name!r} in the config; did you mean {close[0]!r}?"
                )
            return


def find_file(config: str | Path) -> Path:
    """The file that is meant by a path, or by the name of one of this package's configs.

    Raises:
        UserError: there is none; the message has files or names that are close to it.
    """
    path = Path(config)
    if path.is_file():
        return path
    if path.name == str(config) and path.name.removesuffix(".py") in config_names():
        return find_config(path.name)
    names = {p.name: p for p in path.parent.glob("*.py")}
    close = difflib.get_close_matches(path.with_suffix(".py").name, names, n=1)
    hint = f"; did you mean {names[close[0]]}?" if close else close_names(path.name)
    raise UserError(f"no such config: {path}{hint}")
