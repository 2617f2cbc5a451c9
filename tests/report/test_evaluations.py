"""Which runs of the benchmark rate alike, so that their models may be of one recipe: users, judges, settings."""

import json

from aloe_jax.benchmark.results import load_results
from aloe_jax.llm.world import VERSION
from aloe_jax.report.gathering import Run, _evaluation, unlike
from tests.benchmark.rated_runs import write_run


def changed(results, **more):
    return results.model_copy(update=more)


def both(one, other):
    return _evaluation(one) == _evaluation(other), unlike([Run("a", one), Run("b", other)])


def test_users_of_another_simulated_world_are_other_users(tmp_path):
    write_run(tmp_path)
    now = load_results(tmp_path)
    assert now.providers["user"] == f"scripted/world {VERSION}"
    before = changed(now, providers={**now.providers, "user": "scripted"})  # as earlier versions stored it
    same, said = both(before, now)
    assert not same and said == [f"users: scripted in a; scripted/world {VERSION} in b"]
    assert both(now, now) == (True, [])


def test_settings_of_named_judges_are_compared(tmp_path):
    write_run(tmp_path)
    now = load_results(tmp_path)

    def judged(**role):
        settings = json.loads(json.dumps(now.settings))
        settings["judging"]["judges"] = {"strict": {"provider": "genai", "model": "g", "price": None} | role}
        return changed(now, settings=settings)

    same, said = both(judged(temperature=0.0), judged(temperature=1.0))
    assert not same and said == ["settings of judges: strict temperature 0.0 in a; strict temperature 1.0 in b"]
    same, said = both(judged(thinking_budget=0), judged(thinking_budget=100))
    assert not same and "thinking budget 100" in said[0]
    assert both(judged(temperature=0.0), judged(temperature=0.0, price={"input": 1, "output": 1})) == (True, [])
