"""Fixtures of tests with a node that may be killed, and a store that does as it is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from crash.faulty_store import FaultyStore
from crash.killable import Killable


@pytest.fixture
def store() -> Iterator[FaultyStore]:
    store = FaultyStore()
    yield store
    store.close()


@pytest.fixture
def node(tmp_path: Path, store: FaultyStore) -> Iterator[Killable]:
    node = Killable(tmp_path / "node", store.url)
    node.start()
    yield node
    node.close()
