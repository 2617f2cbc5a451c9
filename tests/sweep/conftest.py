import json

import pytest


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A directory with configs, data and a tokenizer."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tok").mkdir()
    (tmp_path / "trees.jsonl").write_text("{}")
    people = [json.dumps({"id": f"p{i}", "profile": f"Has {i} goats.", "personality": "Calm."}) for i in range(4)]
    (tmp_path / "people.jsonl").write_text("\n".join(people))
    sft = {"stage": "sft", "output": "o", "seed": 7, "steps": 4}
    sft |= {"model": {"tokenizer": "tok"}, "data": {"path": "trees.jsonl"}}
    dpo = {"stage": "dpo", "output": "o", "steps": 4, "model": {"path": "nowhere"}, "data": {"path": "trees.jsonl"}}
    models = {"low": {"scripted": "generic"}, "sft": {"path": "x"}, "dpo": {"path": "y"}}
    evaluate = {"output": "o", "personas": "people.jsonl", "models": models, "cases": 4, "turns": 3}
    evaluate |= {"roles": {"provider": "scripted"}, "judging": {"pairs": [["sft", "dpo"]]}}
    rl = {"stage": "rl", "output": "o", "steps": 5, "model": {"path": "tok"}, "data": {"rows": 16, "row_length": 1280}}
    rl |= {"rl": {"personas": "people.jsonl", "conversations": 2, "heldout": 2}, "roles": {"provider": "scripted"}}
    for name, values in {"sft": sft, "dpo": dpo, "evaluate": evaluate, "rl": rl}.items():
        (tmp_path / f"{name}.yaml").write_text(json.dumps(values))  # JSON is YAML
    return tmp_path
