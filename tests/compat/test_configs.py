"""Bases of configs found by their path, and configs formatted once."""

from pathlib import Path

import pytest
import yaml
from mmengine.config import Config, config

from swin_dense.engine.config.load import read_config
from swin_dense.errors import UserError
from swin_dense.packaged import config_names, external_config, find_config


@pytest.mark.parametrize(
    "base",
    [
        "mmdet::_base_/default_runtime.py",
        "mmdet::atss/atss_r50_fpn_1x_coco.py",
        "mmseg::_base_/models/upernet_swin.py",
        "mmseg::swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py",
    ],
)
def test_bases_are_the_files_that_mmengine_finds(base: str) -> None:
    path, scope = Config._get_cfg_path(base, "")
    theirs, their_scope = Config._get_cfg_path.__wrapped__(base, "")
    assert Path(path).samefile(theirs)
    assert scope == their_scope == base.partition("::")[0]


def test_missing_files_and_packages_are_reported_as_before() -> None:
    assert external_config("mmdet", "atss/none.py") is None
    assert external_config("no_such_package", "none.py") is None
    with pytest.raises(FileNotFoundError, match="none"):
        Config._get_cfg_path("mmdet::atss/none.py", "")


@pytest.mark.parametrize("suffix", ["", ".py"])
def test_own_configs_are_bases_by_name(tmp_path: Path, repo: Path, suffix: str) -> None:
    file = tmp_path / "mine.py"
    file.write_text(f"_base_ = ['swin_dense::upernet_swin_t_ade20k{suffix}']\nmine = 1\n")
    mine = Config.fromfile(file).to_dict()
    assert mine.pop("mine") == 1
    assert mine == Config.fromfile(repo / "configs" / "upernet_swin_t_ade20k.py").to_dict()


def test_unknown_names_suggest_close_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such config: cascade_swin_tt_coco; did you mean casc"):
        find_config("cascade_swin_tt_coco")
    file = tmp_path / "mine.py"
    file.write_text("_base_ = 'swin_dense::upernet_swin_t_ade'\n")
    with pytest.raises(UserError, match="did you mean upernet_swin_t_ade20k"):
        Config.fromfile(file)
    assert "upernet_swin_nano_shapes" in config_names()


def test_formatted_text_is_kept() -> None:
    if not hasattr(config, "FormatCode"):
        pytest.skip("this mmengine formats no configs by yapf")
    format_code = config.FormatCode
    first = format_code("a = 1 ;b=2\n", style_config={"based_on_style": "pep8"})
    assert first == format_code.__wrapped__("a = 1 ;b=2\n", style_config="pep8")
    assert format_code("a = 1 ;b=2\n", style_config={"based_on_style": "pep8"}) is first
    other = format_code("a = 1 ;b=3\n", style_config={"based_on_style": "pep8"})
    assert other[0] != first[0]


EVIL = "a: !!python/object/apply:os.system ['touch {mark}']\n"


@pytest.mark.parametrize("inherited", [False, True])
def test_yaml_is_data(tmp_path: Path, inherited: bool) -> None:
    mark, evil, child = tmp_path / "mark", tmp_path / "evil.yaml", tmp_path / "child.py"
    evil.write_text(EVIL.format(mark=mark))
    child.write_text("_base_ = './evil.yaml'\n")
    with pytest.raises(yaml.YAMLError):
        Config.fromfile(child if inherited else evil)
    with pytest.raises(UserError, match="is not plain YAML: could not determine") as error:
        read_config(child if inherited else evil)
    assert "\n" not in str(error.value)
    assert not mark.exists()


BOMB = "\n".join(
    ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}, *a{i - 1}]" for i in range(1, 30))]
)


@pytest.mark.parametrize("text", [BOMB, "a: &a [1, *a]", "a: &a {b: *a}"])
def test_yaml_that_would_not_end_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(yaml.YAMLError, match="more than 1,000,000"):
        Config.fromfile(tmp_path / "c.yaml")


def test_yaml_and_json_that_mmengine_writes(tmp_path: Path) -> None:
    cfg = Config({"model": {"depths": (2, 2), "rate": 0.5, "names": ["a", None]}, "on": True})
    for name, depths in (("c.yaml", (2, 2)), ("c.json", [2, 2])):
        cfg.dump(tmp_path / name)
        expected = {"model": {"depths": depths, "rate": 0.5, "names": ["a", None]}, "on": True}
        assert read_config(tmp_path / name).to_dict() == expected
