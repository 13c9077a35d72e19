"""Packs exactly two packages: tte_runtime, and tte_kernels out of kernels/. Tools are configured in pyproject.toml.

Runs nothing of the project: no device is looked for, nothing is compiled. `kernels/` itself must never become a
package: transformers imports one of that name (tests/test_import_hygiene.py holds the rule).
"""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
FOUND = re.search(r'^__version__ = "(.+)"$', (ROOT / "tte_runtime" / "__init__.py").read_text("utf-8"), re.MULTILINE)
assert FOUND, 'tte_runtime/__init__.py must hold a line __version__ = "..."'

TRAIN = ["accelerate>=1.10", "peft>=0.18", "sentence-transformers>=5.4"]
MEDIA = ["av>=14", "pypdfium2>=4.30"]
MMEB = ["pyarrow>=17"]
REMOTE = ["openai>=1.60"]
BENCH = ["matplotlib>=3.9", "pytest-benchmark>=5.1"]
GGUF = ["accelerate>=1.10", "gguf>=0.10"]  # what transformers' own reader asks for
TEST = ["build>=1.2", "hypothesis>=6.100", "pytest>=8.4", "pytest-xdist>=3.6"]
LINT = ["mypy>=1.18", "ruff>=0.14"]

setup(
    name="tte-runtime",
    version=FOUND[1],
    description="Think, then embed, in one pass: latency-first inference for multimodal embedding models that reason",
    long_description=(ROOT / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0 AND CC-BY-4.0",  # the pictures in tte_runtime/scenes are CC-BY, see their ATTRIBUTION.md
    license_files=["LICENSE", "tte_runtime/scenes/pictures/ATTRIBUTION.md"],
    python_requires=">=3.11",
    packages=find_packages(include=["tte_runtime", "tte_runtime.*"])
    + find_packages("kernels", include=["tte_kernels", "tte_kernels.*"]),
    package_dir={"tte_kernels": "kernels/tte_kernels"},
    package_data={"tte_runtime": ["py.typed", "checkpoints/**/*", "scenes/pictures/*", "demo/templates/*"]},
    install_requires=[
        "click>=8.1",
        "jinja2>=3.1",
        "numba>=0.61",
        "numpy>=1.26",
        "pillow>=10",
        "safetensors>=0.5",
        "torch>=2.11",
        "tqdm>=4.66",
        "transformers>=5.10.1",
        'triton>=3.6; platform_system == "Linux"',
    ],
    extras_require={
        "train": TRAIN,
        "remote": REMOTE,
        "gguf": GGUF,
        "mmeb": MMEB,
        "video": MEDIA[:1],
        "pdf": MEDIA[1:],
        "flash-attn": ["flash-attn>=2.8"],
        "xformers": ["xformers"],
        "dev": TRAIN + REMOTE + GGUF + MMEB + MEDIA + BENCH + LINT + TEST,
    },
    entry_points={"console_scripts": ["tte=tte_runtime.cli:main"]},
)
