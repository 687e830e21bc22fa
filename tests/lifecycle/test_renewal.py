"""Clones of one snapshot never draw the same, from whatever source of randomness."""

from concurrent.futures import ThreadPoolExecutor

CLONES = 50


def test_no_repeat_in_fifty_clones(node, handlers, tmp_path):
    clones = CLONES if node.isolation == "kvm" else 8  # a process is no clone: it starts anew
    (tmp_path / "requirements.txt").write_text("numpy==2.4.6\n")
    node.deploy(
        "renewal",
        handlers / "renewal.py",
        memory_mib=256,
        max_instances=clones,
        timeout_s=60,
        requirements=tmp_path / "requirements.txt",
    )
    with ThreadPoolExecutor(clones) as pool:
        drawn = [payload for payload, _ in pool.map(lambda _: node.invoke("renewal", {"hold_s": 4}), range(clones))]
    assert all("unique" in one for one in drawn), drawn
    fresh = [one for one in drawn if one["calls"] == 1]
    assert len(fresh) >= clones * 0.8, "too few instances ran at once to say anything"
    assert "numpy generator" in fresh[0]["unique"]
    for name in fresh[0]["unique"]:
        values = [one["unique"][name] for one in drawn]
        assert len(set(values)) == len(values), f"{name} repeats"
    for name in fresh[0]["same"]:
        assert len({one["same"][name] for one in fresh}) == 1, f"{name} was seeded, and differs"


def test_nothing_repeats_from_one_cold_start_to_the_next(node, handlers):
    node.deploy("renewal-cold", handlers / "renewal.py", memory_mib=256, max_instances=1)
    drawn = []
    for _ in range(5):
        payload, _ = node.invoke("renewal-cold", {})
        assert payload["calls"] == 1
        drawn.append(payload["unique"])
        assert node.admin("POST", "/nexus/v1/functions/renewal-cold/evict")[0] == 200
    for name in drawn[0]:
        values = [one[name] for one in drawn]
        assert len(set(values)) == len(values), f"{name} repeats"
