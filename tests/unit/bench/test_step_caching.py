"""The step cache's benchmarks, from the table of the bundled model's pictures to the chart."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from bench import step_cache as times
from bench.quality import step_cache as quality
from bench.quality import step_cache_chart as chart
from pipeline import TINY_CHECKPOINT, StepCache, ZImagePipeline


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def table(folder: Path) -> dict[str, Any]:
    """What two runs come to, the second of which goes on from the first."""
    files = ["--rows", f"{folder}/rows.jsonl", "--out", f"{folder}/quality.json"]
    with pytest.MonkeyPatch.context() as patch:
        for prompts in ("2", "3"):
            patch.setattr("sys.argv", ["bench", "--device", "cpu", "--sweep", "1", "--prompts", prompts, *files])
            quality.main()
    found: dict[str, Any] = json.loads((folder / "quality.json").read_text())
    return found


def test_a_run_goes_on_where_the_last_one_ended(folder: Path, table: dict[str, Any]) -> None:
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    assert [len(row) for row in rows] == [len(quality.NAMED) + len(quality.SWEEP), *2 * [len(quality.NAMED)]]
    assert table["prompts"] == 3
    assert table["settings"]["fast"]["prompts"] == 3
    assert table["settings"]["R0.6 MC3 O1"]["prompts"] == 1


def test_rows_of_other_settings_are_not_gone_on_with(
    folder: Path, table: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quality, "SWEEP", {})
    with pytest.raises(SystemExit, match=r"rows\.jsonl is of other settings; remove it"):
        quality.read_rows(folder / "rows.jsonl")


def test_the_table_tells_what_each_setting_skips_and_how_near_its_pictures_stay(table: dict[str, Any]) -> None:
    assert table["settings"]["off"]["patterns"] == {"11111111": 3}
    assert table["settings"]["off"]["layers"] == 8 * 7
    mask = table["settings"]["mask 11101001"]
    assert mask["patterns"] == {"11101001": 3}
    assert mask["layers"] == 8 * 7 - 3 * 6
    for name, entry in table["settings"].items():
        if name != "off":
            assert 20 < entry["psnr_db_median"] < 70
            assert 0.9 < entry["ssim_mean"] < 1
            assert abs(entry["adherence"]["all"]["points"]) <= 100
    # Forecasts and fewer skips keep pictures nearer.
    assert table["settings"]["quality"]["psnr_db_median"] > table["settings"]["R0.6 MC3 O1"]["psnr_db_median"]


def test_likeness_is_none_in_decibels_for_the_same_picture() -> None:
    picture = torch.randint(255, (32, 32, 3), dtype=torch.uint8)
    assert quality.likeness(picture, picture) == {"psnr": None, "ssim": pytest.approx(1)}
    other = picture.int().add(1).to(torch.uint8)
    assert quality.likeness(picture, other)["psnr"] == pytest.approx(48.13, abs=0.01)


def test_the_chart_shows_each_setting_s_quality_against_the_time_of_its_pattern(
    folder: Path, table: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(times, "LOAD_SECONDS", 0.0)
    pipeline = ZImagePipeline.from_pretrained(TINY_CHECKPOINT, "cpu", torch.float32)
    settings = {**times.ALWAYS, **times.most_frequent(table["settings"])}
    pattern = next(iter(table["settings"]["fast"]["patterns"]))
    assert settings["fast"] == StepCache(1, 0, 1, 0.4, 2, pattern, 1, protect_last=True)

    figures = times.compare(pipeline, settings, 64, repeats=2)

    assert list(figures["settings"]) == [*times.ALWAYS, *(name for name in settings if name not in times.ALWAYS)]
    assert figures["settings"]["fast"]["steps_skipped"] == pattern.count("0") > 0
    assert figures["settings"]["off"]["denoise_by_off"] == 1
    (folder / "times.json").write_text(json.dumps({"size": 64, "device": "CPU", "none": figures, "fp8": figures}))
    png = folder / "chart.png"
    files = ["--quality", f"{folder}/quality.json", "--times", f"{folder}/times.json", "--out", str(png)]
    monkeypatch.setattr("sys.argv", ["bench", *files])
    chart.main()
    with Image.open(png) as image:
        assert image.width > image.height > 400

    (folder / "times.json").unlink()
    with pytest.raises(SystemExit, match=r"--times: there is no .*times\.json"):
        chart.main()
