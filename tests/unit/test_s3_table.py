"""The host's table of S3's operations is what the pinned botocore says."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(shutil.which("rustfmt") is None, reason="rustfmt is missing: it lays the table out")
def test_the_table_is_up_to_date():
    made = subprocess.run([sys.executable, ROOT / "tools/s3_table.py"], capture_output=True, text=True, check=True, timeout=60)
    table = ROOT / "crates/nexus-backend/src/operation/s3_table.rs"
    assert made.stdout == table.read_text(), "run the command that tools/s3_table.py names"
