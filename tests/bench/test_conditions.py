"""Clocks, temperature and energy from files laid out as Linux does; what is absent is None, never a guess."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_fer.bench.conditions import Ticks, clock_mhz, disturbance, energy_joules, look, temperature_c, ticks


def lay(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_clocks_come_from_cpufreq_and_otherwise_from_cpuinfo(tmp_path: Path) -> None:
    assert clock_mhz(tmp_path) is None
    lay(tmp_path, proc__cpuinfo="cpu MHz\t\t: 2600.0\nflags: x\ncpu MHz\t\t: 2400.0\n")
    assert clock_mhz(tmp_path) == 2500.0
    folder = "sys__devices__system__cpu__cpu{}__cpufreq__scaling_cur_freq"
    lay(tmp_path, **{folder.format(0): "1800000\n", folder.format(1): "2200000\n"})
    assert clock_mhz(tmp_path) == 2000.0


def test_the_hottest_sensor_of_the_processor_counts_and_no_disk_does(tmp_path: Path) -> None:
    assert temperature_c(tmp_path) is None
    lay(
        tmp_path,
        sys__class__hwmon__hwmon0__name="nvme\n",
        sys__class__hwmon__hwmon0__temp1_input="80000\n",
        sys__class__hwmon__hwmon1__name="coretemp\n",
        sys__class__hwmon__hwmon1__temp1_input="51000\n",
        sys__class__hwmon__hwmon1__temp2_input="55500\n",
        sys__class__hwmon__hwmon1__temp3_input="garbage\n",
    )
    assert temperature_c(tmp_path) == 55.5


def test_energy_adds_the_packages_but_not_their_parts_nor_the_platform_that_holds_them(tmp_path: Path) -> None:
    assert energy_joules(tmp_path) is None
    lay(
        tmp_path,
        **{
            "sys__class__powercap__intel-rapl:0__name": "package-0\n",
            "sys__class__powercap__intel-rapl:0__energy_uj": "1500000\n",
            "sys__class__powercap__intel-rapl:1__name": "package-1\n",
            "sys__class__powercap__intel-rapl:1__energy_uj": "500000\n",
            "sys__class__powercap__intel-rapl:0:0__name": "core\n",
            "sys__class__powercap__intel-rapl:0:0__energy_uj": "900000\n",
            "sys__class__powercap__intel-rapl:2__name": "psys\n",
            "sys__class__powercap__intel-rapl:2__energy_uj": "7000000\n",
        },
    )
    assert energy_joules(tmp_path) == 2.0


def test_what_others_took_is_what_we_did_not_use() -> None:
    before = Ticks(total=100, used=40, stolen=1, ours=10)
    after = Ticks(total=120, used=52, stolen=2, ours=18)
    found = disturbance(before, after)
    assert found is not None
    assert found.others == pytest.approx((12 - 8) / 20)
    assert found.stolen == pytest.approx(1 / 20)
    assert disturbance(None, after) is None
    assert disturbance(after, after) is None


def test_a_system_without_these_files_is_described_all_the_same(tmp_path: Path) -> None:
    assert ticks(tmp_path) is None
    assert look(("busy",), tmp_path).noise == ("busy",)


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="Linux only")
def test_this_machine_counts_its_time() -> None:
    first, second = ticks(), ticks()
    assert first is not None
    assert second is not None
    assert second.total >= first.total >= first.used
