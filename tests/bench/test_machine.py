"""Instruction sets from the text that Linux gives: x86 and Arm, written down here, and odd texts."""

from __future__ import annotations

import pytest

from edge_fer.bench.device import FLAGS, cpuinfo_flags, isa_of

SAPPHIRE_RAPIDS = """processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz
flags\t\t: fpu sse2 avx avx2 fma f16c avx512f avx512_vnni avx_vnni avx512_bf16 avx512_fp16 amx_bf16 amx_tile amx_int8
bugs\t\t: spectre_v1

processor\t: 1
flags\t\t: fpu
"""

WHISKEY_LAKE = """processor\t: 0
model name\t: Intel(R) Core(TM) i5-8265U CPU @ 1.60GHz
flags\t\t: fpu sse4_2 avx avx2 fma f16c
"""

NEOVERSE_V1 = """processor\t: 0
BogoMIPS\t: 2100.00
Features\t: fp asimd asimdhp asimddp sve i8mm bf16
CPU implementer\t: 0x41
CPU part\t: 0xd40
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            SAPPHIRE_RAPIDS,
            {
                "AVX2",
                "F16C",
                "AVX512F",
                "AVX512-VNNI",
                "AVX-VNNI",
                "AVX512-BF16",
                "AVX512-FP16",
                "AMX-INT8",
                "AMX-BF16",
            },
        ),
        (WHISKEY_LAKE, {"AVX2", "F16C"}),
        (NEOVERSE_V1, {"NEON", "NEON-FP16", "NEON-DOTPROD", "NEON-I8MM", "NEON-BF16", "SVE"}),
        ("", set()),
        ("processor\t: 0\nBogoMIPS\t: 108.00\n", set()),
        ("flags\t\t: avx avx21 xavx2\n", set()),
    ],
)
def test_linux_tells_the_instruction_sets(text: str, expected: set[str]) -> None:
    assert set(isa_of(cpuinfo_flags(text))) == expected


def test_they_come_in_one_order_whatever_the_kernel_prints_first() -> None:
    flags = sorted(FLAGS, reverse=True)
    assert isa_of(cpuinfo_flags(f"flags : {' '.join(flags)}")) == tuple(FLAGS.values())
